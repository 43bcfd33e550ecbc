"""How ensembles, the board and what explains it look in a terminal."""

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kaggle_hw4.board import Board
from kaggle_hw4.views import score_text, table_of

if TYPE_CHECKING:
    from kaggle_hw4.ensemble.blend import Ensemble

_MATRIX_MEMBERS = 8  # more do not fit beside each other


def ensemble_table(made: "Ensemble") -> Group:
    """The members, the methods that were compared, what the blend is honestly worth."""
    summary = made.summary()
    parts: list[Any] = [_members(summary), _methods(summary)]
    if 2 <= len(made.members) <= _MATRIX_MEMBERS:
        parts.append(_pairs(summary["pairs"]))
    parts.append(_seeds(summary["seeds"]))
    legend = (
        "Members out of fold. T: temperature; w/o: the blend's change without it, in points; corr., diff.: correlation "
        "of errors with the others, and share of utterances named otherwise (means); p: paired, against equal weights."
    )
    return Group(*parts, Text(legend, style="dim"), *_verdict(summary), Text(summary["file"]))


def _members(summary: dict[str, Any]) -> Table:
    columns = ("CV", "loss", "T", "weight", "w/o", "corr.", "diff.")
    table = table_of("member", *columns, right=columns)
    for m in summary["members"]:
        table.add_row(
            m["name"],
            f"{m['accuracy']:.4f}",
            f"{m['log_loss']:.3f}",
            f"{m['temperature']:.2f}",
            f"{m['weight']:.3f}",
            points(m["without"]),
            "" if m["error_correlation"] is None else f"{m['error_correlation']:.2f}",
            "" if m["disagreement"] is None else f"{m['disagreement']:.3f}",
        )
    return table


def _methods(summary: dict[str, Any]) -> Table:
    columns = ("CV", "95 % interval", "loss", "p")
    table = table_of("refitted without each fold", *columns, right=columns)
    for m in summary["methods"]:
        p = "" if m["method"] == "equal" else f"{m['p']:.2g}"
        used = " ←" if m["method"] == summary["method"] else ""
        table.add_row(m["method"] + used, f"{m['accuracy']:.4f}", span(m["interval"]), f"{m['log_loss']:.3f}", p)
    table.add_row("best single member", f"{summary['best_single']['accuracy']:.4f}")
    return table


def _pairs(pairs: dict[str, Any]) -> Table:
    names = pairs["names"]
    numbers = [str(i + 1) for i in range(len(names))]
    table = table_of("corr. of errors \\ differ", *numbers, right=tuple(numbers))
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            value = pairs["error_correlation" if j < i else "disagreement"][i][j]
            cells.append("" if i == j or value is None else f"{value:.2f}")
        table.add_row(f"{i + 1} {name}", *cells)
    return table


def _seeds(seeds: dict[str, Any]) -> Group:
    columns = ("seeds", "CV", "to the best", "± seeds alone")
    table = table_of("variant", *columns, right=columns)
    for v in seeds["variants"]:
        difference = points(v["difference"]) if v["difference"] else ""
        noise = "" if v["noise"] is None else f"{100 * v['noise']:.2f}"
        table.add_row(v["name"], str(v["seeds"]), f"{v['accuracy']:.4f}", difference, noise)
    if seeds["sd"] is None:
        note = "How far seeds of one variant spread is not known: kaggle-hw4 train --seed 1 adds a second one."
    else:
        note = f"Seeds of one variant spread by {100 * seeds['sd']:.2f} points (standard deviation)."
    return Group(table, Text(note))


def _verdict(summary: dict[str, Any]) -> list[Text]:
    single, equal, method = summary["best_single"], summary["equal"], summary["method"]
    lines = [
        f"Honest accuracy {summary['accuracy']:.4f} ({span(summary['interval'])}; in sample "
        f"{summary['in_sample_accuracy']:.4f}): {points(single['gain'])} points against the best single member "
        f"({span(single['interval'], points=True)}; p = {single['p']:.2g})."
    ]
    if method == "equal":
        others = [m for m in summary["methods"] if m["method"] != "equal"]
        lines += [f"{m['method']} is not better than equal weights (p = {m['p']:.2g})." for m in others]
    elif equal["gain"] > 0 and equal["p"] < 0.05:
        lines.append(f"{method} is better than equal weights by {points(equal['gain'])} points (p = {equal['p']:.2g}).")
    else:
        lines.append(
            f"{method} is not better than equal weights (p = {equal['p']:.2g}; {points(equal['gain'])} points)."
        )
    gain = summary["averaging"]
    added = f"{points(gain['gain'])} ± {100 * gain['sd']:.2f} points"
    lines.append(f"Averaging the folds' models should add {added} in the test.")
    return [Text(line) for line in lines]


def points(value: float | None) -> str:
    """A difference of accuracies in points, signed."""
    return "" if value is None else f"{100 * value:+.2f}"


def span(interval: list[float], points: bool = False) -> str:
    low, high = interval
    return f"{100 * low:+.2f} to {100 * high:+.2f}" if points else f"{low:.4f} to {high:.4f}"


def board_tables(board: Board) -> Group:
    """Submissions by public score with the course's lines among them, then the members."""
    scores = ("CV", "public", "private")
    table = table_of("submission", *scores, "state", "made", right=scores, title=board.competition.slug)
    lines: list[tuple[float, tuple[str, ...]]] = [
        (score, (f"── {name} line", "", f"{score:.5f}", "", "", ""))
        for name, score in board.competition.baselines.items()
    ]
    for line in board.submissions:
        shown = (score_text(line.accuracy), line.public or "", line.private or "")
        lines.append((float(line.public or 2), (line.name, *shown, line.state, line.created[:16].replace("T", " "))))
    for _, cells in sorted(lines, key=lambda line: -line[0]):
        table.add_row(*cells, style="dim" if cells[0].startswith("──") else None)
    members = table_of("member", "CV", "folds", right=("CV", "folds"))
    for member in board.members:
        members.add_row(member.name, score_text(member.accuracy), f"{member.folds_done}/{member.folds}")
    notes = []
    if not board.submissions:
        notes.append(Text("No submission yet: kaggle-hw4 submit"))
    if not board.members:
        notes.append(Text("Nothing is trained yet: kaggle-hw4 train --fold all"))
    notes.append(Text("CV: accuracy on whole utterances, out of fold."))
    return Group(table, *([members] if board.members else []), *notes)


def board_csv(board: Board) -> str:
    """A row per submission, member and baseline line."""
    import pandas as pd

    content = board.as_json()
    rows = [{"kind": "submission", **line, "cv": line.pop("accuracy")} for line in content["submissions"]]
    rows += [{"kind": "member", "name": m["name"], "cv": m["accuracy"]} for m in content["members"]]
    rows += [{"kind": "line", "name": name, "public": score} for name, score in content["baselines"].items()]
    columns = ["kind", "name", "cv", "public", "private", "state", "created", "ref"]
    return pd.DataFrame(rows, columns=columns).astype({"ref": "Int64"}).to_csv(index=False)
