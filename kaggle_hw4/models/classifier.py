"""The model of a variant: projection → encoder → pooling → (embedding) → head."""

import torch
from torch import Tensor, nn

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.models.encoders import make_encoder, projected
from kaggle_hw4.models.heads import Embedding, make_head
from kaggle_hw4.models.layers import Dropout
from kaggle_hw4.models.pooling import frame_mean, make_pooling
from kaggle_hw4.recipe import Variant


class SpeakerClassifier(nn.Module):
    """Names the speaker of an utterance or of a crop."""

    def __init__(self, variant: Variant, n_speakers: int) -> None:
        super().__init__()
        self.mean_norm = variant.mean_norm
        self.projection = nn.Linear(N_MELS, variant.d_model) if projected(variant) else nn.Identity()
        self.encoder = make_encoder(variant)
        self.pooling, width = make_pooling(variant)
        convolutional = variant.backbone in ("ecapa", "resnet")
        self.dropout = Dropout(variant.dropout if convolutional else 0.0)
        self.embedding = Embedding(width, variant.embedding) if variant.embedding else nn.Identity()
        self.head = make_head(variant, variant.embedding or width, n_speakers)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (batch, speakers) of log-mels `x` (batch, time, 40), without a margin.

        `lengths` (batch,) are the real frames of each row, None when all are full. What stands in
        the frames beyond changes nothing.
        """
        mask = None
        if lengths is not None:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = x.masked_fill(~mask[:, :, None], 0.0)  # finite, whatever stood there
        if self.mean_norm:
            x = x - frame_mean(x, mask)[:, None]
        x, mask = self.encoder(self.projection(x), mask)
        return self.head(self.embedding(self.dropout(self.pooling(x, mask))))
