"""From the pooled vector to a logit per speaker, without any margin: the loss adds it (training/losses.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaggle_hw4.models.layers import FrameBatchNorm
from kaggle_hw4.recipe import Variant


class Embedding(nn.Module):
    """Normalised over the batch, mapped, normalised again (Desplanques et al. 2020): (batch, d) → (batch, size)."""

    def __init__(self, d: int, size: int) -> None:
        super().__init__()
        self.norm1 = FrameBatchNorm(d)
        self.linear = nn.Linear(d, size)
        self.norm2 = FrameBatchNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.linear(self.norm1(x[:, None]))).squeeze(1)


class CosineHead(nn.Module):
    """`scale` × the cosine between the vector and the nearest of a speaker's centres (Deng et al. 2020).

    In fp32: three digits of a cosine are too few under a scale of 30.
    """

    def __init__(self, d: int, n_speakers: int, scale: float, sub_centres: int) -> None:
        super().__init__()
        self.scale, self.sub_centres = scale, sub_centres
        self.weight = nn.Parameter(torch.empty(n_speakers * sub_centres, d))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            cosines = F.linear(F.normalize(x.to(self.weight.dtype)), F.normalize(self.weight))
            if self.sub_centres > 1:
                cosines = cosines.unflatten(1, (-1, self.sub_centres)).amax(-1)
            return self.scale * cosines


def make_head(v: Variant, d: int, n_speakers: int) -> nn.Module:
    """The head of a variant for a pooled vector, or embedding, of `d` features."""
    if v.head == "linear":
        return nn.Linear(d, n_speakers)
    if v.head == "two-layer":
        return nn.Sequential(nn.Linear(d, d), nn.Sigmoid(), nn.Linear(d, n_speakers))
    return CosineHead(d, n_speakers, v.scale, v.sub_centres)
