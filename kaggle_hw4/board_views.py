"""How the board looks: tables, CSV and a picture."""

import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kaggle_hw4.board import Board, SubmissionLine
from kaggle_hw4.ledger import number
from kaggle_hw4.views import note_of, score_text, short, table_of

_FIGURES = ("CV", "public", "private", "expected", "z", "ranks")  # the last goes first where the terminal is narrow
_LEGEND = (
    "CV: accuracy on whole utterances, out of fold (weights refitted without each fold), with half its 95 % interval. "
    "Expected: 95 % of public scores should lie there; z: how many standard deviations this one is from the middle. "
    "Ranks: among ours by CV, public, private."
)


def board_tables(board: Board, begun: Callable[[str], str] = str) -> Group:
    """Submissions by public score with the course's lines among them, ensembles not sent, then the members.

    `begun` completes the commands that a text names.
    """
    lines: list[tuple[float, tuple[str, ...]]] = [
        (score, (f"── {name} line", "", f"{score:.5f}", "", "", "", ""))
        for name, score in board.competition.baselines.items()
    ]
    lines += [
        (2.0 if (score := number(line.public)) is None else score, _cells(line))
        for line in [*board.submissions, *board.unsent]
    ]
    rows = [cells for _, cells in sorted(lines, key=lambda line: -line[0])]
    parts: list[Table | Text] = [_submissions(board.competition.slug, rows)]
    if board.members:
        members = table_of("member", "CV", "folds", right=("CV", "folds"))
        for member in board.members:
            members.add_row(member.name, score_text(member.accuracy), f"{member.folds_done}/{member.folds}")
        parts.append(members)
    return Group(*parts, *(note_of(begun(note)) for note in _notes(board)), Text(_LEGEND, style="dim"))


def _submissions(title: str, rows: list[tuple[str, ...]]) -> Table:
    table = table_of("submission", *_FIGURES, right=_FIGURES, title=title)
    cv = table.columns[1]
    cv.no_wrap, cv.min_width = False, len("0.0000")  # it breaks before its ±
    for cells in rows:
        table.add_row(*cells, style="dim" if cells[0].startswith("──") else None)
    return table


def _cells(line: SubmissionLine) -> tuple[str, ...]:
    cv = score_text(line.accuracy)
    if line.interval:
        cv = f"{line.accuracy:.4f} ±{(line.interval[1] - line.interval[0]) / 2:.3f}"
    expected = f"{line.band.low:.3f}–{line.band.high:.3f}" if line.band else ""
    z = f"{line.band.z:+.1f}" if line.band and line.band.z is not None else ""
    ranks = "/".join(str(line.ranks.get(kind, "·")) for kind in ("cv", "public", "private")) if line.ranks else ""
    public = (line.public or line.state) + (f" ({line.place}/{line.teams})" if line.place else "")
    return line.name, cv, public, line.private or "", expected, z, ranks


def _notes(board: Board) -> list[str]:
    notes = []
    if not board.submissions and not board.members:
        first = "kaggle-hw4 data, then kaggle-hw4 train --fold all, then kaggle-hw4 submit"
        notes.append(f"Nothing is trained or sent yet: {first}")
    elif not board.submissions:
        notes.append("No submission yet: kaggle-hw4 submit")
    elif not board.members:
        notes.append("Nothing is trained here yet: kaggle-hw4 train --fold all")
    for kind, found in board.correlations.items():
        notes.append(
            f"Rank correlation of CV and {kind} score over {found.submissions} submissions: {found.rho:+.2f} "
            f"(p = {found.p:.2g})."
        )
    bands = [line.band for line in [*board.submissions, *board.unsent] if line.band]
    if any(found.source == "scores" for found in bands):
        notes.append(
            "The expected scores are CV and what the other submissions' scores lie above or below theirs, on average."
        )
    elif bands:
        notes.append("The expected scores lie above CV by the estimated gain of averaging the folds' models.")
    if any(line.place for line in board.submissions):
        notes.append("In brackets: the place among the teams by public score.")
    source = "as Kaggle says" if board.slots_from == "Kaggle" else "as far as this ledger knows; --sync asks Kaggle"
    notes.append(f"Submissions left today: {board.slots} ({source}).")
    return notes


def board_csv(board: Board) -> str:
    """A row per submission, ensemble not sent, member and baseline line; without the last line's end."""
    import pandas as pd

    rows = [_csv_row("submission", line) for line in board.submissions]
    rows += [_csv_row("ensemble", line) for line in board.unsent]
    rows += [{"kind": "member", "name": member.name, "cv": member.accuracy} for member in board.members]
    rows += [{"kind": "line", "name": name, "public": score} for name, score in board.competition.baselines.items()]
    figures = ["cv", "public", "private", "cv_low", "cv_high", "band_low", "band_high", "z"]
    counts = ["rank_cv", "rank_public", "rank_private", "place", "teams", "ref"]
    frame = pd.DataFrame(rows, columns=["kind", "name", *figures, *counts, "state", "created"])
    return frame.astype(dict.fromkeys(counts, "Int64")).to_csv(index=False).rstrip()


def _csv_row(kind: str, line: SubmissionLine) -> dict[str, object]:
    low, high = line.interval or (None, None)
    row: dict[str, object] = {"kind": kind, "name": line.name, "cv": line.accuracy, "cv_low": low, "cv_high": high}
    row |= {"public": number(line.public), "private": number(line.private), "state": line.state}
    row |= {"place": line.place, "teams": line.teams, "created": line.created, "ref": line.ref}
    row |= {f"rank_{by}": rank for by, rank in line.ranks.items()}
    if line.band:
        row |= {"band_low": line.band.low, "band_high": line.band.high, "z": line.band.z}
    return row


def board_picture(board: Board, path: Path) -> None:
    """Draw cross-validation, expected band and scores of every submission, oldest first, with the course's lines.

    The format is that of the file's name (png, svg, pdf). Raises UsageError for a name that is none of these.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a name may hold dollars
    from matplotlib.figure import Figure

    from kaggle_hw4.errors import UsageError
    from kaggle_hw4.workspace import atomic_path

    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"--picture {path}: no picture has that name", "Let it end in .png, .svg or .pdf.")
    lines = [*reversed(board.submissions), *board.unsent]
    figure = Figure(figsize=(max(7.0, 2.5 + 0.9 * len(lines)), 5.5), layout="constrained")
    axes = figure.subplots()
    for i, line in enumerate(lines):
        if line.band:
            height = line.band.high - line.band.low
            axes.bar(i, height, 0.5, line.band.low, color="#cfe3f5", label="expected public score, 95 %")
        if line.accuracy is not None and line.interval:
            reach = [[line.accuracy - line.interval[0]], [line.interval[1] - line.accuracy]]
            axes.errorbar(i - 0.12, line.accuracy, reach, fmt="o", color="#555555", label="CV, 95 % interval")
        if (public := number(line.public)) is not None:
            axes.plot(i, public, "D", color="#d1495b", label="public score")
        if (private := number(line.private)) is not None:
            axes.plot(i + 0.12, private, "s", color="#2e7d32", label="private score")
    for name, score in board.competition.baselines.items():
        axes.axhline(score, color="#999999", linestyle=":", linewidth=1)
        axes.text(1.01, score, name, transform=axes.get_yaxis_transform(), va="center")
    axes.set_xticks(range(len(lines)), [short(line.name, 30) for line in lines], rotation=35, ha="right")
    axes.set_ylabel("accuracy")
    axes.set_title(f"{board.competition.slug}: cross-validation and leaderboard")
    once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if once:
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=2, frameon=False)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it has a box in its place
        figure.savefig(temporary, format=kind, dpi=150)
