"""What a change costs: the time of its steps over that of the base's, measured side by side."""

import time

import numpy as np
import torch

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.jobs.calibrate import wait_for
from kaggle_hw4.recipe import Variant
from kaggle_hw4.training.trainer import Trainer

_PLACES = 10  # along the training: a last stage is dearer than what comes before
_STEPS = 3  # at each: lengths of crops take turns


def step_ratio(changed: Variant, base: Variant, store: Store, train: np.ndarray, device: torch.device) -> float:
    """Seconds of a step of `changed` over those of `base`, whose steps take turns, on the utterances `train` (rows).

    Each alone, not compiled nor captured: on a GPU that says little of many at once.
    """
    frames = Frames(store, device)
    trainers = [_trainer(v, frames, train) for v in (changed, base)]
    seconds = np.zeros(2)
    for place in range(_PLACES):
        for trainer in trainers:
            trainer.step = place * trainer.variant.steps // _PLACES
            _step(trainer)  # uncounted: may plan the batches of hundreds of steps
        for _ in range(_STEPS):
            for i, trainer in enumerate(trainers):
                seconds[i] += _step(trainer)
    return float(seconds[0] / seconds[1])


def _step(trainer: Trainer) -> float:
    """The seconds of a step until it is done: on a GPU the next one's clock must not see the rest of it."""
    started = time.perf_counter()
    trainer.train_step()
    wait_for(trainer.device)
    return time.perf_counter() - started


def _trainer(v: Variant, frames: Frames, train: np.ndarray) -> Trainer:
    sampler = CropSampler(frames.store, train, crop=v.crop, batch=v.batch, seed=0)
    return Trainer(v, frames, [sampler], [0], capture=False)
