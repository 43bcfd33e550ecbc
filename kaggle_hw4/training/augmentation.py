"""Log-mels as other microphones, rooms, rates of speech and neighbours would have made them.

What happens to a crop is drawn beforehand, as a function of seed and step, and applied to the batches of
all models of a group at once: a model sees the same whether it trains alone, in a group or resumed, and
nothing waits for a GPU. torchaudio's SpecAugment masks draw from the global generator in passing, so that
each model of a group would see others than alone; hence masks of our own.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.recipe import Variant

_FLOOR = math.log(1e-9)  # the front end's
_DB = math.log(10) / 10  # in natural logarithms of power
_WAVES = 5  # cosines over the mels that a random filter is made of
_MASKS = 2  # of each kind in a crop
# By how much noise lies below a crop, before its colour: that has a mean power above 1, so that in truth 95 % of the
# ratios are in 2 to 28 dB, and their median is 15.
_SNR_DB = (5.0, 30.0)
_NOISE_COLOUR_DB = 5.0  # standard deviation of the filter that colours it
_NOISE_FRAMES = 4096

# Columns of the draws: uniform ones in [0, 1), then normal ones.
_UNIFORM = {"time_mask": 2 * _MASKS, "mel_mask": 2 * _MASKS, "gain": 1, "noise": 3, "time_warp": 2, "mel_warp": 1}
_NORMAL = {"equaliser": _WAVES, "colour": _WAVES}
_SIZES = [*_UNIFORM.values(), *_NORMAL.values()]
COLUMNS = sum(_SIZES) + 1  # and mixup's share


def augments(v: Variant) -> bool:
    """Whether the recipe changes crops at all."""
    return any((v.time_mask, v.mel_mask, v.gain, v.equaliser, v.noise, v.time_warp, v.mel_warp, v.mixup))


def draw(v: Variant, seed: int, steps: Iterable[int]) -> np.ndarray:
    """What happens to the crops of each step: (steps, batch, columns) float32; the last is mixup's share.

    A pure function of seed and step. Everything is drawn, used or not: switching one change on leaves the others.
    """
    rows = []
    for step in steps:
        rng = np.random.default_rng([seed, step, 1])  # [seed, epoch] draws the crops
        uniform = rng.random((v.batch, sum(_UNIFORM.values())))
        normal = rng.standard_normal((v.batch, sum(_NORMAL.values())))
        share = rng.beta(v.mixup, v.mixup, (v.batch, 1)) if v.mixup else np.ones((v.batch, 1))
        rows.append(np.concatenate([uniform, normal, np.maximum(share, 1 - share)], axis=1))
    return np.stack(rows).astype(np.float32)


class Augmentation:
    """What a recipe does to crops."""

    def __init__(self, v: Variant, device: torch.device) -> None:
        self.v = v
        self.mels = torch.arange(N_MELS, dtype=torch.float32, device=device)
        waves = torch.arange(1, _WAVES + 1, dtype=torch.float32, device=device)
        # A filter of normal coefficients: its standard deviation is 1.40 at the two mels at the ends, 0.81 to 1.02 from
        # the fourth mel on, and 1 in the root mean square.
        self.waves = torch.cos(math.pi * waves[:, None] * (self.mels + 0.5) / N_MELS) * math.sqrt(2 / _WAVES)
        self.hiss = white_noise(_NOISE_FRAMES).to(device) if v.noise else None

    @torch.no_grad()
    def __call__(self, x: Tensor, lengths: Tensor | None, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Crops x (…, batch, time, 40) as `draws` (…, batch, columns) say.

        Also gives each one's share (…, batch) in its mixture; the other part is the crop before.
        `lengths` (…, batch) are the real frames, None when all are.
        """
        v = self.v
        *parts, share = draws.split([*_SIZES, 1], dim=-1)
        d = dict(zip([*_UNIFORM, *_NORMAL], parts, strict=True))
        time = torch.arange(x.shape[-2], device=x.device)
        real = torch.full_like(share, x.shape[-2]) if lengths is None else lengths[..., None].float()
        mask = (time < real)[..., None]  # (…, batch, time, 1)
        if v.time_warp:
            x = _warp_time(x, real, d["time_warp"], v.time_warp)
        if v.mel_warp:
            x = x @ self._mel_warp(d["mel_warp"])
        if v.equaliser or v.gain:
            decibels = v.equaliser * d["equaliser"] @ self.waves + v.gain * (2 * d["gain"] - 1)
            x = (x + _DB * decibels[..., None, :]).clamp(min=_FLOOR)
        if v.mixup:
            kept, other = share[..., None].log(), (1 - share[..., None]).log()
            before = x.masked_fill(~mask, -torch.inf).roll(1, dims=-3)
            x = torch.logaddexp(x + kept, before + other)
        if self.hiss is not None:
            x = torch.logaddexp(x, self._noise(x, mask, time, d["noise"], d["colour"]))
        if v.time_mask or v.mel_mask:
            hidden = _stretches(time, real, d["time_mask"], v.time_mask)[..., :, None]
            hidden = (
                hidden | _stretches(self.mels, torch.full_like(share, N_MELS), d["mel_mask"], v.mel_mask)[..., None, :]
            )
            mean = (x * mask).sum((-1, -2), keepdim=True) / (N_MELS * real[..., None])
            x = torch.where(hidden, mean, x)
        return x, share.squeeze(-1)

    def _mel_warp(self, draws: Tensor) -> Tensor:
        """(…, batch, 40, 40): the mels of a vocal tract longer or shorter by up to the share `mel_warp`."""
        place = self.mels * (1 + self.v.mel_warp * (2 * draws - 1))
        return (1 - (place[..., None, :].clamp(max=N_MELS - 1) - self.mels[:, None]).abs()).clamp(min=0)

    def _noise(self, x: Tensor, mask: Tensor, time: Tensor, draws: Tensor, colour: Tensor) -> Tensor:
        """Log-mels of coloured noise, 2 to 28 dB below its crop, for the share `noise` of the crops, else log 0."""
        assert self.hiss is not None
        chosen, ratio, start = (column[..., None] for column in draws.unbind(-1))
        frames = ((start * _NOISE_FRAMES).long() + time) % _NOISE_FRAMES
        hiss = self.hiss.index_select(0, frames.flatten()).view(*frames.shape, N_MELS)
        power = (x.exp() * mask).sum((-1, -2)) / (N_MELS * mask.sum((-1, -2)))
        low, high = _SNR_DB
        level = power.log()[..., None] - _DB * (low + (high - low) * ratio)
        level = torch.where(chosen < self.v.noise, level, -torch.inf)
        return hiss + (level + _DB * _NOISE_COLOUR_DB * colour @ self.waves)[..., None, :]


def _stretches(axis: Tensor, size: Tensor, draws: Tensor, longest: int) -> Tensor:
    """Where `axis` (n,) lies in one of the stretches of up to `longest` of `size` (…, 1): (…, n)."""
    wide, place = draws.chunk(2, dim=-1)  # (…, masks)
    width = torch.minimum((wide * (longest + 1)).floor(), size)
    start = (place * (size - width + 1)).floor()
    inside = (axis >= start[..., None]) & (axis < (start + width)[..., None])
    return inside.any(-2)


def _warp_time(x: Tensor, real: Tensor, draws: Tensor, largest: float) -> Tensor:
    """A moment of the crop is moved by up to the share `largest` of its length, and the rest with it."""
    source = 0.25 + 0.5 * draws[..., :1]
    target = source + largest * (2 * draws[..., 1:] - 1)
    last = real - 1
    t = torch.arange(x.shape[-2], device=x.device) / last.clamp(min=1)  # 0 to 1 over the real frames
    before, after = t * source / target, source + (t - target) * (1 - source) / (1 - target)
    place = (torch.where(t < target, before, after) * last).clamp(min=0).minimum(last)
    below = place.floor()
    above = (below + 1).minimum(last)

    def pick(frames: Tensor) -> Tensor:
        return x.gather(-2, frames.long()[..., None].expand(*frames.shape, N_MELS))

    return torch.lerp(pick(below), pick(above), (place - below)[..., None])


def white_noise(frames: int) -> Tensor:
    """Log-mels (frames, 40) that the front end makes of white noise, of mean power 1; the same at every call."""
    from kaggle_hw4.data.frontend import HOP, normalise, spectrogram

    wave = np.random.default_rng(0).standard_normal(HOP * (frames - 1))
    mel = spectrogram(normalise(wave))
    return mel - mel.exp().mean().log()
