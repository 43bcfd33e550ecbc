"""A variant: all of a recipe in one frozen dataclass, which refuses to exist when its fields contradict each other."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.errors import UsageError

BACKBONES = ("transformer", "conformer", "ecapa", "resnet")
POOLINGS = ("mean", "simple", "full", "multi-head", "statistics", "attentive-statistics")
COSINE_HEADS = ("am-softmax", "aam-softmax")
HEADS = ("linear", "two-layer", *COSINE_HEADS)
RESNET_STRIDE = 8  # frames of the input per frame that it pools

_OR_NONE = ("embedding", "final_crop")  # 0: none
_SIZES = (
    *("layers", "heads", "d_model", "feedforward", "kernel", "attention_size", "sub_centres"),
    *("crop", "also_crops", "batch", *_OR_NONE),
)
_LARGEST = 1 << 16
_MOST_STEPS = 10**9
_MOST_TEST_CROPS = 1_000
_KINDS: dict[Any, Any] = {bool: bool, str: str, float: int | float}

# What else decides the shape of a model.
_SHAPE = (
    "heads",
    "d_model",
    "feedforward",
    "kernel",
    "attention_size",
    "pre_norm",
    "subsampling",
    "aggregate",
    "mean_norm",
    "embedding",
    "sub_centres",
)


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

    # What is done to the crops (training/augmentation.py).
    time_mask: int = 0  # longest of two masked stretches, in frames
    mel_mask: int = 0  # longest of two masked bands, in mels
    equaliser: float = 0.0  # standard deviation of a random filter, in dB
    gain: float = 0.0  # the most that a crop becomes louder or softer, in dB
    noise: float = 0.0  # share of the crops with noise, mostly 2 to 28 dB below
    mixup: float = 0.0  # α of the shares of two utterances in a mixture of their powers, Beta(α, α)
    time_warp: float = 0.0  # the most that a moment of the crop is moved, as a share of its length
    mel_warp: float = 0.0  # the most that a mel is moved, as a share of its place: the first stays

    # The optimiser.
    lr: float = 1e-3
    warmup: int = 1000  # steps, fewer than `steps`
    steps: int = 70_000
    clip: float = 1.0  # largest norm of the gradient
    weight_decay: float = 0.01
    ema: float = 0.999  # decay of the averaged weights that predict
    average_last: float = 0.0  # share of the steps, the last, whose weights are averaged evenly instead

    # A last stage, over the share `final_share` of the steps, with crops and a margin of its own.
    final_share: float = 0.0
    final_crop: int = 0
    final_margin: float = 0.0

    # Prediction.
    test_crops: int = 0  # of the longest length in training, evenly spread, averaged with the whole utterance

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "also_crops", tuple(self.also_crops))  # a list, when read from JSON
        except TypeError as error:
            raise UsageError(f"also_crops {self.also_crops!r}"[:200], "One length is written (250,).") from error
        self._check_kinds()
        self._check_architecture()
        self._check_loss()
        self._check_training()

    def _check_kinds(self) -> None:
        for spec in fields(self):  # a file from elsewhere may have anything there
            kind = _KINDS.get(spec.type, int)
            for value in self._values(spec.name):
                number = isinstance(value, int | float) and kind is not bool
                if not isinstance(value, kind) or (number and (isinstance(value, bool) or not abs(value) < 1e100)):
                    raise UsageError(f"{spec.name} {value!r}"[:200], "It is of another kind, or no such number.")
                if spec.type is float:
                    object.__setattr__(self, spec.name, float(value))  # 3 is 3.0, also in the hash of the recipe
        for size in _SIZES:
            least = 0 if size in _OR_NONE else 1
            for value in self._values(size):
                if not least <= value <= _LARGEST:
                    raise UsageError(f"{size} {value}", f"Choose it from {least} to {_LARGEST:,}.")
        for field, kinds in (("backbone", BACKBONES), ("pooling", POOLINGS), ("head", HEADS)):
            if getattr(self, field) not in kinds:
                raise UsageError(f"no {field} {getattr(self, field)!r}", f"There are: {', '.join(kinds)}.")

    def _values(self, field: str) -> tuple[Any, ...]:
        return self.also_crops if field == "also_crops" else (getattr(self, field),)

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
        if self.backbone == "resnet" and self.d_model % 2:
            raise UsageError(f"resnet with d_model {self.d_model}", "Choose an even number: its stem has half as many.")
        if self.subsampling not in (1, 2, 4) or (self.subsampling > 1 and not attends):
            raise UsageError(
                f"subsampling {self.subsampling} of {self.backbone}",
                "Choose 1, 2 or 4 for a transformer or conformer, 1 for the others.",
            )
        if self.backbone == "conformer" and self.kernel % 2 == 0:
            raise UsageError(f"kernel {self.kernel}", "Choose an odd number of frames: it has a middle.")
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
        if self.head not in COSINE_HEADS and self.final_margin:
            raise UsageError(f"final_margin {self.final_margin} with a {self.head} head", "Leave it at 0.")
        if self.head not in COSINE_HEADS and self.scale != Variant.scale:
            raise UsageError(f"scale {self.scale} with a {self.head} head", f"Leave it at {Variant.scale}.")
        if self.margin_ramp and not self.margin:
            raise UsageError(f"margin_ramp {self.margin_ramp} without a margin", "Leave it at 0, or choose a margin.")
        margins = (self.margin, self.final_margin)
        if not all(0 <= margin < 1 for margin in margins) or self.scale <= 0:
            raise UsageError(
                f"margin {self.margin}, final_margin {self.final_margin}, scale {self.scale}",
                "A margin is in [0, 1), a scale above 0.",
            )

    def _check_training(self) -> None:
        shortest = min(*self.crop_lengths, self.final_crop or self.crop)
        if self.stride > shortest:
            raise UsageError(
                f"subsampling by {self.stride} is longer than a crop of {shortest} frames",
                "Choose longer crops, or less subsampling.",
            )
        if self.backbone in ("conformer", "ecapa") and self.batch * -(-shortest // self.stride) < 2:
            raise UsageError(
                f"a batch of 1 crop of {shortest} frames, with subsampling by {self.stride}, is a single frame",
                "Batch normalisation needs two: choose a larger batch, or longer crops.",
            )
        if min(self.steps, self.lr, self.clip) <= 0:
            raise UsageError(f"steps {self.steps}, lr {self.lr}, clip {self.clip}", "Choose all above 0.")
        if self.steps > _MOST_STEPS:
            raise UsageError(f"steps {self.steps}", f"Choose at most {_MOST_STEPS:,}.")
        if self.test_crops > _MOST_TEST_CROPS:  # they are looked at when the training is over
            raise UsageError(f"test_crops {self.test_crops}", f"Choose at most {_MOST_TEST_CROPS:,}.")
        if self.warmup >= self.steps > 1:  # a single step is at its full rate
            raise UsageError(
                f"warmup {self.warmup} of {self.steps} steps", "Choose a warmup below steps: a tenth of them, say."
            )
        if bool(self.final_share) != bool(self.final_crop):
            raise UsageError(
                f"final_share {self.final_share} with final_crop {self.final_crop}",
                "Give a last stage both its share of the steps and its crops, or neither.",
            )
        if self.final_margin and not self.final_share:
            raise UsageError(
                f"final_margin {self.final_margin} without a last stage",
                "Give the stage its final_share and final_crop, or leave final_margin at 0.",
            )
        shares = ("dropout", "margin_ramp", "label_smoothing", "ema", "average_last", "final_share", "mel_warp")
        for field in shares:
            if not 0 <= getattr(self, field) < 1:
                raise UsageError(f"{field} {getattr(self, field)} is no share", f"Choose {field} in [0, 1).")
        if not 0 <= self.time_warp < 0.25:  # the moment moved lies in the middle half
            raise UsageError(f"time_warp {self.time_warp} is too large", "Choose it in [0, 0.25).")
        if not 0 <= self.noise <= 1:
            raise UsageError(f"noise {self.noise} is no share", "Choose it in [0, 1].")
        if not 0 <= self.mel_mask < N_MELS // 2 or not 0 <= 2 * self.time_mask < shortest:
            raise UsageError(
                f"two masks of up to {self.time_mask} frames and {self.mel_mask} mels hide a whole crop",
                f"Choose less than half of {shortest} frames and of {N_MELS} mels.",
            )
        for field in ("equaliser", "gain", "mixup", "test_crops", "warmup", "weight_decay"):
            if getattr(self, field) < 0:
                raise UsageError(f"{field} {getattr(self, field)} is below 0", "0 leaves it off.")
        if self.mean_norm and not self.mixup and (self.gain or (self.equaliser and not self.noise)):
            raise UsageError(
                f"mean_norm takes out what gain {self.gain} and equaliser {self.equaliser} do",
                "Leave mean_norm off, or both at 0.",
            )
        for field in ("mixup", "embedding"):
            if getattr(self, field) and self.batch < 2:
                raise UsageError(f"{field} in a batch of {self.batch}", "Choose a batch of at least 2.")

    @property
    def crop_lengths(self) -> tuple[int, ...]:
        """The lengths that the steps take turns in."""
        return (self.crop, *self.also_crops)

    @property
    def longest_crop(self) -> int:
        """The longest crop in training, the last stage included."""
        return max(*self.crop_lengths, self.final_crop)

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
        """The model in words for messages, as backbone, pooling, head, and what else differs from the defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        others = [name for name in _SHAPE if getattr(self, name) != defaults[name]]
        shape = "".join(f", {name} {getattr(self, name)}" for name in others)
        return f"{self.backbone} of {self.layers} layers{shape}, {self.pooling} pooling, {self.head} head"

    def recipe(self) -> dict[str, Any]:
        """All fields as JSON holds them, as recorded with a run."""
        return asdict(self) | {"also_crops": list(self.also_crops)}
