"""Schedules as pure functions of the optimiser step."""

import math
from collections.abc import Iterable

import numpy as np

from kaggle_hw4.recipe import Variant


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then half a cosine down to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights: small at first, so that the random initialisation is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


def average_weight(step: int, v: Variant) -> float:
    """The weight that the weights after `step` have in their average.

    Over the last `average_last` of the steps all weights count the same: the n-th has 1 / n.
    """
    since = step - math.floor((1 - v.average_last) * v.steps)
    if v.average_last and since >= 0:
        return 1 / (since + 1)
    return 1 - ema_decay(step, v.ema)


def in_last_stage(step: int, v: Variant) -> bool:
    return v.final_share > 0 and step >= (1 - v.final_share) * v.steps


def margin(step: int, v: Variant) -> float:
    """The margin of a step: in `margin_ramp` of all steps it grows linearly from 0."""
    if v.final_margin and in_last_stage(step, v):
        return v.final_margin
    return v.margin * min(1.0, (step + 1) / max(1.0, v.margin_ramp * v.steps))


def crop_length(step: int, v: Variant) -> int:
    """Frames of the crops of a step; all models of a group have the same."""
    return v.final_crop if in_last_stage(step, v) else v.crop_lengths[step % len(v.crop_lengths)]


def crop_lengths(steps: Iterable[int], v: Variant) -> np.ndarray:
    return np.array([crop_length(step, v) for step in steps])


def mean_crop(v: Variant) -> float:
    """Frames of a crop, on average over all steps."""
    usual = sum(v.crop_lengths) / len(v.crop_lengths)
    return usual + v.final_share * (v.final_crop - usual)


def validation_steps(v: Variant, held_out_frames: int) -> list[int]:
    """The steps after which a training looks at its held-out utterances: at most four, evenly spread.

    Fewer where they would take more than a tenth of the training; a frame predicted costs a third of
    one trained on. None where nothing is held out.
    """
    if not held_out_frames:
        return []
    affordable = int(0.1 * v.steps * v.batch * mean_crop(v) / (held_out_frames / 3))
    count = min(4, affordable, v.steps - 1)
    return [v.steps * (i + 1) // (count + 1) for i in range(count)]
