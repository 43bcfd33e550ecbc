"""What a variant costs on this machine: a few real training steps, timed, before anything is planned."""

import time
from dataclasses import dataclass

import torch

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, first_line
from kaggle_hw4.machine import give_back_memory, memory_errors
from kaggle_hw4.recipe import Variant
from kaggle_hw4.training.capture import can_compile
from kaggle_hw4.training.trainer import Trainer

_TIMED_STEPS = 3  # at least: every length of crops comes as often as the others
_USABLE = 0.85  # of a GPU's free memory: fragments, and whole utterances in prediction


@dataclass(frozen=True)
class Cost:
    """`together` models train at once and take `step` seconds a step; each has `parameters`."""

    step: float  # not compiled, which takes too long to be tried
    together: int
    parameters: int
    compiles: bool = False  # whether the device compiles the steps where that pays


def measure(variant: Variant, store: Store, device: torch.device, wanted: int, sharing: int = 1) -> Cost:
    """Time steps of `variant`; on a GPU of as many of the `wanted` models at once as a `sharing`th of its memory holds.

    Raises:
        DataError: the memory does not hold the data and one model.
    """
    together = wanted
    while True:
        try:
            with memory_errors():
                frames = Frames(store, device)
                together = 1 if device.type == "cpu" else min(together, _fitting(variant, frames, sharing))
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
    return cost


def _timed(trainer: Trainer) -> Cost:
    lengths = len(trainer.variant.crop_lengths)
    steps = lengths * -(-_TIMED_STEPS // lengths)
    for _ in range(lengths if trainer.device.type == "cuda" else 1):  # a GPU captures a graph for each
        trainer.train_step()
    wait_for(trainer.device)
    began = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    wait_for(trainer.device)
    seconds = (time.perf_counter() - began) / steps
    return Cost(seconds, len(trainer.seeds), trainer.group.weights.shape[1], can_compile(trainer.device))


def _fitting(variant: Variant, frames: Frames, sharing: int) -> int:
    """How many models' training a worker's share of the free memory of the GPU holds, at least 1."""
    device = frames.device
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _trainer(variant, frames, 1, capture=False).train_step()
    one = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(free * _USABLE / sharing) // one)


def _trainer(variant: Variant, frames: Frames, models: int, capture: bool = True) -> Trainer:
    rows, seeds = frames.store.train_rows, list(range(models))
    samplers = [CropSampler(frames.store, rows, crop=variant.crop, batch=variant.batch, seed=seed) for seed in seeds]
    return Trainer(variant, frames, samplers, seeds, capture=capture, compiled=False)


def wait_for(device: torch.device) -> None:
    """Until all that was launched on a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
