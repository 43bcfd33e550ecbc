"""Work in forked processes: every answer arrives, failures are reported, and no process is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from kaggle_hw4.data.processes import in_processes
from kaggle_hw4.errors import DataError


def squares(numbers: Sequence[int]) -> Iterator[int]:
    for number in numbers:
        yield number * number


def refusing_7(numbers: Sequence[int]) -> Iterator[int]:
    for number in numbers:
        if number == 7:
            raise DataError("7 is damaged", "Get another one.")
        yield number


def killed_at_7(numbers: Sequence[int]) -> Iterator[int]:
    for number in numbers:
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number


def killed_while_it_answers(numbers: Sequence[int]) -> Iterator[bytes]:
    if 0 in numbers:  # the parent's part: it looks at the others' answers when one has died
        time.sleep(2)
        yield b""
        return
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGKILL]).start()
    yield bytes(1 << 20)  # more than a pipe holds: it waits for the parent to read


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_task_is_done_once(count: int) -> None:
    assert sorted(in_processes(squares, range(20), count)) == [number**2 for number in range(20)]


def test_one_process_forks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_hw4.data.processes.get_context", None)  # where there is no fork
    assert list(in_processes(squares, range(3), 1)) == [0, 1, 4]


def test_a_failure_elsewhere_keeps_its_cause_and_remedy() -> None:
    with pytest.raises(DataError, match="7 is damaged") as error:
        list(in_processes(refusing_7, range(20), 2))
    assert error.value.remedy == "Get another one."
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_an_error_not_a_hang() -> None:
    with pytest.raises(DataError, match="killed"):
        list(in_processes(killed_at_7, range(20), 2))
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_in_the_midst_of_an_answer_is_the_same_error() -> None:
    with pytest.raises(DataError, match="killed"):
        list(in_processes(killed_while_it_answers, range(2), 2))
    assert multiprocessing.active_children() == []


def test_processes_end_with_a_parent_that_is_killed() -> None:
    program = """
import os, time
from kaggle_hw4.data.processes import in_processes

def slow(tasks):
    for task in tasks:
        time.sleep(0.1)
        yield os.getpid()

for process in in_processes(slow, range(10**6), 2):
    print(process, flush=True)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = next(int(line) for line in parent.stdout if int(line) != parent.pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while _runs(child):
        assert time.monotonic() < deadline, "the process goes on without its parent"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
