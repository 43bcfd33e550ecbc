"""Run jobs side by side on this machine: a process per core, of one thread each, or a process per GPU."""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.errors import HW4Error
from kaggle_hw4.folds import load_folds
from kaggle_hw4.jobs.engine import LOOK_SECONDS, STOP_SECONDS, Answer, Lost, silence
from kaggle_hw4.jobs.plan import Costs, costs_on, devices_of
from kaggle_hw4.jobs.work import WORKER_ENVIRONMENT, Options, answer_of, monotonic_end, prepare_torch, work
from kaggle_hw4.machine import usable_cores
from kaggle_hw4.runs import Job
from kaggle_hw4.workspace import Workspace

_CONTEXT = get_context("spawn")
_at_work = threading.Lock()
_ENDED_ITSELF = "What it wrote above says why; kaggle-hw4 doctor looks at what is installed."


@dataclass
class _Worker:
    """A process, the pipe to it, and memory it shares: `stop` asks it to stop, `signs` are its signs of life.

    Not multiprocessing's events, queues or pools: a process killed while it holds one of their locks has all
    others wait for ever.
    """

    process: SpawnProcess
    pipe: Connection
    stop: Any
    signs: Any
    number: int | None = None  # of the group it works on
    hung: bool = False


class LocalEngine:
    """Worker i on the i-th of the devices: all GPUs with `cuda`, one worker for each unless asked for more."""

    def __init__(
        self, workspace: Workspace, store: Store, device: torch.device, workers: int | None, options: Options
    ) -> None:
        self.device = device
        self._devices = devices_of(device)
        self.workers = workers or (usable_cores() if device.type == "cpu" else len(self._devices))
        self._workspace, self._store, self._options = workspace, store, options
        self._workers: dict[int, _Worker] = {}  # by place

    def costs(self, jobs_of_a_variant: int) -> Costs:
        prepare_torch(self._devices[0], self._options.deterministic)  # as the workers: the plan's times are theirs
        sharing = -(-self.workers // len(self._devices))
        return costs_on(self._store, self._devices[0], jobs_of_a_variant, sharing)

    def start(self, number: int, jobs: list[Job], seconds: float | None) -> bool:
        places = self._workers
        free = next(place for place in range(self.workers) if place not in places or places[place].number is None)
        if free in places and not places[free].process.is_alive():
            self._remove(free)
        worker = places[free] = places.get(free) or self._new(self._devices[free % len(self._devices)])
        worker.number, worker.signs.value = number, 0
        with suppress(OSError):  # it died just now: its pipe will tell
            worker.pipe.send((jobs, monotonic_end(seconds)))
        return True

    def _new(self, device: torch.device) -> _Worker:
        if device.type == "cpu":
            os.environ.update(WORKER_ENVIRONMENT)  # read when the process starts
        ours, theirs = _CONTEXT.Pipe()
        stop, signs = _CONTEXT.RawValue("b", 0), _CONTEXT.RawValue("Q", 0)
        arguments = (theirs, stop, signs, self._workspace.root, device, self._options)
        process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is this process's to handle
        process.start()
        signal.signal(signal.SIGINT, interrupted)
        theirs.close()  # or the pipe would not break without the worker
        return _Worker(process, ours, stop, signs)

    def answers(self) -> list[tuple[int, Answer]]:
        busy = {worker.pipe: place for place, worker in self._workers.items() if worker.number is not None}
        answers: list[tuple[int, Answer]] = []
        for pipe in wait(list(busy), LOOK_SECONDS):
            assert isinstance(pipe, Connection)
            place = busy[pipe]
            worker = self._workers[place]
            number, worker.number = worker.number, None
            assert number is not None, "it is busy"
            try:
                answer = pipe.recv()
                answers.append((number, answer))
                if isinstance(answer, Exception) and not isinstance(answer, HW4Error):
                    worker.process.kill()  # after a bug CUDA may be of no more use to it: the next group gets a new one
                    self._remove(place)
            except (EOFError, OSError):
                self._remove(place)
                code = worker.process.exitcode or 0
                how = f"by {signal.Signals(-code).name}; out of memory?" if code < 0 else f"with exit code {code}"
                if worker.hung or code < 0:
                    answers.append((number, Lost(silence() if worker.hung else f"its worker ended ({how})")))
                else:  # by itself, as for want of a package
                    answers.append((number, Lost(f"its worker ended ({how})", _ENDED_ITSELF)))
        return answers

    def _remove(self, place: int) -> None:
        worker = self._workers.pop(place)
        worker.pipe.close()
        worker.process.join()

    def signs_of_life(self, number: int) -> int:
        return int(self._of(number).signs.value)

    def give_up(self, number: int) -> None:
        worker = self._of(number)
        worker.hung = True
        worker.process.kill()

    def _of(self, number: int) -> _Worker:
        return next(worker for worker in self._workers.values() if worker.number == number)

    def close(self) -> None:
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            worker.stop.value = 1
        end = time.monotonic() + STOP_SECONDS
        for worker in workers:
            with suppress(OSError):  # it is dead
                worker.pipe.send(None)
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _serve(pipe: Connection, stop: Any, signs: Any, root: Path, device: torch.device, options: Options) -> None:
    """A worker: does what comes through the pipe, until nothing does."""

    def asked_to_end(*_: object) -> None:
        stop.value = 1

    signal.signal(signal.SIGTERM, asked_to_end)  # a batch system sends it to every process
    threading.Thread(target=_end_with_parent, args=[stop], daemon=True).start()
    workspace = Workspace(root)
    prepare_torch(device, options.deterministic)

    def should_stop() -> bool:
        signs.value += 1
        return bool(stop.value)

    def do(jobs: list[Job], until: float | None) -> dict[Job, HW4Error]:
        store = open_store(workspace.store)
        folds = load_folds(store, workspace.folds_file)
        return work(workspace, jobs, store, folds, device, should_stop, until, options.logs)

    while (request := pipe.recv()) is not None:
        should_stop()
        with _at_work:
            answer = answer_of(workspace, partial(do, *request))
        if stop.value:
            return  # the checkpoints are written; nobody waits for the answer, or the job is not done
        pipe.send(answer)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # to others on the same GPU


def _end_with_parent(stop: Any) -> None:
    """A parent that was killed cannot end its workers: they end themselves, with checkpoints written."""
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    stop.value = 1
    with _at_work:
        os._exit(1)
