"""The rows of docs/ablations.md: one change each, as fields of the base's recipe."""

from dataclasses import asdict, replace
from typing import Any

from kaggle_hw4.recipe import Variant
from kaggle_hw4.variants import variant

_ARCHITECTURE = ("backbone", "layers", "d_model", "feedforward", "kernel", "subsampling", "aggregate")


def _backbone(name: str) -> dict[str, Any]:
    """The backbone of a registered variant, under the base's pooling, head and training."""
    fields = asdict(variant(name))
    return {field: fields[field] for field in _ARCHITECTURE}


_COSINE = {"head": "aam-softmax", "margin": 0.2, "margin_ramp": 0.3}

ROWS: dict[str, dict[str, Any]] = {
    # Backbones, poolings, heads.
    "transformer": {"backbone": "transformer"},
    "transformer-pre-norm": {"backbone": "transformer", "pre_norm": True},
    "mfa-conformer": _backbone("mfa-conformer"),
    "ecapa": _backbone("ecapa"),
    "resnet": _backbone("resnet"),
    "subsampling": {"subsampling": 2},
    "aggregate": {"aggregate": True},
    "mean-pooling": {"pooling": "mean"},
    "simple-pooling": {"pooling": "simple"},
    "multi-head-pooling": {"pooling": "multi-head"},
    "statistics-pooling": {"pooling": "statistics"},
    "attentive-statistics": {"pooling": "attentive-statistics"},
    "embedding": {"embedding": 128},
    "cosine-head": {"head": "aam-softmax"},
    "am-softmax": _COSINE | {"head": "am-softmax"},
    "aam-softmax": _COSINE,
    "aam-softmax-no-ramp": _COSINE | {"margin_ramp": 0.0},
    "sub-centres": _COSINE | {"sub_centres": 3},
    "mean-norm": {"mean_norm": True},
    # Crops.
    "crop-200": {"crop": 200, "start_over": True},
    "crop-300": {"crop": 300, "start_over": True},
    "crop-400": {"crop": 400, "start_over": True},
    "mixed-crops": {"also_crops": (200, 300), "start_over": True},
    "start-over": {"start_over": True},
    "last-stage": {"final_share": 0.1, "final_crop": 300, "start_over": True},
    "test-crops": {"test_crops": 3},
    # What is done to them.
    "spec-augment": {"time_mask": 12, "mel_mask": 6},
    "equaliser": {"equaliser": 2.0},
    "gain": {"gain": 3.0},
    "noise": {"noise": 0.3},
    "mixup": {"mixup": 0.2},
    "time-warp": {"time_warp": 0.1},
    "mel-warp": {"mel_warp": 0.03},
    # Regularisers, optimiser, averages.
    "dropout": {"dropout": 0.1},
    "label-smoothing": {"label_smoothing": 0.1},
    "weight-decay": {"weight_decay": 0.1},
    "batch-64": {"batch": 64, "lr": 1.4e-3},
    "lr-2e-3": {"lr": 2e-3},
    "lr-5e-4": {"lr": 5e-4},
    "no-average": {"ema": 0.0},
    "average-last": {"average_last": 0.2},
    # Other parts of the set `best`, of --base ecapa: its head, the length of its crops, what is done to them.
    "linear-head": {"head": "linear", "margin": 0.0, "margin_ramp": 0.0},
    "long-crops": {"crop": 200, "also_crops": (250, 300)},
    "no-masks": {"time_mask": 0, "mel_mask": 0},
    "no-noise": {"noise": 0.0},
    "no-colour": {"equaliser": 0.0, "gain": 0.0},
}


def changes(row: str) -> dict[str, Any]:
    """The fields that a row, or several joined by "+", changes. KeyError for an unknown one."""
    return {field: value for part in row.split("+") for field, value in ROWS[part].items()}


def base_of(base: str) -> Variant:
    """A registered variant, or one that rows change first: `ecapa+long-crops`. KeyError for an unknown row."""
    name, _, rows = base.partition("+")
    return replace(variant(name), **changes(rows)) if rows else variant(name)


def words(row: str, base: Variant) -> str:
    """What a row changes, as `field value`; what the base has already is left out."""
    return ", ".join(f"{field} {value}" for field, value in changes(row).items() if getattr(base, field) != value)
