"""Every job of a workspace and how it is doing, by what training writes anyway; nothing is changed, nobody waits."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.machine import locked_files
from kaggle_hw4.progress import RunProgress, read_progress
from kaggle_hw4.runs import Run, job_of, run_of
from kaggle_hw4.terminal import duration
from kaggle_hw4.workspace import Workspace, read_json

State = Literal["running", "predicting", "stalled", "failed", "damaged", "interrupted", "waiting", "finished"]
STATES: tuple[State, ...] = get_args(State)  # in the order in which they are shown

_STALL_SECONDS = 600.0  # without a word; a validation on a CPU takes minutes
_FRESH_SECONDS = 120.0  # a training writes a checkpoint every 30 s
_T = TypeVar("_T")


@dataclass(frozen=True)
class JobStatus:
    """A job and where it stands; None is what is not known, or does not apply.

    `rate` in steps a second, `left` in seconds, `gpu_memory` in bytes; `written` is when something was
    last written to its folder (seconds since 1970), `note` what is wrong with it.
    """

    name: str
    folder: str
    state: State
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    rate: float | None = None
    left: float | None = None
    gpu_memory: int | None = None
    written: float | None = None
    note: str = ""


class _Record(NamedTuple):
    steps: int
    data: str


class Watch:
    """Look at a workspace, again and again; a file that has not changed since is not read again."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: dict[Path, tuple[tuple[int, int] | None, Any]] = {}

    def look(self) -> list[JobStatus]:
        """All jobs, in the order of `STATES`."""
        locked = locked_files()
        data = self._read(self._workspace.store / "store.json", _data_of)
        statuses = [self._status(run, locked, data) for run in _runs(self._workspace)]
        return sorted(statuses, key=lambda status: (STATES.index(status.state), _natural(status.name)))

    def _read(self, path: Path, read: Callable[[Path], _T]) -> _T:
        stamp = _stamp(path)
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = stamp, read(path)
        value: _T = self._known[path][1]
        return value

    def _status(self, run: Run, locked: set[str] | None, data: str | None) -> JobStatus:
        progress = self._read(run.log, lambda _: read_progress(run))
        record, odd = self._read(run.record, lambda _: _record(run, self._workspace))
        result, broken = self._read(run.result, _result)
        stamps = [_stamp(path) for path in (run.log, run.checkpoint, run.weights, run.oof, run.test, run.result)]
        written = max((stamp[0] / 1e9 for stamp in stamps if stamp), default=None)
        step = int(result.get("steps", progress.step))
        state: State
        if broken or not record:
            state, why = "damaged", broken
        elif run.finished:
            state, why = "finished", ""
        else:
            state, why = _state(progress, record.steps, written, _at_work(run, locked, progress.host))
        notes = [note.replace(f"{run.folder}{os.sep}", "") for note in (why, *odd)]  # the name says where
        notes.append("log.jsonl is damaged" if progress.damaged else "")
        if data and record and record.data != data:
            notes.append("made from other data than the workspace's")
        return JobStatus(
            name=f"{run.folder.parent.name} {run.folder.name.replace('fold', 'fold ')}",
            folder=str(run.folder),
            state=state,
            step=step,
            steps=record.steps if record else None,
            loss=progress.loss,
            accuracy=result.get("accuracy", progress.accuracy),
            rate=progress.rate,
            left=(record.steps - step) / progress.rate if record and state == "running" and progress.rate else None,
            gpu_memory=progress.gpu_memory,
            written=written,
            note="; ".join(filter(None, notes)),
        )


def _runs(workspace: Workspace) -> Iterator[Run]:
    """All folders of runs in which something was written."""
    if not workspace.runs.is_dir():
        return
    for member in os.scandir(workspace.runs):
        if member.is_dir():
            for folder in os.scandir(member.path):
                run = Run(Path(folder.path))
                written = run.record.exists() or run.log.exists() or run.started
                if written and re.fullmatch(r"fold\d+|refit", folder.name):
                    yield run


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with the content of a file; None when there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _data_of(path: Path) -> str | None:
    """The hash of the workspace's data."""
    try:
        return str(read_json(path, "")["hash"])
    except (DataError, KeyError, TypeError):
        return None


def _record(run: Run, workspace: Workspace) -> tuple[_Record | None, list[str]]:
    """What the record of a run says, None when it is damaged, and what is odd about it."""
    try:
        job = job_of(run)
        record = _Record(int(job.variant.steps), run.read_record()["data"])
    except HW4Error as error:
        return None, [error.cause]
    except (KeyError, TypeError, ValueError) as error:
        return None, [f"{run.record} is not a record of a run: {error}"]
    return record, [] if run_of(workspace, job) == run else [f"made as {job}"]


def _result(path: Path) -> tuple[dict[str, float], str]:
    """The figures of a result, none when there is none, and what is wrong with it."""
    if not path.exists():
        return {}, ""
    try:
        result = read_json(path, "")
        return {key: result[key] for key in ("steps", "accuracy") if isinstance(result[key], int | float)}, ""
    except DataError as error:
        return {}, error.cause
    except (KeyError, TypeError) as error:
        return {}, f"{path} is not the result of a run: {error}"


def _at_work(run: Run, locked: set[str] | None, host: str | None) -> bool | None:
    """Whether a process works in the run's folder: it holds the lock. None where that cannot be seen."""
    if locked is None or not hasattr(os, "geteuid"):
        return None
    if os.path.realpath(run.lock) in locked:
        return True
    try:
        seen = host in (None, socket.gethostname()) and run.lock.stat().st_uid == os.geteuid()
    except OSError:
        seen = True  # there is no lock that anybody could hold
    return False if seen else None


def _state(progress: RunProgress, steps: int, written: float | None, works: bool | None) -> tuple[State, str]:
    """The state of an unfinished run, and what is to be said about it."""
    silent = time.time() - written if written else 0.0
    if progress.failure:
        return "failed", progress.failure
    if works or (works is None and written and silent < _FRESH_SECONDS):
        if progress.step >= steps:
            return "predicting", ""
        if silent > _STALL_SECONDS:
            return "stalled", f"a process holds its lock, but has written nothing for {duration(silent)}"
        return "running", ""
    if written is None:
        return "waiting", ""
    if works is None:
        where = f" by {progress.host}" if progress.host else ""
        unseen = f"last written {duration(silent)} ago{where}; whether it still runs cannot be seen from here"
        return "interrupted", unseen
    return "interrupted", ""


def _natural(name: str) -> tuple[str | int, ...]:
    """For sorting: fold 10 after fold 9."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
