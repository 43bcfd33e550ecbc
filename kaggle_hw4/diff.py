"""`kaggle-hw4 diff A B`: two submissions, ensembles, members or runs beside each other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.data.store import Store
from kaggle_hw4.difference import Difference, Paired, difference, sent_file
from kaggle_hw4.ensemble import convex
from kaggle_hw4.ensemble.members import choose_members, complete_members, load_fold, load_member
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.recorded import Blend, read_record, recorded_blend
from kaggle_hw4.ensemble.submission import recorded_name
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.ledger import Ledger
from kaggle_hw4.runs import Run, job_of
from kaggle_hw4.submission_file import read_submission, submission_named
from kaggle_hw4.workspace import Workspace

_SHOWN = 10  # utterances


@dataclass(frozen=True)
class Naming:
    """What names the test: `picks` is the speaker of every test id; the rest is None where logits are not at hand.

    `probabilities` (test utterances, speakers) are calibrated out of fold, where one model names an utterance, so
    in the test they are a little too modest; `train_picks` (train utterances,) are out of fold, and so is `accuracy`,
    for which also the weights were fitted without the fold they are tried on.
    """

    name: str
    picks: dict[str, str]
    probabilities: np.ndarray | None = None
    train_picks: np.ndarray | None = None
    accuracy: float | None = None
    note: str = ""  # why logits are not at hand


@dataclass(frozen=True)
class Report:
    """`utterances` are those that A and B name most confidently differently, with what each says."""

    a: str
    b: str
    difference: Difference
    utterances: list[dict[str, Any]]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        names = {"a": self.a, "b": self.b}
        return names | self.difference.as_json() | {"utterances": self.utterances, "notes": self.notes}


def compare_namings(workspace: Workspace, store: Store, folds: Folds, first: str, second: str) -> Report:
    """Compare what two names stand for: a submission or its file, an ensemble, a member, or a run (MEMBER/fold0).

    Raises:
        UsageError: a name that stands for nothing.
        DataError: an artefact is damaged, or does not belong to this data.
    """
    a, b = (_naming(workspace, store, folds, name) for name in (first, second))
    paired = None
    if a.train_picks is not None and b.train_picks is not None and a.accuracy is not None and b.accuracy is not None:
        labels = store.labels[store.train_rows]
        right_a, right_b = a.train_picks == labels, b.train_picks == labels
        discordant = float((right_a != right_b).mean())
        # The picks are of weights fitted to all rows, which the honest accuracies are not: their difference may be
        # more than the rows allow.
        gain = max(-discordant, min(discordant, b.accuracy - a.accuracy))
        paired = Paired(float((a.train_picks != b.train_picks).mean()), discordant, gain)
    found = difference(a.picks, b.picks, paired, None)
    notes = [f"Without the logits of {side.name}: {side.note}." for side in (a, b) if side.note]
    return Report(a.name, b.name, found, _utterances(store, a, b), notes)


def _utterances(store: Store, a: Naming, b: Naming) -> list[dict[str, Any]]:
    """The ten rows that differ for which the less sure of the two is surest."""
    rows = [i for i, name in enumerate(store.test_ids) if a.picks[name] != b.picks[name]]
    ids, number = store.test_ids, {speaker: i for i, speaker in enumerate(store.speakers)}

    def sure(naming: Naming, row: int) -> float | None:
        if naming.probabilities is None:
            return None
        return float(naming.probabilities[row, number[naming.picks[ids[row]]]])

    def least(row: int) -> float:
        return min((p for p in (sure(a, row), sure(b, row)) if p is not None), default=0.0)

    return [
        {"id": ids[row], "a": a.picks[ids[row]], "a_sure": sure(a, row), "b": b.picks[ids[row]], "b_sure": sure(b, row)}
        for row in sorted(rows, key=least, reverse=True)[:_SHOWN]
    ]


def _naming(workspace: Workspace, store: Store, folds: Folds, name: str) -> Naming:
    if path := submission_named(workspace, name) or _sent(workspace, store, name):
        return _of_file(workspace, store, folds, path)
    if (run := Run(workspace.runs / name)).finished and run.folder.parent.parent == workspace.runs:
        return _of_run(workspace, store, folds, name, job_of(run).fold)
    complete, missing = complete_members(workspace, folds.k)
    if name in complete or name in missing:
        (chosen,) = choose_members(workspace, folds.k, [name])  # says which folds are missing
        member = load_member(workspace, store, folds, chosen)
        labels = store.labels[store.train_rows]
        pool = Pool.of([member], [labels[folds.validation_rows(fold)] for fold in range(folds.k)])
        beta = 1 / convex.fit_temperature(pool, 0, pool.all_folds)
        blend = Blend([member], np.array([beta]))  # no weights that know the rows they are tried on
        return _of_blend(store, folds, name, blend, float((blend.picks(store, folds) == labels).mean()))
    sent = ", ".join(sorted(path.stem for path in workspace.submissions.glob("*.csv"))) or "none"
    raise UsageError(
        f"{name!r} is no submission, member or run of {workspace.root}, and no file",
        f"Submissions: {sent}. Members: {', '.join([*complete, *missing]) or 'none'}. A run is MEMBER/fold0.",
    )


def _of_run(workspace: Workspace, store: Store, folds: Folds, name: str, fold: int) -> Naming:
    found = load_fold(workspace, store, folds, Path(name).parent.name, fold)
    picks = _picks(store, found.test)
    if found.oof is None:
        return Naming(name, picks, note="a refit has no utterances held out, by which to tell how sure it may be")
    alone = Pool([[found.oof]], [store.labels[folds.validation_rows(fold)]], np.ones(1))
    temperature = convex.fit_temperature(alone, 0, alone.all_folds)
    return Naming(name, picks, _probabilities(found.test / np.float32(temperature)))


def _sent(workspace: Workspace, store: Store, name: str) -> Path | None:
    """The file of a submission that was sent from elsewhere, by the name on the board or Kaggle's number."""
    rows = (row for row in Ledger(workspace.ledger).all(store.competition) if name in (row.name, str(row.ref)))
    return next((path for row in rows if (path := sent_file(workspace, row))), None)


def _of_file(workspace: Workspace, store: Store, folds: Folds, path: Path) -> Naming:
    frame = read_submission(path, store.test_ids, store.speakers)
    picks = dict(zip(frame[ID_COLUMN], frame[LABEL_COLUMN], strict=True))
    try:
        if not recorded_name(workspace, path):
            return Naming(path.stem, picks, note="there is no record of what it was made from")
        record = read_record(path)
        made = _of_blend(store, folds, path.stem, recorded_blend(workspace, store, folds, record), record["accuracy"])
    except DataError as error:  # the rows are what was, or will be, sent
        return Naming(path.stem, picks, note=error.cause)
    return replace(made, picks=picks)


def _of_blend(store: Store, folds: Folds, name: str, blend: Blend, accuracy: float) -> Naming:
    logits = blend.test(folds.k)
    return Naming(name, _picks(store, logits), _probabilities(logits), blend.picks(store, folds), accuracy)


def _picks(store: Store, logits: np.ndarray) -> dict[str, str]:
    return {name: store.speakers[i] for name, i in zip(store.test_ids, logits.argmax(1), strict=True)}


def _probabilities(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    p: np.ndarray = softmax(logits, axis=1)
    return p
