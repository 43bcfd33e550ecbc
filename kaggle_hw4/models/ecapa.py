"""ECAPA-TDNN (Desplanques et al. 2020): dilated convolutions over time, in parts of the features one after the other,
with squeeze-excitation, and the outputs of all blocks side by side. Everything is (batch, time, features).

A block takes the output of the one before it; in the paper (section 3.3) the sum of those of the first convolution and
of all blocks before it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaggle_hw4.models.convolutions import TimeConv
from kaggle_hw4.models.layers import FrameBatchNorm
from kaggle_hw4.models.pooling import frame_mean
from kaggle_hw4.recipe import Variant

_PARTS = 8  # of the features in a block
_SQUEEZED = 128  # features between the two layers of squeeze-excitation, at most


class TimeDelay(nn.Module):
    """Convolution over time, ReLU, batch normalisation."""

    def __init__(self, d: int, out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = TimeConv(d, out, kernel, dilation)
        self.norm = FrameBatchNorm(out)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.norm(F.relu(self.conv(x, mask)), mask)


class Res2(nn.Module):
    """Each part of the features is convolved after the result of the part before was added (Gao et al. 2019)."""

    def __init__(self, d: int, kernel: int, dilation: int) -> None:
        super().__init__()
        part = d // _PARTS
        self.parts = nn.ModuleList(TimeDelay(part, part, kernel, dilation) for _ in range(_PARTS - 1))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        first, *others = x.chunk(_PARTS, dim=-1)
        done, y = [first], None
        for layer, part in zip(self.parts, others, strict=True):
            y = layer(part if y is None else part + y, mask)
            done.append(y)
        return torch.cat(done, dim=-1)


class SqueezeExcitation(nn.Module):
    """Every feature scaled by what the mean of all says (Hu et al. 2018)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        hidden = min(_SQUEEZED, d // 2)
        self.linear1 = nn.Linear(d, hidden)
        self.linear2 = nn.Linear(hidden, d)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        scale = torch.sigmoid(self.linear2(F.relu(self.linear1(frame_mean(x, mask)))))
        return x * scale[:, None]


class Block(nn.Module):
    """SE-Res2Block."""

    def __init__(self, d: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.before = TimeDelay(d, d)
        self.res2 = Res2(d, kernel, dilation)
        self.after = TimeDelay(d, d)
        self.excitation = SqueezeExcitation(d)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x + self.excitation(self.after(self.res2(self.before(x, mask), mask), mask), mask)


class Ecapa(nn.Module):
    """`layers` blocks with dilations 2, 3, 4 …; log-mels (batch, time, 40) → (batch, time, feedforward)."""

    def __init__(self, v: Variant, n_mels: int) -> None:
        super().__init__()
        self.first = TimeDelay(n_mels, v.d_model, kernel=5)
        self.blocks = nn.ModuleList(Block(v.d_model, 3, dilation) for dilation in range(2, 2 + v.layers))
        self.last = nn.Linear(v.layers * v.d_model, v.feedforward)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = self.first(x, mask)
        outputs = []
        for block in self.blocks:
            x = block(x, mask)
            outputs.append(x)
        return F.relu(self.last(torch.cat(outputs, dim=-1))), mask
