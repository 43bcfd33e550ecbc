"""The model of a variant: projection → encoder layers → pooling → head."""

import torch
from torch import Tensor, nn

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.errors import UsageError
from kaggle_hw4.models.layers import ConformerLayer, TransformerLayer
from kaggle_hw4.models.pooling import make_pooling
from kaggle_hw4.variants import Variant


class SpeakerClassifier(nn.Module):
    """Names the speaker of an utterance or of a crop."""

    def __init__(self, variant: Variant, n_speakers: int) -> None:
        super().__init__()
        self.projection = nn.Linear(N_MELS, variant.d_model)
        self.encoder = nn.ModuleList(_make_layer(variant) for _ in range(variant.layers))
        self.pooling = make_pooling(variant.pooling, variant.d_model, variant.attention_size)
        self.head = _make_head(variant, n_speakers)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (batch, speakers) of log-mels `x` (batch, time, 40).

        `lengths` (batch,) are the real frames of each row, None when all are full. What stands in
        the frames beyond changes nothing.
        """
        mask = None
        if lengths is not None:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = x.masked_fill(~mask[:, :, None], 0.0)  # finite, whatever stood there
        x = self.projection(x)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.head(self.pooling(x, mask))


def _make_layer(v: Variant) -> nn.Module:
    if v.backbone == "transformer":
        return TransformerLayer(v.d_model, v.heads, v.feedforward, v.dropout)
    if v.backbone == "conformer":
        return ConformerLayer(v.d_model, v.heads, v.feedforward, v.kernel, v.dropout)
    raise UsageError(f"no backbone {v.backbone!r}", "There are: transformer, conformer.")


def _make_head(v: Variant, n_speakers: int) -> nn.Module:
    if v.head == "linear":
        return nn.Linear(v.d_model, n_speakers)
    if v.head == "two-layer":
        return nn.Sequential(nn.Linear(v.d_model, v.d_model), nn.Sigmoid(), nn.Linear(v.d_model, n_speakers))
    raise UsageError(f"no head {v.head!r}", "There are: linear, two-layer.")
