"""The members of an ensemble: which there are, and their logits, mapped and checked."""

from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import (
    LARGEST_LOGIT,
    REFIT,
    Run,
    check_identity,
    check_place,
    finishing_command,
    identity,
    job_of,
    run_at,
)
from kaggle_hw4.variants import SETS
from kaggle_hw4.workspace import Workspace, check_fields, content_hash, file_hash

_CHECKED_AT_ONCE = 4096  # rows
_LONGEST_HEADER = 1 << 16  # bytes, in a .npy file


@dataclass(frozen=True)
class Logits:
    """Mapped logits (rows, speakers); `rows` picks those that count, None all of them."""

    array: np.ndarray
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def read(self, rows: slice) -> np.ndarray:
        return self.array[rows] if self.rows is None else self.array[self.rows[rows]]


@dataclass(frozen=True)
class Member:
    """A (variant, seed) trained on every fold, or logits from elsewhere.

    `oof[f]` has the train utterances held out in fold f, in the order of the index, each named by a
    model that has not seen it; the mean of the arrays of `test` (test utterances, speakers) names the
    test, with `refit`, those of the model trained on all labels, as one more. That one has no
    cross-validation of its own: the weight and temperature of the folds' models are taken for it too.
    `parts` says which files these are, with their hashes; `made_from` is the hash of all of it.
    """

    name: str
    oof: list[Logits]
    test: list[np.ndarray]
    parts: list[dict[str, Any]]
    refit: np.ndarray | None = None

    @property
    def made_from(self) -> str:
        return content_hash([{k: v for k, v in part.items() if not k.endswith("file")} for part in self.parts])

    def mean_test(self) -> np.ndarray:
        """Test logits (test utterances, speakers) float32, averaged over the models."""
        arrays = [*self.test, *([] if self.refit is None else [self.refit])]
        total = np.zeros(self.test[0].shape, np.float64)
        for logits in arrays:
            total += logits
        return (total / len(arrays)).astype(np.float32)


def complete_members(workspace: Workspace, k: int) -> tuple[list[str], dict[str, list[int]]]:
    """Names of the members trained on all k folds, and the folds still missing of the others."""
    complete, missing = [], {}
    for folder in sorted(workspace.runs.glob("*")):
        unfinished = [fold for fold in range(k) if not Run(folder / f"fold{fold}").finished]
        if not unfinished:
            complete.append(folder.name)
        elif any(Run(folder / f"fold{fold}").started for fold in range(k)):
            missing[folder.name] = unfinished
    return complete, missing


def choose_members(workspace: Workspace, k: int, names: list[str], command: str = "ensemble") -> list[str]:
    """The members named by members, variants (all seeds) or sets; all of the workspace when none is named.

    `command` is the one that they are chosen for, as it is offered without those that are not complete.

    Raises:
        UsageError: a name that no member answers to.
        DataError: nothing is trained, or a chosen member lacks folds (it is never left out silently).
    """
    complete, missing = complete_members(workspace, k)
    if not complete and not missing:
        raise DataError(f"nothing is trained in {workspace.runs}", "Run `kaggle-hw4 train --fold all` first.")
    everything = sorted([*complete, *missing])
    chosen: list[str] = []
    for name in names or everything:
        variants = SETS.get(name, (name,))
        found = [member for member in everything if member == name or member.rsplit("-s", 1)[0] in variants]
        if not found:
            raise UsageError(f"no member {name!r}", f"There are: {', '.join(everything)}.")
        chosen += [member for member in found if member not in chosen]
    if lacking := [name for name in chosen if name in missing]:
        folds = "; ".join(f"{name}: fold {', '.join(map(str, missing[name]))}" for name in lacking)
        others = [name for name in chosen if name in complete]
        offer = f"; or without them: kaggle-hw4 {command} {' '.join(others)}" if others else ""
        raise DataError(
            f"not trained on every fold yet: {folds}", f"Run: {finishing_command(workspace, lacking)}{offer}"
        )
    return chosen


@dataclass(frozen=True)
class FoldOfMember:
    """What a member's run on one fold, or its refit, holds: logits, its recipe, and what is recorded of it."""

    oof: Logits | None  # none of a refit
    test: np.ndarray
    recipe: Variant
    part: dict[str, Any]


def load_fold(workspace: Workspace, store: Store, folds: Folds, name: str, fold: int) -> FoldOfMember:
    """Map a member's logits of one fold. Raises DataError: a run of other data or folds, or logits that are damaged."""
    run = run_at(workspace, name, fold)
    again = f"Write it anew from the weights: kaggle-hw4 predict {name}"
    job, result = job_of(run), run.read_result()
    try:
        check_fields(result, test=str, oof=NoneType if fold == REFIT else str)
    except ValueError as error:
        raise DataError(f"{run.result} is not the result of a run: {error}", run.train_again) from error
    check_place(workspace, run)
    expected = identity(job, store, folds)
    check_identity(run, expected)
    oof, speakers = None, len(store.speakers)
    if fold != REFIT:
        train_ids = store.index["id"].iloc[folds.validation_rows(fold)].tolist()
        oof = Logits(_checked(run.oof, result.get("oof"), train_ids, speakers, again))
    test = _checked(run.test, result.get("test"), store.test_ids, speakers, again)
    part = {"fold": fold, "run": expected["hash"], "oof": result["oof"], "test": result["test"]}
    return FoldOfMember(oof, test, job.variant, part)


def load_member(workspace: Workspace, store: Store, folds: Folds, name: str, *, refit: bool = True) -> Member:
    """Map a member's logits of every fold, and those of its refit when there is one and `refit`.

    Raises:
        DataError: what `load_fold` raises, or folds of different recipes.
    """
    numbers = list(range(folds.k))
    if refit and run_at(workspace, name, REFIT).finished:
        numbers.append(REFIT)
    loaded = [load_fold(workspace, store, folds, name, number) for number in numbers]
    if any(fold.recipe != loaded[0].recipe for fold in loaded):
        raise DataError(f"the folds of {name} were trained with different recipes", "Train them anew with one.")
    return Member(
        name,
        [fold.oof for fold in loaded if fold.oof],
        [fold.test for fold in loaded[: folds.k]],
        [fold.part for fold in loaded],
        loaded[-1].test if len(loaded) > folds.k else None,
    )


def added_member(store: Store, folds: Folds, name: str, oof: Path, test: Path) -> Member:
    """A member from elsewhere: .npy files of logits (train or test utterances in the order of the index, speakers).

    Raises:
        DataError: a file that is missing, not of that shape, or holds what is no finite number.
    """
    order = f"Its rows are the utterances of {store.folder}/index.csv in their order, its columns the speakers."
    train_ids = store.index["id"].iloc[store.train_rows].tolist()
    logits = _checked(oof, None, train_ids, len(store.speakers), order)
    held_out = [Logits(logits, folds.validation_rows(fold)) for fold in range(folds.k)]
    tests = _checked(test, None, store.test_ids, len(store.speakers), order)
    if tests.dtype.itemsize > 4:  # what the speakers of a row share may be more than single precision can add to
        tests = (tests - tests.max(1, keepdims=True)).astype(np.float32)
    part = {"oof": file_hash(oof), "oof_file": str(oof.resolve())}
    return Member(name, held_out, [tests], [part | {"test": file_hash(test), "test_file": str(test.resolve())}])


def _checked(path: Path, expected_hash: str | None, ids: list[str], speakers: int, remedy: str) -> np.ndarray:
    """Map logits (len(ids), speakers). Raises DataError for anything else, and for another hash when one is given."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")  # a pipe would be waited for
        with open(path, "rb") as file:
            begin = file.read(12)
        if begin[6:7] > b"\1" and int.from_bytes(begin[8:], "little") > _LONGEST_HEADER:
            raise ValueError("its header is no array's")  # for whose bytes numpy makes room before it reads them
        if expected_hash is not None and file_hash(path) != expected_hash:
            raise DataError(f"{path} is not the file that was written: its checksum differs", remedy)
        logits = np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # numpy lets through what its parser of headers raises
        raise DataError(f"{path} cannot be read: {error}", remedy) from error
    if getattr(logits, "shape", None) != (len(ids), speakers) or logits.dtype.kind != "f":
        found = f"{logits.shape} {logits.dtype}" if isinstance(logits, np.ndarray) else type(logits).__name__
        raise DataError(f"{path} holds {found}, not {(len(ids), speakers)} logits in floating point", remedy)
    for start in range(0, len(ids), _CHECKED_AT_ONCE):
        largest = np.abs(logits[start : start + _CHECKED_AT_ONCE]).max(1)
        usable = largest.astype(np.float64) <= LARGEST_LOGIT  # in float16 the limit would be infinity
        if not usable.all():
            first = start + int(np.flatnonzero(~usable)[0])
            kinds = f"NaN, infinity or more than {LARGEST_LOGIT:.0e}"
            raise DataError(f"{path} holds {kinds}, first in row {first} ({ids[first]})", remedy)
    return logits
