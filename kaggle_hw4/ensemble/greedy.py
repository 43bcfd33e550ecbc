"""Greedy selection with replacement (Caruana et al. 2004) of the members whose mean names most utterances rightly.

Accuracy is all that counts here, which allows an exact shortcut: a speaker whom no member prefers to the
true one is preferred by no mean either. Only the other pairs of utterance and speaker are kept.
"""

from dataclasses import dataclass

import numpy as np

from kaggle_hw4.ensemble.pool import Piece, Pool, in_threads

_ROUNDS = 100
_BYTES = 400_000_000  # of the contested pairs; they are copied twice
_COUNTED_ROWS = 4_000


@dataclass(frozen=True)
class Contest:
    """`margins` (members, pairs): how much a member prefers another speaker to the true one.

    Pairs of an utterance lie together: they start at `starts`, one for each contested utterance, which
    is in the fold `folds` says. Every `stride`-th utterance was looked at.
    """

    margins: np.ndarray
    starts: np.ndarray
    folds: np.ndarray
    stride: int

    def without(self, fold: int) -> "Contest":
        """The contest on the other folds."""
        kept = self.folds != fold
        lengths = np.diff(np.append(self.starts, self.margins.shape[1]))
        starts = np.cumsum(np.concatenate([[0], lengths[kept]]))[:-1]
        return Contest(self.margins[:, np.repeat(kept, lengths)], starts, self.folds[kept], self.stride)

    def right(self, scores: np.ndarray) -> int:
        """How many contested utterances a pool with these scores of the pairs names rightly."""
        return 0 if not len(self.starts) else int((np.maximum.reduceat(scores, self.starts) < 0).sum())


def contest(pool: Pool) -> Contest:
    """The contested pairs of all rows; of evenly spaced rows when all would take too much memory."""
    size = sum(map(len, pool.labels))
    few = max(1, size // _COUNTED_ROWS)
    pairs = sum(int(_contested(pool, piece)[1].sum()) for piece in pool.pieces(pool.all_folds, few)) * few
    stride = max(1, -(-pairs * len(pool) * 4 // _BYTES))
    margins, lengths, folds = [], [np.zeros(1, int)], []
    for piece in pool.pieces(pool.all_folds, stride):
        found, kept = _contested(pool, piece)
        count = kept.sum(1)
        margins.append(found[:, kept])
        lengths.append(count[count > 0])
        folds.append(np.full(int((count > 0).sum()), piece.fold))
    starts = np.cumsum(np.concatenate(lengths))[:-1]
    return Contest(np.concatenate(margins, axis=1), starts, np.concatenate(folds), stride)


def _contested(pool: Pool, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """Margins (members, rows, speakers), and which pairs (rows, speakers) some member gets wrong or leaves open."""
    margins = pool.margins(piece)
    kept: np.ndarray = margins.max(0) >= 0
    labels = pool.labels[piece.fold][piece.rows]
    kept[np.arange(len(labels)), labels] = False
    return margins, kept


def select(pool: Pool, contested: Contest, folds: list[int], scale: np.ndarray) -> np.ndarray:
    """How often each member is taken, as weights that sum to 1: those of the best prefix of the selection.

    Members come times `scale` (members,), relative to the pool's own. `contested` is of the rows of `folds`.
    Of members that would name equally many rightly one taken before wins, then the lower log loss.
    """
    margins = contested.margins * scale[:, None].astype(np.float32)
    taken = np.zeros(len(pool), int)
    total = np.zeros(margins.shape[1], np.float32)
    best, best_right = taken, -1
    for _ in range(_ROUNDS):
        # The lambda is done with before `total` is another.
        counts = in_threads(lambda margin: contested.right(total + margin), margins, margins.nbytes)  # noqa: B023
        right = np.array(counts)
        tied = np.flatnonzero(right == right.max())
        if taken[tied].any():
            tied = tied[taken[tied] > 0]
        chosen = tied[0] if len(tied) == 1 else tied[_least_loss(pool, folds, scale, taken, tied)]
        taken = taken.copy()
        taken[chosen] += 1
        total += margins[chosen]
        if right[chosen] > best_right:
            best, best_right = taken, right[chosen]
    return best / best.sum()


def _least_loss(pool: Pool, folds: list[int], scale: np.ndarray, taken: np.ndarray, tied: np.ndarray) -> int:
    counts = np.array([taken + (np.arange(len(taken)) == member) for member in tied])
    losses = pool.score(counts * scale / counts.sum(1, keepdims=True), folds)[1]
    return int(losses.mean(1, dtype=np.float64).argmin())
