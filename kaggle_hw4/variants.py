"""The registry of variants: one function returns a recipe, its decorator names it."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from kaggle_hw4.errors import UsageError
from kaggle_hw4.recipe import Variant

SETS = {  # the best last: where a budget is too short for all, the first are left out
    "default": ("transformer-simple", "transformer-full", "conformer-simple", "conformer-full"),
    "best": ("resnet", "mfa-conformer", "ecapa"),
    "wide": ("resnet-wide", "mfa-conformer-wide", "ecapa-wide"),
}

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # it becomes the name of a folder


@dataclass(frozen=True)
class Entry:
    """A registered variant, and what somebody published for it: `private` and `public` are leaderboard scores,
    `val` an accuracy on held-out 128-frame crops. `rung` is its place in the report's ladder, if it has one."""

    name: str
    description: str
    make: Callable[[], Variant]
    rung: int | None
    val: float | None
    private: float | None
    public: float | None

    @property
    def variant(self) -> Variant:
        """Raises UsageError where its fields contradict each other."""
        try:
            return self.make()
        except UsageError as error:
            raise UsageError(f"variant {self.name}: {error.cause}", error.remedy) from error


_REGISTRY: dict[str, Entry] = {}


def register(
    name: str,
    *,
    rung: int | None = None,
    val: float | None = None,
    private: float | None = None,
    public: float | None = None,
) -> Callable[[Callable[[], Variant]], Callable[[], Variant]]:
    """Put the variant a function returns into the registry; its docstring becomes the description.

    Raises:
        UsageError: the name cannot be that of a folder, or is a set's.
    """
    if not _NAME.fullmatch(name) or name in SETS:
        why = "It is that of a set." if name in SETS else "Use letters, digits, '-', '_' and '.'."
        raise UsageError(f"{name!r} cannot be the name of a variant", why)

    def add(make: Callable[[], Variant]) -> Callable[[], Variant]:
        _REGISTRY[name] = Entry(name, (make.__doc__ or "").strip(), make, rung, val, private, public)
        return make

    return add


# The report's ladder: rungs 10 and 11 bear the mission's names.


@register("sample", rung=1, val=0.6716)
def sample() -> Variant:
    """the course's sample code: 1 transformer layer, mean pooling, two-layer head"""
    return Variant("transformer", layers=1, heads=2, dropout=0.1, pooling="mean", head="two-layer")


@register("transformer-2-heads-2", rung=2, val=0.7140, private=0.88475)
def transformer_2_heads_2() -> Variant:
    """as sample, 2 layers"""
    return replace(sample(), layers=2)


@register("transformer-2-heads-1", rung=3, val=0.7265)
def transformer_2_heads_1() -> Variant:
    """as sample, 2 layers with 1 head"""
    return replace(sample(), layers=2, heads=1)


@register("transformer-2-heads-4", rung=4, val=0.7256, private=0.89050, public=0.89600)
def transformer_2_heads_4() -> Variant:
    """as sample, 2 layers with 4 heads"""
    return replace(sample(), layers=2, heads=4)


@register("transformer-3-heads-4", rung=5, val=0.7451, private=0.90550)
def transformer_3_heads_4() -> Variant:
    """as sample, 3 layers with 4 heads"""
    return replace(sample(), layers=3, heads=4)


@register("conformer-2", rung=6, val=0.7493, private=0.90600)
def conformer_2() -> Variant:
    """2 conformer layers, mean pooling, two-layer head"""
    return Variant("conformer", layers=2, heads=4, dropout=0.0, pooling="mean", head="two-layer")


@register("conformer-3", rung=7, val=0.7638, private=0.92625)
def conformer_3() -> Variant:
    """3 conformer layers, mean pooling, two-layer head"""
    return replace(conformer_2(), layers=3)


@register("conformer-4", rung=8, val=0.7744, private=0.92250)
def conformer_4() -> Variant:
    """4 conformer layers, mean pooling, two-layer head"""
    return replace(conformer_2(), layers=4)


@register("conformer-3-linear", rung=9, val=0.8554, private=0.95875)
def conformer_3_linear() -> Variant:
    """3 conformer layers, mean pooling, linear head"""
    return replace(conformer_3(), head="linear")


@register("conformer-simple", rung=10, val=0.8588, private=0.96125)
def conformer_simple() -> Variant:
    """3 conformer layers, simple self-attention pooling"""
    return replace(conformer_3_linear(), pooling="simple")


@register("conformer-full", rung=11, val=0.8616, private=0.96200)
def conformer_full() -> Variant:
    """3 conformer layers, full self-attention pooling"""
    return replace(conformer_simple(), pooling="full")


@register("conformer-full-128", rung=12, val=0.8626, private=0.96000)
def conformer_full_128() -> Variant:
    """as conformer-full, attention size 128"""
    return replace(conformer_full(), attention_size=128)


# The mission's other two.


@register("transformer-simple")
def transformer_simple() -> Variant:
    """3 post-norm transformer layers, simple self-attention pooling"""
    return Variant("transformer", layers=3, heads=4, dropout=0.1, pooling="simple", head="linear")


@register("transformer-full")
def transformer_full() -> Variant:
    """3 post-norm transformer layers, full self-attention pooling"""
    return replace(transformer_simple(), pooling="full")


# Beyond the report. Narrow ones take at most 1 GFLOP forward per 200 frames, for CPUs; wide ones want a GPU.


@register("ecapa")
def ecapa() -> Variant:
    """ECAPA-TDNN of 256 features, attentive statistics, AAM-softmax"""
    return Variant(
        "ecapa",
        layers=3,
        d_model=256,
        feedforward=384,
        pooling="attentive-statistics",
        embedding=128,
        head="aam-softmax",
        margin=0.2,
        margin_ramp=0.3,
        start_over=True,
        time_mask=15,
        mel_mask=6,
        equaliser=2.0,
        gain=3.0,
        noise=0.3,
    )


@register("mfa-conformer")
def mfa_conformer() -> Variant:
    """4 conformer layers at half the frames, outputs of all, attentive statistics, AAM-softmax"""
    return replace(
        ecapa(), backbone="conformer", layers=4, d_model=128, feedforward=256, kernel=15, subsampling=2, aggregate=True
    )


@register("resnet")
def resnet() -> Variant:
    """ResNet-18 of 16 to 128 channels, statistics pooling, AAM-softmax"""
    return replace(ecapa(), backbone="resnet", layers=2, d_model=16, pooling="statistics")


@register("ecapa-wide")
def ecapa_wide() -> Variant:
    """as ecapa, the published widths: 512 features"""
    return replace(ecapa(), d_model=512, feedforward=1536, attention_size=128, embedding=192)


@register("mfa-conformer-wide")
def mfa_conformer_wide() -> Variant:
    """as mfa-conformer, 6 layers of 256 features"""
    return replace(mfa_conformer(), layers=6, d_model=256, feedforward=1024, attention_size=128, embedding=192)


@register("resnet-wide")
def resnet_wide() -> Variant:
    """as resnet, 26 layers of 32 to 256 channels"""
    return replace(resnet(), layers=3, d_model=32, embedding=192)


def entries() -> list[Entry]:
    """All registered variants, those of a script's own included, in the order in which they were registered."""
    return list(_REGISTRY.values())


def variant(name: str) -> Variant:
    """The registered variant `name`. Raises UsageError that offers the nearest names and lists all."""
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, [*_REGISTRY, *SETS], n=2)
        guess = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"no variant {name!r}", f"{guess}There are: {', '.join([*_REGISTRY, *SETS])}.")
    return _REGISTRY[name].variant


def expand(names: list[str]) -> list[str]:
    """Variant names for a list of names and sets, each once, in order. Raises UsageError for an unknown one."""
    expanded = [member for name in names for member in SETS.get(name, (name,))]
    for name in expanded:
        variant(name)
    return list(dict.fromkeys(expanded))
