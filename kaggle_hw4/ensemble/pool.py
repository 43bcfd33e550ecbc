"""A log-linear pool of members: p(speaker) ∝ exp(Σ v_i z_i), its log loss, and what it says of every utterance.

All that is computed goes through the mapped logits in pieces of rows, so that memory does not grow with
the number of utterances or members. Each row is taken relative to the logit of the true speaker, which
changes no probability: the log loss is then log Σ exp(Σ v_i d_i), its gradient the mean of d under the
pool, its Hessian the covariance; and rows that are named surely and rightly add nothing but small numbers.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from kaggle_hw4.ensemble.members import Logits, Member
from kaggle_hw4.machine import usable_cores

S = TypeVar("S")
T = TypeVar("T")

_BLENDED_ROWS = 20_000  # kept in memory; more make no temperature more exact than it need be
_PIECE_BYTES = 16_000_000  # of the margins that are in memory at once, per thread


@dataclass(frozen=True)
class Piece:
    """Rows of one fold."""

    fold: int
    rows: slice


@dataclass(frozen=True)
class Pool:
    """Out-of-fold logits of members, each times its `scale` (1 / temperature), and the labels of every fold.

    Rows are in the order of the folds, and within a fold in that of the index.
    """

    members: list[list[Logits]]  # member, fold
    labels: list[np.ndarray]  # of each fold
    scale: np.ndarray  # (members,)

    @staticmethod
    def of(members: list[Member], labels: list[np.ndarray]) -> "Pool":
        return Pool([member.oof for member in members], labels, np.ones(len(members)))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def all_folds(self) -> list[int]:
        return list(range(len(self.labels)))

    def only(self, members: list[int]) -> "Pool":
        return replace(self, members=[self.members[i] for i in members], scale=self.scale[members])

    def scaled(self, scale: np.ndarray) -> "Pool":
        return replace(self, scale=np.asarray(scale, np.float64))

    def labels_of(self, folds: list[int]) -> np.ndarray:
        return np.concatenate([self.labels[fold] for fold in folds])

    def derivatives(self, v: np.ndarray, folds: list[int], stride: int = 1) -> tuple[float, np.ndarray, np.ndarray]:
        """Mean log loss in nats at weights v (members,), its gradient (members,) and its Hessian, exactly.

        Only every `stride`-th row of the folds is looked at.
        """

        def of(piece: Piece) -> tuple[int, float, np.ndarray, np.ndarray]:
            margins = self.margins(piece)
            members, rows, speakers = margins.shape
            flat = margins.reshape(members, -1)
            p = (v.astype(np.float32) @ flat).reshape(rows, speakers)
            losses = _softmax(p)
            weighted = margins * p
            means = weighted.sum(2)
            second = weighted.reshape(members, -1) @ flat.T - means @ means.T
            return rows, float(losses.sum(dtype=np.float64)), means.sum(1, dtype=np.float64), second

        count, loss = 0, 0.0
        gradient, hessian = np.zeros(len(self)), np.zeros((len(self), len(self)))
        for rows, piece_loss, first, second in self._through(of, folds, stride):
            count += rows
            loss += piece_loss
            gradient += first
            hessian += second
        return loss / count, gradient / count, hessian / count

    def score(self, weights: np.ndarray, folds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """What pools with `weights` (pools, members) say: the speaker named and the log loss, each (pools, rows)."""
        used = np.flatnonzero(np.any(weights, axis=0))
        if len(used) < len(self):
            return self.only(used.tolist()).score(weights[:, used], folds)

        def of(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
            blended = self._blended(weights, piece)
            return blended.argmax(2).astype(np.int32), _softmax(blended)

        found = self._through(of, folds, pools=len(weights))
        return np.concatenate([f[0] for f in found], axis=1), np.concatenate([f[1] for f in found], axis=1)

    def name(self, weights: np.ndarray, folds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """What pools with `weights` (pools, members) say: the speaker named and its probability, each (pools, rows)."""

        def of(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
            blended = self._blended(weights, piece)
            picks = blended.argmax(2).astype(np.int32)
            _softmax(blended)
            return picks, blended.max(2)

        found = self._through(of, folds, pools=len(weights))
        return np.concatenate([f[0] for f in found], axis=1), np.concatenate([f[1] for f in found], axis=1)

    def blended(self, weights: np.ndarray, folds: list[int]) -> "Pool":
        """What the pool with `weights` (members,) says as one member: of some 20,000 evenly spaced rows of `folds`."""
        stride = max(1, sum(len(self.labels[fold]) for fold in folds) // _BLENDED_ROWS)
        pieces = list(self.pieces(folds, stride))
        margins = self._through(lambda piece: self._blended(weights[None], piece)[0], folds, stride)
        labels = [np.zeros(0, self.labels[0].dtype)] * len(self.labels)
        logits = [np.zeros((0, self.members[0][0].array.shape[1]), np.float32)] * len(self.labels)
        for fold in folds:
            of_fold = [i for i, piece in enumerate(pieces) if piece.fold == fold]
            logits[fold] = np.concatenate([margins[i] for i in of_fold])
            labels[fold] = np.concatenate([self.labels[fold][pieces[i].rows] for i in of_fold])
        return Pool([[Logits(array) for array in logits]], labels, np.ones(1))

    def _blended(self, weights: np.ndarray, piece: Piece) -> np.ndarray:
        """Blended margins (pools, rows, speakers) of pools with `weights` (pools, members)."""
        margins = self.margins(piece)
        members, rows, speakers = margins.shape
        blended: np.ndarray = weights.astype(np.float32) @ margins.reshape(members, -1)
        return blended.reshape(-1, rows, speakers)

    def pieces(self, folds: list[int], stride: int = 1, pools: int = 0) -> Iterator[Piece]:
        """The rows of these folds, so many at a time that margins (and blends of so many `pools`) stay small."""
        speakers = self.members[0][0].array.shape[1]
        step = max(1, _PIECE_BYTES // (4 * speakers * max(len(self), pools))) * stride
        for fold in folds:
            size = len(self.labels[fold])
            for start in range(0, size, step):
                yield Piece(fold, slice(start, min(start + step, size), stride))

    def margins(self, piece: Piece) -> np.ndarray:
        """Logits minus that of the true speaker, scaled: (members, rows, speakers) float32."""
        labels = self.labels[piece.fold][piece.rows]
        rows = np.arange(len(labels))
        margins = np.empty((len(self), len(labels), self.members[0][0].array.shape[1]), np.float32)
        for margin, member, scale in zip(margins, self.members, self.scale, strict=True):
            logits = member[piece.fold].read(piece.rows)
            # In float32 at least: the difference of two halves need not be one. What doubles share may need doubles.
            kind = np.result_type(logits.dtype, np.float32)
            np.subtract(logits, logits[rows, labels][:, None], out=margin, dtype=kind, casting="same_kind")
            if scale != 1:
                margin *= np.float32(scale)
        return margins

    def _through(self, work: Callable[[Piece], T], folds: list[int], stride: int = 1, pools: int = 0) -> list[T]:
        """Do `work` on every piece; results in the order of the pieces, so that sums repeat to the bit."""
        pieces = list(self.pieces(folds, stride, pools))
        rows = sum(len(self.labels[fold]) for fold in folds) // stride
        return in_threads(work, pieces, rows * len(self) * self.members[0][0].array.shape[1] * 4)


def in_threads(work: Callable[[S], T], parts: Iterable[S], size: int) -> list[T]:
    """`work` of every part, in order; on all cores when the parts have so many bytes (`size`) that it pays."""
    if size < _PIECE_BYTES:
        return list(map(work, parts))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cores()) as threads:
        return list(threads.map(work, parts))


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Turn margins (…, speakers) into probabilities in place; gives the log loss (…)."""
    top = scores.max(-1, keepdims=True)
    np.subtract(scores, top, out=scores)
    np.exp(scores, out=scores)
    total = scores.sum(-1, keepdims=True)
    scores /= total
    loss: np.ndarray = (top + np.log(total))[..., 0]
    return loss
