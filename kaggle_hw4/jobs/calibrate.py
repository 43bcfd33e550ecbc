"""What a variant costs on this machine: a few real training steps, timed, before anything is planned."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, first_line
from kaggle_hw4.inference import BATCH_TOKENS, predict
from kaggle_hw4.machine import give_back_memory, memory_errors
from kaggle_hw4.recipe import Variant
from kaggle_hw4.training.capture import can_compile
from kaggle_hw4.training.trainer import Trainer

_TIMED_STEPS = 3  # at least: every length of crops comes as often as the others
_GPU_ROUNDS = 3  # of them, the fastest of which counts: in another a graph may be captured for a batch with padding
_TIMED_BATCHES = 2  # of whole utterances
_USABLE = 0.85  # of a GPU's free memory: fragments, and whole utterances in prediction
_CONTEXT = 500_000_000  # bytes of a GPU that a process takes before its first tensor


@dataclass(frozen=True)
class Cost:
    """`together` models train at once and take `step` seconds a step; each has `parameters`.

    `frame` are the seconds that one of them takes to predict a frame of a whole utterance.
    """

    step: float  # not compiled, which takes too long to be tried
    together: int
    parameters: int
    compiles: bool = False  # whether the device compiles the steps where that pays
    frame: float = 0.0


def measure(variant: Variant, store: Store, device: torch.device, wanted: int, sharing: int = 1) -> Cost:
    """Time steps and predictions of `variant`; on a GPU with as many of the `wanted` models at once as a `sharing`th of
    its memory holds, and as slow as they are when all that share it are at work.

    Raises:
        DataError: the memory does not hold the data and one model.
    """
    together = wanted
    frames: Frames | None = None
    while True:
        try:
            with memory_errors():
                frames = frames or Frames(store, device)
                if device.type == "cuda":
                    together = min(together, _fitting(variant, frames, together, sharing))
                else:
                    together = sharing = 1  # each has a core
                cost = _timed(_trainer(variant, frames, together))
            break
        except (torch.OutOfMemoryError, MemoryError) as error:
            reason = first_line(error)
        if together == 1:
            remedy = "Use another GPU, or --device cpu."
            if device.type == "cpu":
                remedy = "Wait for what else is at work there, or choose a variant with smaller batches or crops."
            raise DataError(f"{device} has too little memory: {reason}", remedy)
        together //= 2
    del frames  # the memory is the workers' from here on
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_back_memory()  # 300 MB after transformer-full and conformer-full, for as long as the workers train
    return replace(cost, step=cost.step * sharing, frame=cost.frame * sharing)


def _timed(trainer: Trainer) -> Cost:
    device, frames = trainer.device, trainer.frames
    lengths = len(trainer.variant.crop_lengths)
    steps = lengths * -(-_TIMED_STEPS // lengths)

    def train(steps: int) -> None:
        for _ in range(steps):
            trainer.train_step()

    train(lengths if device.type == "cuda" else 1)  # a GPU captures a graph for each
    step = min(_seconds(lambda: train(steps), device) for _ in range(_GPU_ROUNDS if device.type == "cuda" else 1))
    model, rows = trainer.averaged(0), _typical(frames)
    predict(model, frames, rows)  # what PyTorch makes once
    frame = _seconds(lambda: predict(model, frames, rows), device) / int(frames.lengths[rows].sum())
    parameters = trainer.group.weights.shape[1]
    return Cost(step / steps, len(trainer.seeds), parameters, can_compile(device), frame)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    action()
    wait_for(device)
    return time.perf_counter() - began


def _typical(frames: Frames) -> np.ndarray:
    """Training utterances of all lengths, as many as fill a few batches of predictions."""
    rows = frames.store.train_rows
    rows = rows[frames.lengths[rows].argsort()]
    count = -(-_TIMED_BATCHES * BATCH_TOKENS[frames.device.type] // int(frames.lengths[rows].mean()))
    count = min(count, len(rows))
    return np.asarray(rows[(np.arange(count) + 0.5).astype(np.int64) * len(rows) // count])


def _fitting(variant: Variant, frames: Frames, wanted: int, sharing: int) -> int:
    """How many models' training a worker's share of the GPU's memory holds, at least 1.

    The data and what a process takes are in the share of each. Measured are two at once, which need more than twice as
    much as one alone, where two are wanted, and crops of the longest kind.
    """
    device = frames.device
    longest = replace(
        variant, crop=variant.longest_crop, also_crops=(), final_share=0.0, final_crop=0, final_margin=0.0
    )
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    tried = min(wanted, 2)
    _trainer(longest, frames, tried, capture=False).train_step()
    one = (torch.cuda.max_memory_allocated(device) - before) // tried
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    data = frames.store.frames.nbytes
    share = (free + data) * _USABLE / sharing - data - (_CONTEXT if sharing > 1 else 0)
    return max(1, int(share) // one)


def _trainer(variant: Variant, frames: Frames, models: int, capture: bool = True) -> Trainer:
    rows, seeds = frames.store.train_rows, list(range(models))
    samplers = [CropSampler(frames.store, rows, crop=variant.crop, batch=variant.batch, seed=seed) for seed in seeds]
    return Trainer(variant, frames, samplers, seeds, capture=capture, compiled=False)


def wait_for(device: torch.device) -> None:
    """Until all that was launched on a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
