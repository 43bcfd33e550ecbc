"""From frames to one vector: x (batch, time, d), mask (batch, time) or None → (batch, d)."""

from torch import Tensor, nn

from kaggle_hw4.errors import UsageError


class MeanPooling(nn.Module):
    """The mean of the real frames."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return x.mean(1)
        return x.masked_fill(~mask[:, :, None], 0.0).sum(1) / mask.sum(1, keepdim=True)


class AttentionPooling(nn.Module):
    """A weighted sum of the frames; `score` gives each frame's weight before the softmax over time.

    Self-attention pooling of Safari et al. 2020 ("simple") and of Lin et al. 2017 with one hop ("full").
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        scores = self.score(x).squeeze(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (scores.softmax(1).unsqueeze(1) @ x).squeeze(1)


def make_pooling(kind: str, d: int, attention_size: int) -> nn.Module:
    if kind == "mean":
        return MeanPooling()
    if kind == "simple":
        return AttentionPooling(nn.Linear(d, 1))
    if kind == "full":
        return AttentionPooling(nn.Sequential(nn.Linear(d, attention_size), nn.Tanh(), nn.Linear(attention_size, 1)))
    raise UsageError(f"no pooling {kind!r}", "There are: mean, simple, full.")
