"""A variant: all of a recipe in one frozen dataclass, which refuses to exist when its fields contradict each other."""

from dataclasses import asdict, dataclass
from typing import Any

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.errors import UsageError

BACKBONES = ("transformer", "conformer", "ecapa", "resnet")
POOLINGS = ("mean", "simple", "full", "multi-head", "statistics", "attentive-statistics")
COSINE_HEADS = ("am-softmax", "aam-softmax")
HEADS = ("linear", "two-layer", *COSINE_HEADS)
RESNET_STRIDE = 8  # frames of the input per frame that it pools


@dataclass(frozen=True)
class Variant:
    """A recipe: architecture and training. Lengths are in frames of 10 ms, steps in optimiser steps.

    What a default leaves off is not in the report's recipe, nor in the mission's variants.

    Raises:
        UsageError: fields contradict each other; says which, and what to change.
    """

    backbone: str
    layers: int  # a resnet's: blocks in each of its four stages
    pooling: str
    head: str
    dropout: float = 0.0  # of a convolutional backbone: of the pooled vector
    heads: int = 4  # of attention, in layers and in multi-head pooling
    d_model: int = 80  # features of a frame; a resnet's: channels of its first stage
    feedforward: int = 256  # hidden size; of ecapa the features after its layers are aggregated
    kernel: int = 31  # of the conformer's depthwise convolution
    attention_size: int = 64  # hidden size of every pooling with attention but "simple"
    pre_norm: bool = False  # of the transformer; a conformer is
    subsampling: int = 1  # frames per frame that transformer or conformer layers see: 1, 2 or 4
    aggregate: bool = False  # pool the outputs of all transformer or conformer layers, side by side
    mean_norm: bool = False  # subtract each mel's mean over the utterance
    embedding: int = 0  # features between pooling and head; 0: none

    # The loss. Heads of cosines have `scale`; their margin grows from 0 over the first `margin_ramp` of the steps.
    scale: float = 30.0
    margin: float = 0.0
    margin_ramp: float = 0.0
    sub_centres: int = 1  # of each speaker; the nearest counts
    label_smoothing: float = 0.0

    # The crops.
    crop: int = 128
    also_crops: tuple[int, ...] = ()  # further lengths: the steps take turns
    start_over: bool = False  # an utterance shorter than its crop begins anew, instead of being padded
    batch: int = 32

    # The optimiser.
    lr: float = 1e-3
    warmup: int = 1000
    steps: int = 70_000
    clip: float = 1.0  # largest norm of the gradient
    weight_decay: float = 0.01
    ema: float = 0.999  # decay of the averaged weights that predict
    average_last: float = 0.0  # share of the steps, the last, whose weights are averaged evenly instead

    def __post_init__(self) -> None:
        object.__setattr__(self, "also_crops", tuple(self.also_crops))  # a list, when read from JSON
        self._check_kinds()
        self._check_architecture()
        self._check_loss()
        self._check_training()

    def _check_kinds(self) -> None:
        for field, kinds in (("backbone", BACKBONES), ("pooling", POOLINGS), ("head", HEADS)):
            if getattr(self, field) not in kinds:
                raise UsageError(f"no {field} {getattr(self, field)!r}", f"There are: {', '.join(kinds)}.")

    def _check_architecture(self) -> None:
        attends = self.backbone in ("transformer", "conformer")
        if attends and self.d_model % self.heads:
            raise UsageError(
                f"d_model {self.d_model} cannot be shared among {self.heads} heads",
                "Choose a multiple of heads for d_model.",
            )
        if self.pooling == "multi-head" and self.encoded % self.heads:
            raise UsageError(
                f"multi-head pooling cannot share {self.encoded} features among {self.heads} heads",
                f"Choose for heads a divisor of {self.encoded}.",
            )
        if self.backbone == "ecapa" and self.d_model % 8:
            raise UsageError(f"ecapa cannot split d_model {self.d_model} in 8 parts", "Choose a multiple of 8.")
        if self.subsampling not in (1, 2, 4) or (self.subsampling > 1 and not attends):
            raise UsageError(
                f"subsampling {self.subsampling} of {self.backbone}",
                "Choose 1, 2 or 4 for a transformer or conformer, 1 for the others.",
            )
        if self.aggregate and not attends:
            raise UsageError(f"aggregate with {self.backbone}", "It is for transformer and conformer: leave it off.")
        if self.pre_norm and self.backbone != "transformer":
            raise UsageError(f"pre_norm with {self.backbone}", "It is for the transformer: leave it off.")

    def _check_loss(self) -> None:
        if self.head not in COSINE_HEADS and (self.margin or self.margin_ramp or self.sub_centres > 1):
            raise UsageError(
                f"margin {self.margin}, margin_ramp {self.margin_ramp}, sub_centres {self.sub_centres} "
                f"with a {self.head} head",
                f"Choose the head {' or '.join(COSINE_HEADS)}, or leave these at 0, 0 and 1.",
            )
        if not 0 <= self.margin < 1 or self.scale <= 0 or self.sub_centres < 1:
            raise UsageError(
                f"margin {self.margin}, scale {self.scale}, sub_centres {self.sub_centres}",
                "A margin is in [0, 1), a scale above 0, sub-centres at least 1.",
            )

    def _check_training(self) -> None:
        if self.stride > min(self.crop_lengths):
            raise UsageError(
                f"subsampling by {self.stride} is longer than a crop of {min(self.crop_lengths)} frames",
                "Choose longer crops, or less subsampling.",
            )
        shares = ("dropout", "margin_ramp", "label_smoothing", "ema", "average_last")
        for field in shares:
            if not 0 <= getattr(self, field) < 1:
                raise UsageError(f"{field} {getattr(self, field)} is no share", f"Choose {field} in [0, 1).")

    @property
    def crop_lengths(self) -> tuple[int, ...]:
        """The lengths that the steps take turns in."""
        return (self.crop, *self.also_crops)

    @property
    def stride(self) -> int:
        """Frames of the input per frame that is pooled."""
        return RESNET_STRIDE if self.backbone == "resnet" else self.subsampling

    @property
    def encoded(self) -> int:
        """Features of a frame that is pooled."""
        if self.backbone == "resnet":
            return self.d_model * 8 * -(-N_MELS // RESNET_STRIDE)
        if self.backbone == "ecapa":
            return self.feedforward
        return self.d_model * (self.layers if self.aggregate else 1)

    @property
    def architecture(self) -> str:
        """The model in words, for messages."""
        return (
            f"{self.backbone} × {self.layers} (d_model {self.d_model}), {self.pooling} pooling, {self.head} head"
            f"{f', embedding {self.embedding}' if self.embedding else ''}"
        )

    def recipe(self) -> dict[str, Any]:
        """All fields as JSON holds them, as recorded with a run."""
        return asdict(self) | {"also_crops": list(self.also_crops)}
