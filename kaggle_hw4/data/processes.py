"""Work in several processes forked from this one: what is in memory already need not be sent or imported again."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from kaggle_hw4.errors import DataError
from kaggle_hw4.machine import usable_cores

T = TypeVar("T")
R = TypeVar("R")


def process_count(most: int) -> int:
    """At most one per core where they can be forked, 1 elsewhere: started anew they import torch for seconds."""
    can_fork = "fork" in get_all_start_methods() and sys.platform != "darwin"  # its frameworks do not survive it
    return max(1, min(most, usable_cores())) if can_fork else 1


def in_processes(work: Callable[[Sequence[T]], Iterator[R]], tasks: Sequence[T], count: int) -> Iterator[R]:
    """Yield what `work` yields for parts of `tasks`, in any order: one part in this process, the others in forked ones.

    Raises:
        DataError: a process was killed.
        Exception: the first that `work` raises; the others are ended.
    """
    if count == 1:
        yield from work(tasks)
        return
    # Not concurrent.futures: its workers would outlive a parent that was killed. These meet a broken pipe.
    context = get_context("fork")
    processes: dict[Connection, BaseProcess] = {}
    try:
        for number in range(1, count):
            results, sender = context.Pipe(duplex=False)
            arguments = (work, tasks[number::count], results, sender)
            process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            sender.close()
            processes[results] = process
        unfinished = dict(processes)
        for answer in work(tasks[::count]):
            yield answer
            yield from _arrived(unfinished, timeout=0)
        while unfinished:
            yield from _arrived(unfinished, timeout=None)
    finally:
        for results, process in processes.items():
            results.close()
            process.kill()
            process.join()


def _arrived(unfinished: dict[Connection, BaseProcess], timeout: float | None) -> Iterator[Any]:
    """The answers that are there; processes that have no more are taken out."""
    for results in wait(list(unfinished), timeout):
        assert isinstance(results, Connection)
        try:
            answer, error = results.recv()
        except (EOFError, OSError) as end:  # the latter in the midst of an answer
            process = unfinished.pop(results)
            process.join()
            if process.exitcode or not isinstance(end, EOFError):
                raise DataError("a process was killed (out of memory?)", "Run the same command again.") from None
            continue
        if error is not None:
            raise error
        yield answer


def _serve(work: Callable[[Any], Iterator[Any]], tasks: Any, results: Connection, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    results.close()  # or the pipe would not break without the parent
    try:
        for answer in work(tasks):
            sender.send((answer, None))
    except BrokenPipeError:
        pass  # the parent is gone, or needs no more
    except Exception as error:
        sender.send((None, error))
