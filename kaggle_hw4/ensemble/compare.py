"""Members beside each other: what each is worth alone and in the blend, how alike they err, how far seeds differ."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kaggle_hw4.ensemble.pool import Pool


@dataclass(frozen=True)
class Comparison:
    """Of the members alone, scaled by their temperatures, and of the blend with all weights.

    `right` (members, utterances); `log_loss`, `without` (members,): the blend's accuracy without each minus with it,
    the other weights kept in proportion; `correlation` of errors and `disagreement` (share of utterances
    named otherwise), each (members, members). `accuracy` is the blend's on what its weights were fitted on.
    """

    right: np.ndarray
    log_loss: np.ndarray
    without: np.ndarray
    correlation: np.ndarray
    disagreement: np.ndarray
    accuracy: float

    @property
    def member_accuracy(self) -> np.ndarray:
        mean: np.ndarray = self.right.mean(1)
        return mean


def compare(pool: Pool, weights: np.ndarray) -> Comparison:
    """`pool` is scaled by the temperatures, `weights` are (members,)."""
    count = len(pool)
    reduced = np.tile(weights, (count, 1)) * (1 - np.eye(count))
    labels = pool.labels_of(pool.all_folds)
    picks, losses = pool.score(np.vstack([np.eye(count), reduced, weights]), pool.all_folds)
    right = picks == labels
    accuracy = float(right[-1].mean())
    without = right[count : 2 * count].mean(1) - accuracy
    without[reduced.sum(1) == 0] = np.nan  # nothing is left without it
    wrong = (~right[:count]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.atleast_2d(np.corrcoef(wrong))
    disagreement = np.array([[float((a != b).mean()) for b in picks[:count]] for a in picks[:count]])
    return Comparison(
        right[:count], losses[:count].mean(1, dtype=np.float64), without, correlation, disagreement, accuracy
    )


def seed_noise(names: list[str], accuracies: np.ndarray) -> dict[str, Any]:
    """Variants with the mean accuracy of their seeds, best first, and how far seeds of one variant spread.

    `sd` is pooled over the variants with more than one seed, None when there is none; `difference` is to the
    best variant, and `noise` the standard deviation that seeds alone give such a difference.
    """
    by_variant: dict[str, list[float]] = {}
    for name, accuracy in zip(names, accuracies, strict=True):
        variant, mark, seed = name.rpartition("-s")
        by_variant.setdefault(variant if mark and seed.isdigit() else name, []).append(float(accuracy))
    freedom = sum(len(values) - 1 for values in by_variant.values())
    squares = sum(float(np.var(values)) * len(values) for values in by_variant.values())
    sd = (squares / freedom) ** 0.5 if freedom else None
    ranked = sorted(by_variant.items(), key=lambda item: -float(np.mean(item[1])))
    best = ranked[0][1]
    return {
        "sd": sd,
        "variants": [
            {
                "name": name,
                "seeds": len(values),
                "accuracy": float(np.mean(values)),
                "difference": float(np.mean(values) - np.mean(best)),
                "noise": None if sd is None or values is best else sd * (1 / len(values) + 1 / len(best)) ** 0.5,
            }
            for name, values in ranked
        ],
    }
