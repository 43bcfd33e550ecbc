"""Schedules as pure functions of the optimiser step."""

import math


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then half a cosine down to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights: small at first, so that the random initialisation is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))
