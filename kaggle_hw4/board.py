"""The board: what each member and each submission scores, in cross-validation and on the leaderboard."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggle_hw4.band import Band, Scored, band
from kaggle_hw4.competition import DAILY_SLOTS, Competition
from kaggle_hw4.difference import read_rows, sent_rows
from kaggle_hw4.ensemble.submission import MADE_AGAIN, record_of
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import BROUGHT_BACK, made_again
from kaggle_hw4.ledger import Ledger, Row, number
from kaggle_hw4.runs import Run
from kaggle_hw4.workspace import Workspace, check_fields, content_hash, file_hash, read_json

if TYPE_CHECKING:
    import numpy as np

_ORDERS = 9_999  # tried at most: all of up to 7 submissions


@dataclass(frozen=True)
class MemberLine:
    """A member and its out-of-fold accuracy over the folds of this split done so far (None before the first).

    0 of 0 folds where the split is gone.
    """

    name: str
    accuracy: float | None
    folds_done: int
    folds: int


@dataclass(frozen=True)
class SubmissionLine:
    """A submission, or an ensemble that was not sent (its state is "not sent").

    `accuracy` is out of fold, weights refitted without each fold, `interval` its 95 %; None for a file made
    elsewhere. Scores as Kaggle gives them. `ranks` among ours by "cv", "public" and "private", from 1.
    `place` among so many `teams` by the public score, when last looked up.
    """

    name: str
    created: str
    accuracy: float | None
    interval: tuple[float, float] | None
    public: str | None
    private: str | None
    state: str
    ref: int | None
    band: Band | None
    ranks: dict[str, int]
    place: int | None
    teams: int | None

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {
            "interval": list(self.interval) if self.interval else None,
            "public": number(self.public),
            "private": number(self.private),
            "band": vars(self.band) if self.band else None,
        }


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's, of the cross-validated accuracy and a score, over so many submissions."""

    rho: float
    p: float
    submissions: int


@dataclass(frozen=True)
class Board:
    """Submissions newest first, members best first, ensembles that were not sent best first.

    `correlations` by "public" and "private", of three submissions or more. `slots` left today: by Kaggle
    when it was just asked, else as the ledger counts them. `problem`: why members cannot be measured, and the remedy.
    """

    competition: Competition
    submissions: list[SubmissionLine]
    members: list[MemberLine]
    unsent: list[SubmissionLine]
    correlations: dict[str, RankCorrelation]
    slots: int
    slots_from: str  # "Kaggle" or "ledger"
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Scores as numbers; a score that is not known is null."""
        return {
            "competition": self.competition.slug,
            "baselines": self.competition.baselines,
            "slots": {"left": self.slots, "from": self.slots_from},
            "submissions": [line.as_json() for line in self.submissions],
            "unsent": [line.as_json() for line in self.unsent],
            "rank_correlation": {score: vars(found) for score, found in self.correlations.items()},
            "members": [vars(line) for line in self.members],
        }


def read_board(workspace: Workspace, edition: Competition, slots: int | None = None) -> Board:
    """Read the board of a workspace; an empty one gives an empty board. `slots` is what Kaggle says of today.

    Raises:
        DataError: the ledger or an artefact cannot be read.
    """
    rows = Ledger(workspace.ledger).all(edition.slug)
    entries = [_entry(workspace, row) for row in rows]
    submissions = _with_bands_and_ranks(entries, rows)
    sent = {row.csv_hash for row in rows}
    waiting = [_unsent(path) for path in sorted(workspace.submissions.glob("*.csv")) if record_of(path).exists()]
    scored = [entry for _, entry in entries if entry]
    unsent = [
        replace(line, band=band(entry, scored) if entry else None)
        for hash, line, entry in waiting
        if hash and hash not in sent
    ]
    members, problem = _member_lines(workspace), ""
    if members and not workspace.folds_file.exists():
        problem = f"{workspace.folds_file} is gone, and with it what the trainings are measured by.\n  {BROUGHT_BACK}"
    return Board(
        edition,
        submissions,
        sorted(members, key=_best_complete_first),
        sorted(unsent, key=lambda line: -(line.accuracy or 0.0)),
        _correlations(_distinct(submissions, rows)),
        max(0, DAILY_SLOTS - _made_today(rows)) if slots is None else slots,
        "ledger" if slots is None else "Kaggle",
        problem,
    )


def _made_today(rows: list[Row]) -> int:
    today = datetime.now(UTC).date().isoformat()
    return sum(row.ref is not None and row.created.startswith(today) for row in rows)


def _entry(workspace: Workspace, row: Row) -> tuple[SubmissionLine, Scored | None]:
    made = _record(workspace.submissions / f"{row.ensemble}.csv", row.csv_hash) if row.ensemble else {}
    line = SubmissionLine(
        row.name,
        row.created,
        made.get("accuracy"),
        _interval(made),
        row.public,
        row.private,
        row.state,
        row.ref,
        None,
        {},
        row.place,
        row.teams,
    )
    return line, _scored(made, sent_rows(workspace, row) if made else None, number(row.public))


def _unsent(csv: Path) -> tuple[str, SubmissionLine, Scored | None]:
    """An ensemble with its file's hash, "" when the file is not what the record says."""
    hash = file_hash(csv)
    made = _record(csv, hash)
    line = SubmissionLine(
        csv.stem, "", made.get("accuracy"), _interval(made), None, None, "not sent", None, None, {}, None, None
    )
    return (hash if made else ""), line, _scored(made, read_rows(csv) if made else None, None)


def _record(csv: Path, csv_hash: str) -> dict[str, Any]:
    """What the file was made from; nothing when there is no record, or it is of another file."""
    path = record_of(csv)
    if not path.exists():
        return {}
    again = f"Delete it; {MADE_AGAIN}"
    made = read_json(path, again)
    if not isinstance(made, dict) or made.get("csv") != csv_hash:
        return {}
    try:
        if made.get("accuracy") is not None:
            check_fields(made, accuracy=int | float)
        for end in made.get("interval") or ():
            check_fields({"interval": end}, interval=int | float)
        if made.get("averaging") is not None:
            check_fields(made, accuracy=int | float)
            check_fields(made["averaging"], gain=int | float, sd=int | float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} is not the record of an ensemble: {error}", again) from error
    return made


def _interval(made: dict[str, Any]) -> tuple[float, float] | None:
    found = made.get("interval")
    return (float(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


def _scored(made: dict[str, Any], rows: dict[str, str] | None, public: float | None) -> Scored | None:
    interval, averaging = _interval(made), made.get("averaging")
    if rows is None or interval is None or not isinstance(averaging, dict):
        return None
    error = (interval[1] - interval[0]) / 3.92  # a 95 % interval is so many standard errors wide
    return Scored(made["accuracy"], error, averaging["gain"], averaging["sd"], rows, public)


def _with_bands_and_ranks(entries: list[tuple[SubmissionLine, Scored | None]], rows: list[Row]) -> list[SubmissionLine]:
    scored = [entry for _, entry in entries]
    ranked = _distinct([line for line, _ in entries], rows)
    lines = []
    for i, (line, entry) in enumerate(entries):
        others = [other for j, other in enumerate(scored) if other and j != i]
        ranks = {
            kind: 1 + sum(value > mine for other in ranked if (value := _value(other, kind)) is not None)
            for kind in ("cv", "public", "private")
            if (mine := _value(line, kind)) is not None and not _refused(line)
        }
        lines.append(replace(line, band=band(entry, others) if entry else None, ranks=ranks))
    return lines


def best_first(line: SubmissionLine) -> tuple[float, float]:
    """What to sort by: the highest public score first, of equal ones and before any the best cross-validation."""
    return -(number(line.public) or 0.0), -(line.accuracy or 0.0)


def _refused(line: SubmissionLine) -> bool:
    """It never became a submission."""
    return line.ref is None and line.state == "error"


def _distinct(lines: list[SubmissionLine], rows: list[Row]) -> Collection[SubmissionLine]:
    """Of a file that was sent more than once, which says nothing new, one line: a scored one where there is one.

    `rows` are those of the lines. Files made elsewhere may all have one name.
    """
    sent = [(row.csv_hash or row.ref, line) for line, row in zip(lines, rows, strict=True) if not _refused(line)]
    return dict(sorted(sent, key=lambda one: one[1].public is not None)).values()


def _value(line: SubmissionLine, kind: str) -> float | None:
    return {"cv": line.accuracy, "public": number(line.public), "private": number(line.private)}[kind]


def _correlations(distinct: Collection[SubmissionLine]) -> dict[str, RankCorrelation]:
    found = {}
    for kind in ("public", "private"):
        pairs = [(line.accuracy, _value(line, kind)) for line in distinct]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if len(both) >= 3 and all(len(set(values)) > 1 for values in zip(*both, strict=True)):
            found[kind] = _rank_correlation(*zip(*both, strict=True))
    return found


def _rank_correlation(ours: tuple[float, ...], theirs: tuple[float, ...]) -> RankCorrelation:
    """Spearman's, and by how many of all orders it is reached: of three that agree p is 1/3, not 0."""
    from scipy.stats import permutation_test, rankdata, spearmanr

    a, b = rankdata(ours), rankdata(theirs)

    def statistic(a: "np.ndarray", axis: int) -> "np.ndarray":
        return (a * b).sum(axis)

    orders = permutation_test(
        (a,), statistic, permutation_type="pairings", vectorized=True, n_resamples=_ORDERS, random_state=0
    )
    return RankCorrelation(float(spearmanr(ours, theirs).statistic), float(orders.pvalue), len(ours))


def _member_lines(workspace: Workspace) -> list[MemberLine]:
    folders = sorted(path for path in workspace.runs.glob("*") if path.is_dir())
    if not workspace.folds_file.exists():
        return [MemberLine(folder.name, None, 0, 0) for folder in folders]
    split = read_json(workspace.folds_file, made_again(workspace.folds_file))
    lines = []
    for folder in folders:
        try:
            k, folds = len(set(check_fields(split, fold_of=dict)["fold_of"].values())), content_hash(split)
            runs = [run for run in (Run(folder / f"fold{fold}") for fold in range(k)) if run.finished]
            ours = [run for run in runs if run.read_record()["folds"] == folds]
            measured = {"utterances": int, "accuracy": int | float}
            results = [check_fields(run.read_result(), **measured) for run in ours]
            utterances = sum(result["utterances"] for result in results)
            correct = sum(result["accuracy"] * result["utterances"] for result in results)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{workspace.folds_file} or a run in {folder} is damaged: {error!r}", "Delete it and make it again."
            ) from error
        lines.append(MemberLine(folder.name, correct / utterances if utterances else None, len(results), k))
    return lines


def _best_complete_first(line: MemberLine) -> tuple[bool, float]:
    return line.folds_done < line.folds, -(line.accuracy or 0.0)
