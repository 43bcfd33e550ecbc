"""Convex weights: the log-linear pool whose out-of-fold log loss is least, v ≥ 0, to an optimum that is checked.

Only β_i = w_i / T_i is identifiable. Members come scaled by their own temperatures, so that the weights
are dimensionless, and their sum says how much surer the pool may be than its members.
"""

from dataclasses import dataclass

import numpy as np

from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.errors import DataError

# Of |min(v_i, ∂loss/∂v_i)|, nats per unit of weight. What is left to gain is its square over twice the curvature,
# far below 1e-6 nats. Aimed at, and accepted when single precision lets it come no nearer.
_AIM, TOLERANCE = 1e-5, 1e-4
_MOST_STEPS = 60
_ROUNDING = 2.0**-23  # of losses in single precision
_ENOUGH_ROWS = 4_000  # a first fit on a part this large is so near that two or three steps on all rows do
_LEAST, _MOST = np.exp(-7), np.exp(7)  # of a temperature's inverse: where nothing, or all, is known


@dataclass(frozen=True)
class Fit:
    """Weights (members,), the mean log loss in nats, and the Karush–Kuhn–Tucker residual that is left."""

    weights: np.ndarray
    loss: float
    residual: float


def fit(pool: Pool, folds: list[int], start: np.ndarray | None = None) -> Fit:
    """The weights of least log loss over the rows of `folds`; `start` is a guess near them.

    Newton's method: the quadratic model over v ≥ 0 is a problem of non-negative least squares, which scipy
    solves exactly. The loss is convex, so a point without residual is the optimum.

    Raises:
        DataError: no optimum is found.
    """
    if start is None:
        rows = sum(len(pool.labels[fold]) for fold in folds)
        stride = max(1, rows // _ENOUGH_ROWS)
        start = _newton(pool, folds, np.zeros(len(pool)), stride).weights if stride > 1 else np.zeros(len(pool))
    found = _newton(pool, folds, start, 1)
    if found.residual > TOLERANCE:
        raise DataError(
            f"no optimum of the convex weights was found: a residual of {found.residual:.1e} is left",
            "Use --method equal or greedy.",
        )
    return found


def _newton(pool: Pool, folds: list[int], v: np.ndarray, stride: int) -> Fit:
    loss, gradient, hessian = pool.derivatives(v, folds, stride)
    for _ in range(_MOST_STEPS):
        if _residual(v, gradient) <= _AIM:
            break
        step = _model_minimum(v, gradient, hessian) - v
        share = 1.0
        while True:
            tried = np.maximum(v + share * step, 0.0)
            found = pool.derivatives(tried, folds, stride)
            # Near the optimum of a member that knows little, what a step gains shows in the gradient only.
            level = abs(found[0] - loss) <= _ROUNDING * loss and _residual(tried, found[1]) < _residual(v, gradient)
            if level or found[0] <= loss + 1e-4 * share * float(gradient @ step) or share < 1e-6:
                break
            share /= 4
        if found[0] >= loss and _residual(tried, found[1]) >= _residual(v, gradient):
            break  # nothing is left that single precision shows
        v, (loss, gradient, hessian) = tried, found
    return Fit(v, loss, _residual(v, gradient))


def _residual(v: np.ndarray, gradient: np.ndarray) -> float:
    return float(np.abs(np.minimum(v, gradient)).max())


def _model_minimum(v: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Where gᵀ(x − v) + ½ (x − v)ᵀ H (x − v) is least over x ≥ 0."""
    from scipy.optimize import nnls

    # Members that agree make H singular, single precision less than that: so little more bends steps, not the optimum.
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    roots = np.sqrt(np.maximum(values, max(1e-6 * values[-1], 1e-12)))
    factor = roots[:, None] * vectors.T  # H = factorᵀ factor
    solution: np.ndarray = nnls(factor, factor @ v - (vectors.T @ gradient) / roots)[0]
    return solution


def fit_temperature(pool: Pool, member: int, folds: list[int], start: float | None = None) -> float:
    """The T > 0 for which the log loss of logits / T is least over these folds (Guo et al. 2017)."""
    some = pool.only([member]).scaled(np.ones(1))
    # In units of what the strongest rival is usually off by, so that the tolerance means the same for loud members and
    # quiet ones. Of all rivals: speakers that a member rules out, with -1e9 say, would set the scale.
    piece = next(some.pieces(folds))
    (margins,) = some.margins(piece)
    margins[np.arange(len(margins)), some.labels[piece.fold][piece.rows]] = -np.inf
    spread = float(np.median(np.abs(margins.max(1)))) or 1.0
    alone = some.scaled(np.array([1 / spread]))
    try:
        inverse = fit(alone, folds, None if start is None else np.array([spread / start])).weights[0]
    except DataError:  # of tails so heavy that in single precision no gradient comes near 0: where its sign changes
        inverse = _where_the_slope_changes(alone, folds)
    return float(spread / np.clip(inverse, _LEAST, _MOST))


def _where_the_slope_changes(alone: Pool, folds: list[int]) -> float:
    from scipy.optimize import brentq

    def slope(log_inverse: float) -> float:
        return float(alone.derivatives(np.exp([log_inverse]), folds)[1][0])

    low, high = np.log(_LEAST), np.log(_MOST)
    if slope(low) >= 0 or slope(high) <= 0:
        return float(_LEAST if slope(low) >= 0 else _MOST)
    return float(np.exp(brentq(slope, low, high, xtol=1e-3)))
