"""The registry of variants: one frozen dataclass says all of a recipe, one function names it."""

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from kaggle_hw4.errors import UsageError


@dataclass(frozen=True)
class Variant:
    """A recipe: architecture and training. Lengths are in frames of 10 ms, steps in optimiser steps."""

    backbone: str  # "transformer" or "conformer"
    layers: int
    heads: int
    dropout: float
    pooling: str  # "mean", "simple" or "full"
    head: str  # "linear" or "two-layer"
    d_model: int = 80
    feedforward: int = 256
    kernel: int = 31  # of the conformer's depthwise convolution
    attention_size: int = 64  # of full self-attention pooling
    crop: int = 128
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 1000
    steps: int = 70_000
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999  # decay of the averaged weights that predict

    def recipe(self) -> dict[str, Any]:
        """All fields, as recorded with a run."""
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """A registered variant; `private` and `public` are leaderboard scores somebody published for it."""

    name: str
    description: str
    variant: Variant
    private: float | None
    public: float | None


_REGISTRY: dict[str, Entry] = {}


def register(
    name: str, *, private: float | None = None, public: float | None = None
) -> Callable[[Callable[[], Variant]], Callable[[], Variant]]:
    """Put the variant a function returns into the registry; its docstring becomes the description."""

    def add(make: Callable[[], Variant]) -> Callable[[], Variant]:
        _REGISTRY[name] = Entry(name, (make.__doc__ or "").strip(), make(), private, public)
        return make

    return add


@register("sample")
def sample() -> Variant:
    """the course's sample code: 1 transformer layer, mean pooling, two-layer head"""
    return Variant("transformer", layers=1, heads=2, dropout=0.1, pooling="mean", head="two-layer")


@register("transformer-simple")
def transformer_simple() -> Variant:
    """3 post-norm transformer layers, simple self-attention pooling"""
    return Variant("transformer", layers=3, heads=4, dropout=0.1, pooling="simple", head="linear")


@register("transformer-full")
def transformer_full() -> Variant:
    """3 post-norm transformer layers, full self-attention pooling"""
    return replace(transformer_simple(), pooling="full")


@register("conformer-simple", private=0.96125)
def conformer_simple() -> Variant:
    """3 conformer layers, simple self-attention pooling"""
    return Variant("conformer", layers=3, heads=4, dropout=0.0, pooling="simple", head="linear")


@register("conformer-full", private=0.96200)
def conformer_full() -> Variant:
    """3 conformer layers, full self-attention pooling"""
    return replace(conformer_simple(), pooling="full")


SETS = {"default": ("transformer-simple", "transformer-full", "conformer-simple", "conformer-full")}


def entries() -> list[Entry]:
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
