"""How `watch` looks: as many jobs and columns as the terminal holds, and no figure broken."""

import signal
import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kaggle_hw4.terminal import duration, size
from kaggle_hw4.views import note_of, short, table_of
from kaggle_hw4.watch import STATES, JobStatus

_LOOK_SECONDS = 1.0
_STYLES = {"running": "green", "predicting": "green", "stalled": "yellow", "failed": "red", "damaged": "red"}
_QUIET = ("waiting", "finished")
_SHORTEST_NAME = 12  # characters, before a column is given up instead
_NOTES = 5  # lines of them, when there is a height to keep to

_CELLS: dict[str, Callable[[JobStatus], str]] = {
    "job": lambda job: job.name,
    "state": lambda job: job.state,
    "%": lambda job: f"{100 * job.step // job.steps}" if job.steps else "",
    "step": lambda job: f"{job.step:,}" + (f"/{job.steps:,}" if job.steps else ""),
    "loss": lambda job: "" if job.loss is None else f"{job.loss:.3f}",
    "acc": lambda job: "" if job.accuracy is None else f"{job.accuracy:.4f}",
    "steps/s": lambda job: "" if job.rate is None else f"{job.rate:.1f}" if job.rate >= 1 else f"{job.rate:.3f}",
    "left": lambda job: "" if job.left is None else _clock(job.left),
    "GPU": lambda job: "" if job.gpu_memory is None else size(job.gpu_memory),
    "written": lambda job: "" if job.written is None else f"{duration(max(0.0, time.time() - job.written))} ago",
}
_FIRST_TO_GO = ("written", "step", "GPU", "steps/s", "loss", "%")  # where the terminal is narrow


def watch_view(
    jobs: list[JobStatus], console: Console, height: int | None = None, begun: Callable[[str], str] = str
) -> Group:
    """The jobs as a table for the width of `console`, and of `height` lines at most where one is given.

    `begun` completes the commands that a text names.
    """
    if not jobs:
        return Group(note_of(begun("Nothing is trained here yet: kaggle-hw4 data, then kaggle-hw4 train --fold all")))
    head = _counted(jobs, f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}")
    notes = [Text(f"{job.name}: {job.note}", _STYLES.get(job.state, "")) for job in jobs if job.note]
    if height is None:
        return Group(head, _fitting(jobs, console), *notes)
    if len(notes) > _NOTES:
        notes[_NOTES - 1 :] = [Text(f"… and {len(notes) - _NOTES + 1} more remarks: see --once", "dim")]
    for note in notes:
        note.truncate(console.width, overflow="ellipsis")
    # The same line as the head, of fewer jobs, says what is hidden; then there are the columns' names.
    room = max(1, height - len(notes) - 2 * len(head.wrap(console, console.width)) - 1)
    hidden = [_counted(jobs[room:], f"… and {len(jobs) - room} more")] if len(jobs) > room else []
    return Group(head, _fitting(jobs[:room], console), *hidden, *notes)


def _counted(jobs: list[JobStatus], what: str) -> Text:
    counts = Counter(job.state for job in jobs)
    return Text(f"{what}: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))


def _fitting(jobs: list[JobStatus], console: Console) -> Table:
    """A table of the jobs without the columns that do not fit, then with names shortened as need be."""
    longest = max(len(job.name) for job in jobs)
    left = [column for column in _CELLS if column in ("job", "state") or any(_CELLS[column](job) for job in jobs)]
    for gone in (None, *_FIRST_TO_GO):
        left = [column for column in left if column != gone]
        table = _table(jobs, left, longest)
        if (over := table.__rich_measure__(console, console.options).maximum - console.width) <= 0:
            return table
    return _table(jobs, left, max(_SHORTEST_NAME, longest - over))


def _table(jobs: list[JobStatus], columns: list[str], longest: int) -> Table:
    table = table_of(*columns, right=tuple(columns[2:]))
    table.box, table.padding = None, (0, 2, 0, 0)  # the closest that columns can stand
    for column in table.columns:
        column.no_wrap = True
    for job in jobs:
        cells = [_CELLS[column](job) for column in columns]
        style = "dim" if job.state in _QUIET else None
        state = Text(cells[1], _STYLES.get(job.state, ""))
        table.add_row(short(cells[0], longest), state, *cells[2:], style=style)
    return table


def _clock(seconds: float) -> str:
    """`3:20:05`, which is shorter than words."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def watch_live(look: Callable[[], list[JobStatus]], console: Console, begun: Callable[[str], str]) -> None:
    """Show what `look` gives, again and again, until Ctrl-C; what was seen last stays on the terminal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal shall be left as it was found
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                view = watch_view(look(), console, console.height - 1, begun)
                live.update(Group(view, Text("Ctrl-C ends this view, not the trainings.", "dim")), refresh=True)
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        console.print(watch_view(look(), console, begun=begun))
