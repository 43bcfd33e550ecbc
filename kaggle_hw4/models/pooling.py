"""From frames to one vector: x (batch, time, d), mask (batch, time) or None → (batch, `width`)."""

import torch
from torch import Tensor, nn

from kaggle_hw4.recipe import Variant

_LEAST_VARIANCE = 1e-5  # of a feature that does not change over time: its root has no gradient


def frame_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the real frames, (batch, d)."""
    if mask is None:
        return x.mean(1)
    return x.masked_fill(~mask[:, :, None], 0.0).sum(1) / mask.sum(1, keepdim=True)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over time of `scores` (batch, time, n), 0 where a frame is none."""
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
    return scores.softmax(1)


class MeanPooling(nn.Module):
    """The mean of the real frames."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return frame_mean(x, mask)


class AttentionPooling(nn.Module):
    """A weighted sum of the frames; `score` gives each frame's weight before the softmax over time.

    Self-attention pooling of Safari et al. 2020 ("simple") and of Lin et al. 2017 with one hop ("full").
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        weights = masked_softmax(self.score(x), mask)
        return (weights.transpose(1, 2) @ x).squeeze(1)


class MultiHeadPooling(nn.Module):
    """Each head weighs the frames of its own part of the features, as in India et al. 2019.

    There its own part gives the weights too; here one network on all features gives those of every head.
    """

    def __init__(self, d: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.score = nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        weights = masked_softmax(self.score(x), mask)
        parts = x.unflatten(2, (self.heads, -1))
        return (weights.unsqueeze(-1) * parts).sum(1).flatten(1)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation of every feature over the real frames (Snyder et al. 2018)."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mean = frame_mean(x, mask)
        variance = frame_mean((x - mean[:, None]).square(), mask)
        return torch.cat([mean, variance.clamp(min=_LEAST_VARIANCE).sqrt()], dim=1)


class AttentiveStatisticsPooling(nn.Module):
    """Weighted mean and standard deviation of every feature over the real frames (Okabe et al. 2018).

    Each feature has weights of its own, and these see the utterance's plain mean and standard
    deviation too (Desplanques et al. 2020).
    """

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.statistics = StatisticsPooling()
        self.frame = nn.Linear(d, hidden)
        self.context = nn.Linear(2 * d, hidden, bias=False)  # the same for all frames: computed once
        self.score = nn.Linear(hidden, d)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        context = self.context(self.statistics(x, mask))
        weights = masked_softmax(self.score(torch.tanh(self.frame(x) + context[:, None])), mask)
        if mask is not None:
            x = x.masked_fill(~mask[:, :, None], 0.0)
        mean = (weights * x).sum(1)
        variance = (weights * (x - mean[:, None]).square()).sum(1)
        return torch.cat([mean, variance.clamp(min=_LEAST_VARIANCE).sqrt()], dim=1)


def make_pooling(v: Variant) -> tuple[nn.Module, int]:
    """The pooling of a variant, and the width of what it gives."""
    d, hidden = v.encoded, v.attention_size
    if v.pooling == "mean":
        return MeanPooling(), d
    if v.pooling == "simple":
        return AttentionPooling(nn.Linear(d, 1)), d
    if v.pooling == "full":
        return AttentionPooling(nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, 1))), d
    if v.pooling == "multi-head":
        return MultiHeadPooling(d, hidden, v.heads), d
    if v.pooling == "statistics":
        return StatisticsPooling(), 2 * d
    return AttentiveStatisticsPooling(d, hidden), 2 * d
