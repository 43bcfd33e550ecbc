"""The board: what each member and each submission scores, in cross-validation and on the leaderboard."""

from dataclasses import dataclass
from typing import Any

from kaggle_hw4.competition import Competition
from kaggle_hw4.errors import DataError
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.runs import Run
from kaggle_hw4.workspace import Workspace, content_hash, read_json


@dataclass(frozen=True)
class MemberLine:
    """A member and its out-of-fold accuracy over the folds of this split done so far (None before the first)."""

    name: str
    accuracy: float | None
    folds_done: int
    folds: int


@dataclass(frozen=True)
class SubmissionLine:
    """A submission; `accuracy` is out of fold, None for a file made elsewhere. Scores as Kaggle gives them."""

    name: str
    created: str
    accuracy: float | None
    public: str | None
    private: str | None
    state: str
    ref: int | None


@dataclass(frozen=True)
class Board:
    """Submissions newest first, members best first."""

    competition: Competition
    submissions: list[SubmissionLine]
    members: list[MemberLine]

    def as_json(self) -> dict[str, Any]:
        """Scores as numbers; a score that is not known is null."""
        return {
            "competition": self.competition.slug,
            "baselines": self.competition.baselines,
            "submissions": [
                vars(line) | {"public": _number(line.public), "private": _number(line.private)}
                for line in self.submissions
            ],
            "members": [vars(line) for line in self.members],
        }


def read_board(workspace: Workspace, edition: Competition) -> Board:
    """Read the board of a workspace; an empty one gives an empty board.

    Raises:
        DataError: the ledger or an artefact cannot be read.
    """
    rows = Ledger(workspace.ledger).all(edition.slug)
    submissions = [_submission_line(workspace, row) for row in rows]
    members = _member_lines(workspace)
    return Board(edition, submissions, sorted(members, key=_best_complete_first))


def _member_lines(workspace: Workspace) -> list[MemberLine]:
    if not workspace.folds_file.exists():
        return []
    split = read_json(workspace.folds_file, "Run `kaggle-hw4 folds` to make it.")
    lines = []
    for folder in sorted(path for path in workspace.runs.glob("*") if path.is_dir()):
        try:
            k, folds = split["k"], content_hash(split)
            runs = [run for run in (Run(folder / f"fold{fold}") for fold in range(k)) if run.finished]
            ours = [run for run in runs if read_json(run.record, "")["folds"] == folds]
            results = [read_json(run.result, "") for run in ours]
            utterances = sum(result["utterances"] for result in results)
            correct = sum(result["accuracy"] * result["utterances"] for result in results)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{workspace.folds_file} or a run in {folder} is damaged: {error!r}", "Delete it and make it again."
            ) from error
        lines.append(MemberLine(folder.name, correct / utterances if results else None, len(results), k))
    return lines


def _submission_line(workspace: Workspace, row: Row) -> SubmissionLine:
    record = workspace.submissions / f"{row.ensemble}.json"
    accuracy = None
    if row.ensemble and record.exists():
        made = read_json(record, "Delete it; `kaggle-hw4 ensemble` makes it again.")
        if isinstance(made, dict) and made.get("csv") == row.csv_hash:
            accuracy = made.get("accuracy")
    return SubmissionLine(row.name, row.created, accuracy, row.public, row.private, row.state, row.ref)


def _best_complete_first(line: MemberLine) -> tuple[bool, float]:
    return line.folds_done < line.folds, -(line.accuracy or 0.0)


def _number(score: str | None) -> float | None:
    try:
        return None if score is None else float(score)
    except ValueError:
        return None
