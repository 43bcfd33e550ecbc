"""What weights are worth: fitted without a fold and scored on it, for every fold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kaggle_hw4.ensemble import convex, greedy
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.statistics import interval, mcnemar
from kaggle_hw4.errors import DataError

METHODS = ("equal", "greedy", "convex")
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Temperatures:
    """Of members, each fitted alone: on all folds (members,), and without each fold (folds, members)."""

    full: np.ndarray
    without: np.ndarray

    @staticmethod
    def fitted(pool: Pool, tick: Callable[[str], None]) -> "Temperatures":
        """Fit all of them; `tick` is told which one is being fitted."""
        full, without = np.ones(len(pool)), np.ones((len(pool.labels), len(pool)))
        for member in range(len(pool)):
            tick(f"temperature {member + 1} of {len(pool)}")
            full[member] = convex.fit_temperature(pool, member, pool.all_folds)
            for fold in pool.all_folds:
                others = _others(pool, fold)
                without[fold, member] = convex.fit_temperature(pool, member, others, full[member])
        return Temperatures(full, without)


@dataclass(frozen=True)
class Weights:
    """Of one method, for members scaled by their full temperatures; the sum is free, it is the pool's sureness.

    `full` (members,) is fitted on all folds, `without` (folds, members) without each. `residual`: what a convex
    fit leaves of the conditions of its optimum.
    """

    method: str
    full: np.ndarray
    without: np.ndarray
    residual: float | None = None

    @property
    def shown(self) -> np.ndarray:
        """w_i, in proportion to β_i T_i, summing to 1."""
        return self.full / self.full.sum()


@dataclass(frozen=True)
class Estimate:
    """`right` (utterances,): whether the honest blend names each, in the order of the pool; log loss in nats."""

    right: np.ndarray
    log_loss: float
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def fit_weights(
    method: str, pool: Pool, temperatures: Temperatures, contested: greedy.Contest | None, given: np.ndarray | None
) -> Weights:
    """Weights of a method on all folds and without each; `pool` is scaled by the full temperatures.

    `given` (members,) are the weights of the method "by hand"; `contested` is what "greedy" chooses by. Their sum is
    that of least log loss: a pool is right more often than its members, and as sure as they are where it is 1.

    Raises:
        DataError: no member is better than chance, or the fit fails.
    """
    ratio = temperatures.full / temperatures.without
    if method in ("equal", "by hand"):
        full = np.ones(len(pool)) if given is None else given / given.sum()
        return _sure(pool, method, full, full * ratio)
    if method == "greedy":
        assert contested is not None
        full = greedy.select(pool, contested, pool.all_folds, np.ones(len(pool)))
        without = [
            greedy.select(pool, contested.without(fold), _others(pool, fold), ratio[fold]) for fold in pool.all_folds
        ]
        return _sure(pool, method, full, np.array(without) * ratio)
    found = convex.fit(pool, pool.all_folds)
    if not found.weights.any():
        raise DataError("no member names speakers better than chance", "Train longer, or use --method equal.")
    without = [convex.fit(pool, _others(pool, fold), found.weights).weights for fold in pool.all_folds]
    return Weights(method, found.weights, np.array(without), found.residual)


def _sure(pool: Pool, method: str, full: np.ndarray, without: np.ndarray) -> Weights:
    """These weights, their sums fitted to the rows that the weights are fitted to."""

    def fitted(weights: np.ndarray, folds: list[int]) -> np.ndarray:
        return weights / convex.fit_temperature(pool.blended(weights, folds), 0, folds)

    held_out = [fitted(weights, _others(pool, fold)) for fold, weights in zip(pool.all_folds, without, strict=True)]
    return Weights(method, fitted(full, pool.all_folds), np.array(held_out))


def estimate(pool: Pool, candidates: list[Weights]) -> list[Estimate]:
    """Every candidate scored on each fold with the weights fitted without it."""
    right, losses = [], []
    for fold in pool.all_folds:
        picks, nll = pool.score(np.array([weights.without[fold] for weights in candidates]), [fold])
        right.append(picks == pool.labels[fold])
        losses.append(nll)
    speakers = pool.labels_of(pool.all_folds)
    return [
        Estimate(r, float(nll.mean(dtype=np.float64)), interval(r, speakers))
        for r, nll in zip(np.concatenate(right, 1), np.concatenate(losses, 1), strict=True)
    ]


def best_single(pool: Pool, right: np.ndarray) -> np.ndarray:
    """Whether the best member names each utterance, (utterances,): for each fold that which is best on the others.

    `right` (members, utterances) is that of the members alone.
    """
    fold_of = np.repeat(pool.all_folds, [len(labels) for labels in pool.labels])
    best = np.zeros(right.shape[1], bool)
    for fold in pool.all_folds:
        held_out = fold_of == fold
        best[held_out] = right[int(right[:, ~held_out].sum(1).argmax())][held_out]
    return best


def gain(over: np.ndarray, right: np.ndarray, speakers: np.ndarray) -> dict[str, Any]:
    """How much more often `right` than `over` (utterances,), as recorded: accuracy, gain, its interval and p."""
    difference = right.astype(np.int8) - over
    return {
        "accuracy": float(over.mean()),
        "gain": float(difference.mean()),
        "interval": list(interval(difference, speakers, -1.0)),
        "p": mcnemar(right, over),
    }


def choose(estimates: list[Estimate]) -> int:
    """The candidate to use when none is asked for: the first (equal weights) unless another wins the paired test.

    Each of the two others wins by luck in 2.5 % of cases (the test is two-sided), either in at most 5 %.
    """
    winners = [
        i
        for i, found in enumerate(estimates)
        if found.accuracy > estimates[0].accuracy and mcnemar(found.right, estimates[0].right) < SIGNIFICANT
    ]
    return max(winners, key=lambda i: estimates[i].accuracy, default=0)


def _others(pool: Pool, fold: int) -> list[int]:
    return [other for other in pool.all_folds if other != fold]
