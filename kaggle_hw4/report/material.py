"""What a workspace holds, read when it is asked for; what is missing or damaged raises an error with a remedy."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kaggle_hw4.board import Board, SubmissionLine, best_first, read_board
from kaggle_hw4.check import Finding, check_data, confused_pairs
from kaggle_hw4.competition import DEFAULT_SLUG, Competition, competition
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.ensemble.recorded import read_record
from kaggle_hw4.ensemble.submission import record_of
from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.folds import Folds, load_folds
from kaggle_hw4.report.naming import Naming, named_by_blend, named_by_member
from kaggle_hw4.runs import Job, Run, check_place, job_of
from kaggle_hw4.workspace import Workspace

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Training:
    """One fold of a member, finished or not. `loss` and `accuracy` by step, as logged."""

    run: Run
    job: Job
    split: tuple[str, str]  # hashes of data and folds
    loss: Curve
    accuracy: Curve
    result: dict[str, Any] | None

    @property
    def final(self) -> float | None:
        """Accuracy on the fold's whole utterances."""
        return self.result["accuracy"] if self.result else None


@dataclass(frozen=True)
class Member:
    """A (variant, seed) and its trainings, by fold."""

    name: str
    trainings: list[Training]

    @property
    def finished(self) -> list[Training]:
        return [training for training in self.trainings if training.result]

    @property
    def accuracy(self) -> float | None:
        """Over all utterances of the finished folds."""
        counts = [training.result["utterances"] for training in self.finished if training.result]
        return float(np.average([t.final for t in self.finished], weights=counts)) if counts else None


class Material:
    """The artefacts of a workspace. Every property raises HW4Error where it cannot be had."""

    def __init__(self, workspace: Workspace, tick: Callable[[str], None] = lambda what: None) -> None:
        self.workspace, self.tick = workspace, tick

    @cached_property
    def edition(self) -> Competition:
        """The competition of the data; the default one where the data cannot be read."""
        try:
            return competition(self.store.competition)
        except HW4Error:
            return competition(DEFAULT_SLUG)

    @cached_property
    def store(self) -> Store:
        return open_store(self.workspace.store)

    @cached_property
    def folds(self) -> Folds:
        return load_folds(self.store, self.workspace.folds_file)

    @cached_property
    def board(self) -> Board:
        return read_board(self.workspace, self.edition)

    @cached_property
    def _trainings(self) -> tuple[list[Training], list[DataError]]:
        trainings, problems = [], []
        for folder in sorted(self.workspace.runs.glob("*/fold*")):
            try:
                if (run := Run(folder)).record.exists():
                    check_place(self.workspace, run)
                    trainings.append(_training(run))
            except HW4Error as error:
                problems.append(DataError(error.cause, error.remedy))
        return trainings, problems

    @cached_property
    def split(self) -> tuple[str, str] | None:
        """Hashes of the data and folds that the report is about: those here, or else what most trainings are of."""
        try:
            return self.store.hash, self.folds.hash
        except HW4Error:
            splits = Counter(training.split for training in self._trainings[0])
            return splits.most_common(1)[0][0] if splits else None

    @cached_property
    def problems(self) -> list[DataError]:
        """Trainings that are left out, and why."""
        others = sorted({t.job.member for t in self._trainings[0] if t.split != self.split})
        problems = list(self._trainings[1])
        if others:
            cause = f"trained on other data or folds, and left out: {', '.join(others)}"
            problems.append(DataError(cause, "Another data set wants a workspace of its own: --root DIR."))
        return problems

    @cached_property
    def members(self) -> list[Member]:
        """Members of this split with a training that was begun; the most folds and the best first."""
        by_name: dict[str, list[Training]] = {}
        for training in self._trainings[0]:
            if training.split == self.split:
                by_name.setdefault(training.job.member, []).append(training)
        if not by_name:
            raise DataError(f"nothing is trained in {self.workspace.runs}", "Run: kaggle-hw4 train --fold all")
        members = [Member(name, trainings) for name, trainings in by_name.items()]
        return sorted(members, key=lambda member: (-len(member.finished), -(member.accuracy or 0.0), member.name))

    @cached_property
    def k(self) -> int:
        """Number of folds; as far as the trainings tell, if the split is not here."""
        try:
            return self.folds.k
        except HW4Error:
            return 1 + max(training.job.fold for member in self.members for training in member.trainings)

    @cached_property
    def best_submission(self) -> SubmissionLine | None:
        """The highest public score; before there is one, the highest cross-validation."""
        lines = [*self.board.submissions, *self.board.unsent]
        return min(lines, key=best_first, default=None)

    @cached_property
    def ensemble(self) -> dict[str, Any]:
        """The record of the blend of several members that is best by cross-validation."""
        records = []
        for csv in sorted(self.workspace.submissions.glob("*.csv")):
            if record_of(csv).exists():
                record = read_record(csv)
                if (record["data"], record["folds"]) == self.split and len(record["members"]) > 1:
                    records.append(record)
        if not records:
            raise DataError("no ensemble of two members or more was made here", "Run: kaggle-hw4 ensemble")
        best = max(records, key=lambda record: float(record["accuracy"]))
        missing = {"pairs"} - best.keys() or {"without", "log_loss"} - best["members"][0].keys()
        if missing:
            what = f"the record of {best['name']} has no {', '.join(sorted(missing))}"
            raise DataError(what, "Make it anew: kaggle-hw4 ensemble")
        return best

    @cached_property
    def naming(self) -> Naming:
        """Who is named out of fold, by the ensemble; by the best member where there is none."""
        self.tick("naming the out-of-fold utterances")
        try:
            return named_by_blend(self.workspace, self.store, self.folds, self.ensemble)
        except HW4Error:
            best = self.members[0]
            if not best.finished:
                raise DataError("no training is finished", "Run: kaggle-hw4 train --fold all") from None
            finished = [training.job.fold for training in best.finished]
            return named_by_member(self.workspace, self.store, self.folds, best.name, finished)

    @cached_property
    def confused(self) -> list[dict[str, Any]]:
        """The pairs of speakers most often taken for each other by `naming`, worst first."""
        return confused_pairs(self.store.speakers, self.naming.labels, self.naming.picks)

    @cached_property
    def findings(self) -> list[Finding]:
        """What `check` finds."""
        return check_data(self.workspace, self.store, self.folds, self.tick)


def _training(run: Run) -> Training:
    """Raises DataError for a run whose files are damaged."""
    try:
        job, record, lines = job_of(run), run.read_record(), run.log_lines()
        result = run.read_result() if run.finished else None
        if result is not None:
            result = result | {"accuracy": float(result["accuracy"]), "utterances": int(result["utterances"])}
        curves = {
            key: [(int(line["step"]), float(line[key])) for line in lines if key in line]
            for key in ("loss", "accuracy")
        }
        return Training(run, job, (record["data"], record["folds"]), curves["loss"], curves["accuracy"], result)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{run.folder} is damaged: {error!r}", run.train_again) from error
