"""How results look in a terminal: text and tables for people. What programs read is the commands' `--json`."""

from copy import copy
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kaggle_hw4.competition import Competition
from kaggle_hw4.ledger import Row, number
from kaggle_hw4.terminal import duration, size

if TYPE_CHECKING:
    import torch

    from kaggle_hw4.doctor import Finding
    from kaggle_hw4.identification import Identification
    from kaggle_hw4.jobs.plan import Plan


_SHORTEST_NAME = 10  # characters of a line, before a column is given up
_ANY_WIDTH = 1 << 16


class _Table(Table):
    """A table whose figures never break: where the terminal is narrow, a column that has a least width does, then the
    names in the first one, to be copied, do; and then the last columns go."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return Table.__rich_console__(self._fitting(console, options.max_width), console, options)

    def _fitting(self, console: Console, width: int) -> "_Table":
        shown = copy(self)
        shown.columns = [copy(column) for column in self.columns]
        names, *others = shown.columns
        if not any(column.no_wrap for column in others):
            return shown
        breaking = [column for column in others if column.min_width]
        for column in breaking:
            column.max_width = column.min_width
        names.no_wrap = shown._natural_width(console) <= width
        names.min_width = names.max_width = None if names.no_wrap else _SHORTEST_NAME
        while len(shown.columns) > 2 and shown.columns[-1].no_wrap and shown._natural_width(console) > width:
            shown.columns.pop()
        for column in breaking if names.no_wrap else [names]:  # what may be wider, if there is room
            column.max_width = None
        return shown

    def _natural_width(self, console: Console) -> int:
        """Characters of a line where nothing breaks."""
        return self.__rich_measure__(console, console.options.update_width(_ANY_WIDTH)).maximum


def table_of(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """An empty table in the style of all of them; the columns in `right` are figures, and aligned there."""
    table = _Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, collapse_padding=True)
    for column in columns:
        figure = column in right
        table.add_column(column, justify="right" if figure else "left", overflow="fold", no_wrap=figure)
    return table


def note_of(text: str) -> Text:
    """A paragraph below a table; one that names a command is not broken, so that it can be copied."""
    return Text(text, no_wrap=True, overflow="ignore") if "kaggle-hw4 " in text else Text(text)


def score_text(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def short(name: str, most: int = 22) -> str:
    """A name of at most so many characters: what is left out lies before its end, where seed and fold are."""
    end = most * 2 // 3
    return name if len(name) <= most else f"{name[: most - end - 1]}…{name[-end:]}"


def variants_table(rows: list[dict[str, Any]]) -> Table:
    """The registry with its published scores: the name of each variant over what it is."""
    scores = ("val", "private", "public")
    table = table_of("variant", *scores, "in", right=scores)
    table.caption = "As published: val on 128-frame crops, private and public on the leaderboard."
    table.caption_justify = "left"
    for row in rows:
        places = ([f"rung {row['rung']}"] if row["rung"] else []) + row["sets"]
        val = "" if row["val"] is None else f"{row['val']:.4f}"
        what = Group(Text(row["name"], "bold"), Padding(Text(row["description"]), (0, 0, 0, 2)))
        table.add_row(what, val, score_text(row["private"]), score_text(row["public"]), "\n".join(places))
    return table


def plan_lines(plan: "Plan", device: "torch.device") -> str:
    """Jobs, steps, estimated time and disk, before training starts."""
    todo = plan.open
    if not todo:
        return f"All {len(plan.jobs)} jobs are done."
    started = [planned for planned in todo if planned.done_steps]
    jobs = "1 job" if len(todo) == 1 else f"{len(todo)} jobs"
    lines = [f"{jobs} to do, {len(plan.jobs) - len(todo)} done already, {len(started)} begun:"]
    for name in dict.fromkeys(planned.job.member for planned in todo):
        mine = [planned for planned in todo if planned.job.member == name]
        folds = "fold " + ", ".join(str(planned.job.fold) for planned in mine)
        where = "all labels" if mine[0].job.refit else folds
        steps = sum(planned.job.variant.steps - planned.done_steps for planned in mine)
        lines.append(f"  {name}: {where}; {steps:,} steps, {duration(sum(p.seconds for p in mine))}")
    together = max(map(len, plan.groups))
    how = f"{plan.workers} at a time" if plan.workers > 1 else "one at a time"
    if together > 1:
        how = f"up to {together} models as one" + (f", {how}" if plan.workers > 1 else "")
    if plan.compiled:
        how += f", compiled first ({', '.join(plan.compiled)})"
    lines.append(f"On {device}, {how}: about {duration(plan.seconds)}; {size(plan.disk)} of disk.")
    return "\n".join(lines)


def score_line(row: Row, edition: Competition) -> str:
    """The scores of a submission, and which of the course's lines the public one passes."""
    if not row.public:
        return f"{row.name} (ref {row.ref}): not scored yet"
    public = number(row.public)
    passed = [name for name, line in edition.baselines.items() if public is not None and public >= line]
    below = "; below the simple line" if edition.baselines and public is not None else ""
    verdict = f"; passes the {passed[-1]} line" if passed else below
    return f"{row.name}: public {row.public}, private {row.private or 'not shown'}{verdict}"


def identification_table(found: "list[Identification]") -> Table:
    """The most probable speakers of each recording."""
    table = table_of("file", "sound", "speaker", "probability", right=("sound", "probability"))
    for one in found:
        for i, candidate in enumerate(one.candidates):
            shown = ("", "") if i else (str(one.file), f"{one.seconds:.1f} s")
            table.add_row(*shown, candidate.speaker, f"{candidate.probability:.3f}")
    return table


def findings_table(findings: "list[Finding]") -> Table:
    """What `doctor` found."""
    table = table_of("", "check", "found")
    for finding in findings:
        table.add_row("ok" if finding.ok else "!!", finding.name, finding.value)
    return table


def remedies(findings: "list[Finding]") -> str:
    """What mends what `doctor` found, in lines to copy, which a table would break."""
    return "\n".join(f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy)
