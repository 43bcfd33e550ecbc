"""One process at a time works in a run's folder, and ends its work when asked to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from kaggle_hw4.runs import Run
from kaggle_hw4.workspace import storage_errors, sweep


class Stopped(Exception):
    """The jobs were asked to stop; their checkpoints are written."""


def stopping(should_stop: Callable[[], bool]) -> Callable[[], None]:
    """A tick for `predict` that ends it by Stopped."""

    def tick() -> None:
        if should_stop():
            raise Stopped

    return tick


@contextmanager
def locked(run: Run, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the run's lock, and remove what a killed process left half written in its folder.

    Raises Stopped when asked to stop while another process has it.
    """
    with storage_errors(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.lock)
        while True:
            try:
                lock.acquire(timeout=0.5)
                break
            except Timeout:
                if should_stop():
                    raise Stopped(str(run.folder)) from None
        try:
            sweep(run.folder)  # a killed worker may look alive until its parent or the system has noted its end
            yield
        finally:
            lock.release()
