"""A ResNet of timm on log-mels as a picture, trained from scratch and safe to batch."""

from typing import Any

import timm
from torch import Tensor, nn

from kaggle_hw4.models.layers import normalised
from kaggle_hw4.recipe import Variant


class Masks:
    """The mask of the batch under way, at every number of frames it is halved to."""

    def __init__(self) -> None:
        self._by_time: dict[int, Tensor] = {}

    def set(self, mask: Tensor | None) -> None:
        """`mask` (batch, time), or None when all frames are real (and to let go of the last one)."""
        self._by_time = {}
        while mask is not None and mask.shape[1] not in self._by_time:
            self._by_time[mask.shape[1]] = mask[:, None, :, None]
            mask = mask[:, ::2]  # a convolution of stride 2 puts frame 2 i at i

    def of(self, x: Tensor) -> Tensor | None:
        """The mask of feature maps (batch, channels, time, mels), as (batch, 1, time, 1)."""
        return self._by_time[x.shape[2]] if self._by_time else None


class MapBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (batch, channels, time, mels) whose statistics are those of the real frames only."""

    masks: Masks
    stacked = False  # as in FrameBatchNorm

    def forward(self, x: Tensor) -> Tensor:
        mask = self.masks.of(x)
        if not self.training or (mask is None and not self.stacked):
            return super().forward(x)
        return normalised(x, (0, 2, 3), mask, self)


class ResNet(nn.Module):
    """`layers` basic blocks in each of four stages of d_model × 1, 2, 4, 8 channels (He et al. 2016).

    The stem keeps every frame and mel; the last map has an eighth of both. Log-mels (batch, time, 40)
    → (batch, time / 8, features). Invalid frames are zeroed before every convolution.
    """

    def __init__(self, v: Variant) -> None:
        super().__init__()
        d = v.d_model
        options: dict[str, Any] = {"stem_type": "deep", "stem_width": d // 2}  # which gives the first stage d channels
        # No pretrained weights, ever: the competition forbids them.
        self.net = timm.create_model(
            "resnet18",
            pretrained=False,
            in_chans=1,
            num_classes=0,
            global_pool="",
            layers=(v.layers,) * 4,
            channels=(d, 2 * d, 4 * d, 8 * d),
            norm_layer=MapBatchNorm,
            **options,
        )
        self.net.conv1 = nn.Conv2d(1, d, 3, padding=1, bias=False)
        self.net.maxpool = nn.Identity()
        self.masks = Masks()
        for module in self.net.modules():
            if isinstance(module, MapBatchNorm):
                module.masks = self.masks
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(self._zero_invalid)
                if module.kernel_size == (1, 1):  # a shortcut
                    module.stride = (1, 1)

    def _zero_invalid(self, module: nn.Conv2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        if module.kernel_size == (1, 1):
            x = x[:, :, ::2, ::2]  # its stride: oneDNN 3.10 writes beyond its memory at 1 x 1, stride 2 and 8 channels
        mask = self.masks.of(x)
        return (x if mask is None else x.masked_fill(~mask, 0.0),)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.masks.set(mask)
        maps = self.net(x.unsqueeze(3).permute(0, 3, 1, 2))  # in memory channels last, as are all maps then
        self.masks.set(None)
        y = maps.transpose(1, 2).flatten(2)
        return y, None if mask is None else mask[:, ::8]
