"""Schedules as pure functions of the optimiser step."""

import math

from kaggle_hw4.variants import Variant


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then half a cosine down to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights: small at first, so that the random initialisation is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


def validation_steps(v: Variant, held_out_frames: int) -> list[int]:
    """The steps after which a training looks at its held-out utterances: at most four, evenly spread.

    Fewer where they would take more than a tenth of the training; a frame predicted costs a third of
    one trained on.
    """
    affordable = int(0.1 * v.steps * v.batch * v.crop / (held_out_frames / 3))
    count = min(4, affordable, v.steps - 1)
    return [v.steps * (i + 1) // (count + 1) for i in range(count)]
