"""How results look in a terminal: text and tables for people. What programs read is the commands' `--json`."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kaggle_hw4.board import Board
from kaggle_hw4.competition import Competition
from kaggle_hw4.ledger import Row
from kaggle_hw4.terminal import duration, size

if TYPE_CHECKING:
    import torch

    from kaggle_hw4.doctor import Finding
    from kaggle_hw4.ensemble import Ensemble
    from kaggle_hw4.jobs.plan import Plan


def _table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def variants_table(rows: list[dict[str, Any]]) -> Table:
    scores = ("val", "private", "public")
    table = _table("variant", "recipe", *scores, "in", right=scores)
    table.columns[0].no_wrap = True
    for row in rows:
        places = ([f"rung {row['rung']}"] if row["rung"] else []) + row["sets"]
        val = "" if row["val"] is None else f"{row['val']:.4f}"
        shown = (val, _score(row["private"]), _score(row["public"]))
        table.add_row(row["name"], row["description"], *shown, ", ".join(places))
    return table


def plan_lines(plan: "Plan", device: "torch.device") -> str:
    """Jobs, steps, estimated time and disk, before training starts."""
    todo = plan.open
    if not todo:
        return f"All {len(plan.jobs)} jobs are done."
    started = [planned for planned in todo if planned.done_steps]
    lines = [f"{len(todo)} jobs to do, {len(plan.jobs) - len(todo)} done already, {len(started)} begun:"]
    for name in dict.fromkeys(planned.job.member for planned in todo):
        mine = [planned for planned in todo if planned.job.member == name]
        folds = "fold " + ", ".join(str(planned.job.fold) for planned in mine)
        where = "all labels" if mine[0].job.refit else folds
        steps = sum(planned.job.variant.steps - planned.done_steps for planned in mine)
        lines.append(f"  {name}: {where}; {steps:,} steps, {duration(sum(p.seconds for p in mine))}")
    together = max(map(len, plan.groups))
    how = f"{plan.workers} at a time" if plan.workers > 1 else "one at a time"
    if together > 1:
        how = f"up to {together} models as one"
    lines.append(f"On {device}, {how}: about {duration(plan.seconds)}; {size(plan.disk)} of disk.")
    return "\n".join(lines)


def ensemble_table(made: "Ensemble") -> Group:
    table = _table("out of fold", "accuracy", "log loss", "temperature", right=("accuracy", "log loss", "temperature"))
    for member in made.members:
        table.add_row(member.name, f"{member.accuracy:.4f}", f"{member.log_loss:.3f}", f"{member.temperature:.2f}")
    table.add_section()
    table.add_row("plain mean of logits", f"{made.plain_accuracy:.4f}")
    table.add_row("ensemble", f"{made.accuracy:.4f}", f"{made.log_loss:.3f}")
    return Group(table, Text(str(made.file)))


def score_line(row: Row, edition: Competition) -> str:
    """The scores of a submission, and which of the course's lines the public one passes."""
    if not row.public:
        return f"{row.name} (ref {row.ref}): not scored yet"
    passed = [name for name, line in edition.baselines.items() if float(row.public) >= line]
    verdict = f"; passes the {passed[-1]} line" if passed else "; below the simple line" if edition.baselines else ""
    return f"{row.name}: public {row.public}, private {row.private or 'not shown'}{verdict}"


def board_tables(board: Board) -> Group:
    """Submissions by public score with the course's lines among them, then the members."""
    scores = ("CV", "public", "private")
    table = _table("submission", *scores, "state", "made", right=scores, title=board.competition.slug)
    lines: list[tuple[float, tuple[str, ...]]] = [
        (score, (f"── {name} line", "", f"{score:.5f}", "", "", ""))
        for name, score in board.competition.baselines.items()
    ]
    for line in board.submissions:
        shown = (_score(line.accuracy), line.public or "", line.private or "")
        lines.append((float(line.public or 2), (line.name, *shown, line.state, line.created[:16].replace("T", " "))))
    for _, cells in sorted(lines, key=lambda line: -line[0]):
        table.add_row(*cells, style="dim" if cells[0].startswith("──") else None)
    members = _table("member", "CV", "folds", right=("CV", "folds"))
    for member in board.members:
        members.add_row(member.name, _score(member.accuracy), f"{member.folds_done}/{member.folds}")
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


def findings_table(findings: "list[Finding]") -> Table:
    table = _table("", "check", "found", "what to do")
    for finding in findings:
        table.add_row("ok" if finding.ok else "!!", finding.name, finding.value, finding.remedy)
    return table
