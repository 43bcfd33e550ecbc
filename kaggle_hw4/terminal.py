"""What a person sees: progress, tables and notices on stderr; stdout is for data."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

# Without markup: `[…]` in a name or a server's message is not to vanish, or to break the command.
stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
stdout = Console(highlight=False, markup=False)

Update = Callable[[int, int | None], None]


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """`text` from anywhere without what it may tell a terminal to do."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(message: str) -> None:
    """A notice on stderr."""
    stderr.print(plain(message))


@contextmanager
def progress_bar(what: str, *, unit_bytes: bool = False) -> Iterator[Update]:
    """A bar with rate and ETA; the block gets `update(done, total or None)`. Silent when not a terminal."""
    amounts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit_bytes else [MofNCompleteColumn(), TimeElapsedColumn()]
    )
    columns = [TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn()]
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stage() -> Iterator[Callable[[str], None]]:
    """A line that tells what is being done; the block gets `tick(what)`. Silent when not a terminal."""
    with stderr.status("starting") as line:
        yield (lambda what: line.update(Text(what))) if stderr.is_terminal else lambda what: None


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as `12 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
