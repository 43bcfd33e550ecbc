"""Who is named out of fold, how surely, and rightly or not."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kaggle_hw4.data.store import Store
from kaggle_hw4.ensemble.members import load_fold
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.recorded import recorded_blend
from kaggle_hw4.folds import Folds
from kaggle_hw4.workspace import Workspace

_MEMBERS_SHOWN = 3  # beside the blend


@dataclass(frozen=True)
class Judged:
    """`sure` (utterances,) is the probability of the speaker named, `right` whether it is the true one."""

    sure: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """One namer, without and with temperatures (None where none are fitted)."""

    name: str
    before: Judged
    after: Judged | None


@dataclass(frozen=True)
class Naming:
    """`rows` of the store (utterances,), their `labels` and the classes named, `picks`; `by` says who names.

    `calibrations`: of the namer first, and of some members.
    """

    by: str
    rows: np.ndarray
    labels: np.ndarray
    picks: np.ndarray
    calibrations: list[Calibration]

    @property
    def right(self) -> np.ndarray:
        right: np.ndarray = self.picks == self.labels
        return right

    def by_speaker(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Classes with utterances, how many each has, and how many of them are named rightly."""
        classes, of = np.unique(self.labels, return_inverse=True)
        return classes, np.bincount(of), np.bincount(of, self.right)


def named_by_blend(workspace: Workspace, store: Store, folds: Folds, record: dict[str, Any]) -> Naming:
    """By the blend of a record, with its members of most weight. Raises what `recorded_blend` raises."""
    blend = recorded_blend(workspace, store, folds, record)
    weights = np.array([member["weight"] for member in record["members"]])
    temperatures = np.array([member["temperature"] for member in record["members"]])
    shown = np.argsort(-weights, kind="stable")[:_MEMBERS_SHOWN]
    alone = np.eye(len(weights))[shown]
    rows = [folds.validation_rows(fold) for fold in range(folds.k)]
    pool = Pool.of(blend.members, [store.labels[fold_rows] for fold_rows in rows])
    names = [record["name"], *(blend.members[i].name for i in shown)]
    before = np.vstack([weights, alone])
    after = np.vstack([blend.beta, alone / temperatures])
    return _naming(pool, np.concatenate(rows), names, before, after)


def named_by_member(workspace: Workspace, store: Store, folds: Folds, name: str, finished: list[int]) -> Naming:
    """By a member, on its finished folds. Raises what `load_fold` raises."""
    rows = [folds.validation_rows(fold) for fold in finished]
    logits = [oof for fold in finished if (oof := load_fold(workspace, store, folds, name, fold).oof)]
    pool = Pool([logits], [store.labels[fold_rows] for fold_rows in rows], np.ones(1))
    by = name if len(finished) == folds.k else f"{name} on fold {', '.join(map(str, finished))}"
    return _naming(pool, np.concatenate(rows), [by], np.ones((1, 1)), None)


def _naming(pool: Pool, rows: np.ndarray, names: list[str], before: np.ndarray, after: np.ndarray | None) -> Naming:
    """`before` and `after` are the weights of all namers, (namers, members), without and with temperatures."""
    labels = pool.labels_of(pool.all_folds)
    systems = before if after is None else np.vstack([before, after])
    picks, sure = pool.name(systems, pool.all_folds)
    judged = [Judged(s, p == labels) for s, p in zip(sure, picks, strict=True)]
    count = len(names)
    afters: list[Judged | None] = [None] * count if after is None else [*judged[count:]]
    calibrations = [Calibration(*found) for found in zip(names, judged[:count], afters, strict=True)]
    return Naming(names[0], rows, labels, picks[0 if after is None else count], calibrations)
