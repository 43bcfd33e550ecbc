"""What runs in the processes of a Ray cluster: the work on its nodes, and the mailbox beside the command.

A node works in a folder of its own. At most a second after a log, checkpoint or artefact changed there the whole
file goes to the mailbox, which writes it into the workspace; what is lost with a node is what came after that.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from filelock import FileLock

from kaggle_hw4 import __version__
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.calibrate import Cost, measure
from kaggle_hw4.jobs.work import Options, answer_of, monotonic_end, prepare_torch, work
from kaggle_hw4.machine import temporary_folder
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.workspace import Workspace, alive, atomic_path

_TELL_SECONDS = 1.0  # between two messages of a task
_CHUNK = 64 * 2**20  # bytes of an object: a node need not have room for all of the store at once

Files = dict[str, bytes | None]  # content by path below runs/; None where a file is gone


@dataclass(frozen=True)
class Source:
    """What jobs are made from, and how: `store` is the folder on the machine of the command."""

    store: Path
    hash: str
    dtype: str
    folds: Folds
    device: str
    options: Options
    version: str


class Mailbox:
    """An actor on the machine of the command: takes files from the tasks, tells them to stop, has the data."""

    def __init__(self, root: Path, store: Path) -> None:
        self._runs, self._store = Workspace(root).runs, store
        self._signs: dict[str, int] = {}
        self._stop = False
        self._data: dict[str, list[Any]] = {}

    def admit(self, task: str) -> None:
        """From now on the task may write."""
        self._signs[task] = 0

    def dismiss(self, task: str) -> None:
        """From now on it may not, in case it goes on where it cannot be reached: its jobs may be another's."""
        self._signs.pop(task, None)

    def tell(self, task: str, files: Files) -> bool | HW4Error:
        """A task's sign of life, with what it wrote. Gives whether it should stop, or why nothing can be written."""
        if task not in self._signs:
            return True
        try:
            write_files(self._runs, files)
        except HW4Error as error:
            return error
        self._signs[task] += 1
        return self._stop

    def heard(self) -> dict[str, int]:
        """The signs of life of each task."""
        return self._signs

    def stop(self) -> None:
        self._stop = True

    def data(self) -> dict[str, list[Any]]:
        """The files of the store in Ray's object store, in chunks: put there when the first node asks."""
        if not self._data:
            files = [path for path in sorted(self._store.iterdir()) if path.is_file()]
            self._data = {path.name: [ray.put(chunk) for chunk in _chunks(path)] for path in files}
        return self._data


def work_on_node(task: str, mailbox: Any, source: Source, jobs: list[Job], files: Files, seconds: float | None) -> Any:
    """The task that does a group of jobs, going on from `files`; see `work`. Gives an `Answer`."""
    with _scratch() as workspace:
        mirror = _Mirror(task, mailbox, workspace, jobs, files)

        def do() -> dict[Job, HW4Error]:
            try:
                store, device = _prepare(source, mailbox)
                end, logs = monotonic_end(seconds), source.options.logs
                return work(workspace, jobs, store, source.folds, device, mirror.should_stop, end, logs)
            finally:
                mirror.tell()

        return answer_of(workspace, do)


def measure_on_node(mailbox: Any, source: Source, variant: Variant, wanted: int, sharing: int) -> Any:
    """The task that measures a variant. Gives a `Cost` or an Exception."""

    def do() -> Cost:
        store, device = _prepare(source, mailbox)
        return measure(variant, store, device, wanted, sharing)

    return answer_of(Workspace(_node_folder()), do)


def _prepare(source: Source, mailbox: Any) -> tuple[Store, torch.device]:
    if source.version != __version__:
        raise DataError(
            f"a Ray node has kaggle-hw4 {__version__}, the command is {source.version}",
            "Install the same version on every node.",
        )
    device = torch.device(source.device)
    prepare_torch(device, source.options.deterministic)
    return store_here(source, mailbox), device


def store_here(source: Source, mailbox: Any) -> Store:
    """The data as this node sees them under the same path; or else its own copy of them, made once."""
    with suppress(HW4Error, OSError):
        store = open_store(source.store)
        if (store.hash, store.dtype) == (source.hash, source.dtype):
            return store
    folder = _node_folder() / f"{source.hash}-{source.dtype}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                for name, chunks in ray.get(mailbox.data.remote()).items():
                    with open(temporary / name, "wb") as file:
                        for chunk in chunks:
                            file.write(ray.get(chunk))
    return open_store(folder)


def _node_folder() -> Path:
    """For what this user's tasks keep on this machine."""
    folder = temporary_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _scratch() -> Iterator[Workspace]:
    """An empty workspace for one task. Those of processes that were killed are removed."""
    for left in _node_folder().glob("task-*"):
        if not alive(int(left.name.removeprefix("task-"))):
            shutil.rmtree(left, ignore_errors=True)
    folder = _node_folder() / f"task-{os.getpid()}"
    try:
        yield Workspace(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Mirror:
    """Sends what a task writes to the mailbox, from the thread that writes it: no file is ever half there."""

    def __init__(self, task: str, mailbox: Any, workspace: Workspace, jobs: list[Job], files: Files) -> None:
        self._task, self._mailbox, self._runs = task, mailbox, workspace.runs
        self._folders = [run_of(workspace, job).folder for job in jobs]
        write_files(self._runs, files)
        self._sent = self._states()
        self._told = 0.0
        self._stop = False
        self.tell()

    def should_stop(self) -> bool:
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self.tell()
        return self._stop

    def tell(self) -> None:
        """Send what is new. Raises HW4Error when it cannot be written into the workspace."""
        states = self._states()
        changed = {name: (self._runs / name).read_bytes() for name in states if states[name] != self._sent.get(name)}
        gone: Files = dict.fromkeys(self._sent.keys() - states.keys())
        answer = ray.get(self._mailbox.tell.remote(self._task, changed | gone))
        self._sent, self._told = states, time.monotonic()
        if isinstance(answer, HW4Error):
            raise answer
        self._stop = answer

    def _states(self) -> dict[str, tuple[int, int]]:
        return {
            str(path.relative_to(self._runs)): (path.stat().st_mtime_ns, path.stat().st_size)
            for folder in self._folders
            for path in files_in(folder)
        }


def files_in(folder: Path) -> list[Path]:
    """What a run's folder holds, without locks and unfinished files; last its result, which says that all is there."""
    shown = [path for path in folder.rglob("*") if path.is_file()]
    files = [path for path in shown if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return sorted(files, key=lambda path: (path.name == "result.json", path))


def write_files(runs: Path, files: Files) -> None:
    """Write each whole or not at all, in their order. Raises DataError where writing is refused."""
    for name, content in files.items():
        if content is None:
            (runs / name).unlink(missing_ok=True)
            continue
        with atomic_path(runs / name) as temporary:
            temporary.write_bytes(content)


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
