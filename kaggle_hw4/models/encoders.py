"""The encoder of a variant: x (batch, time, d), mask (batch, time) or None → the frames to pool and their mask."""

import torch
from torch import Tensor, nn

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.models.convolutions import TimeConv
from kaggle_hw4.models.ecapa import Ecapa
from kaggle_hw4.models.layers import ConformerLayer, TransformerLayer
from kaggle_hw4.recipe import Variant


class Subsampling(nn.Module):
    """Convolutions over time, each of which halves the number of frames: log-mels → (batch, time / factor, d)."""

    def __init__(self, n_mels: int, d: int, factor: int) -> None:
        super().__init__()
        widths = [n_mels] + [d] * (factor // 2)  # factor 2: one convolution, 4: two
        self.convs = nn.ModuleList(TimeConv(n, d, kernel=5, stride=2) for n in widths[:-1])
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for i, conv in enumerate(self.convs):
            x = conv(x if i == 0 else torch.relu(x), mask)
            mask = None if mask is None else mask[:, ::2]
        return self.norm(x), mask


class Stack(nn.Module):
    """Transformer or conformer layers one after the other, named by their numbers.

    With `aggregate` the outputs of all, side by side and normalised (MFA-Conformer, Zhang et al. 2022).
    """

    def __init__(self, v: Variant) -> None:
        super().__init__()
        self.aggregate = v.aggregate
        self.subsampling = Subsampling(N_MELS, v.d_model, v.subsampling) if v.subsampling > 1 else None
        self.names = [str(i) for i in range(v.layers)]
        for name in self.names:
            self.add_module(name, _make_layer(v))
        self.norm = nn.LayerNorm(v.encoded) if v.aggregate or v.pre_norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.subsampling is not None:
            x, mask = self.subsampling(x, mask)
        outputs = []
        for name in self.names:
            x = self.get_submodule(name)(x, mask)
            outputs.append(x)
        return self.norm(torch.cat(outputs, dim=-1) if self.aggregate else x), mask


def _make_layer(v: Variant) -> nn.Module:
    if v.backbone == "transformer":
        return TransformerLayer(v.d_model, v.heads, v.feedforward, v.dropout, v.pre_norm)
    return ConformerLayer(v.d_model, v.heads, v.feedforward, v.kernel, v.dropout)


def make_encoder(v: Variant) -> nn.Module:
    """The encoder of a variant; it takes log-mels unless `projected`."""
    if v.backbone == "ecapa":
        return Ecapa(v, N_MELS)
    if v.backbone == "resnet":
        from kaggle_hw4.models.resnet import ResNet  # timm takes 3 to 6 s to import

        return ResNet(v)
    return Stack(v)


def projected(v: Variant) -> bool:
    """The encoder sees frames of d_model features, which a linear layer makes of the mels."""
    return v.backbone in ("transformer", "conformer") and v.subsampling == 1
