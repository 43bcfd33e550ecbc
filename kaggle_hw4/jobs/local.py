"""Run jobs side by side on this machine: one process per worker, one thread each on CPU."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path

from kaggle_hw4.errors import DataError, HW4Error, PendingError
from kaggle_hw4.jobs.display import TrainingDisplay
from kaggle_hw4.jobs.plan import Plan, PlannedJob
from kaggle_hw4.machine import usable_cores
from kaggle_hw4.runs import Job
from kaggle_hw4.terminal import say
from kaggle_hw4.workspace import Workspace

# What the training processes start with on CPU. Spinning threads would fight over the cores. The allocator
# keeps what it has: given back after each step, 10,000 pages are faulted in anew (transformer: 184 → 156 ms a
# step), and large pages save the look-ups of small ones (another 4 %). glibc reads these, others ignore them.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

_RESERVE_SECONDS = 15.0  # before a deadline, when all should be written

_stop: Event
_at_work = threading.Lock()


def default_workers(device_type: str) -> int:
    """One per usable core on CPU; one on a GPU."""
    if device_type != "cpu":
        return 1
    return usable_cores()


def run_plan(
    workspace: Workspace, plan: Plan, device: str, deadline: float | None = None, logs: Sequence[str] = ()
) -> None:
    """Do the open jobs of `plan`; a job that fails does not stop the others.

    With a `deadline` trainings that are late end early, so that all have their part of the time.
    `logs`: see `do_jobs`.

    Raises:
        PendingError: `deadline`, on the clock `time.monotonic`, came before the end; checkpoints are written.
        HW4Error: the first failure of a job, after the others are done; DataError: a worker died.
        KeyboardInterrupt: interrupted (SIGINT or SIGTERM), after all workers wrote their checkpoints.
        Exception: a job failed in an unforeseen way, after the others are done.
    """
    failures: dict[Job, Exception] = {}
    os.environ.update(WORKER_ENVIRONMENT if device == "cpu" else {})  # before any worker starts
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(plan.workers, context, _start_worker, (stop,))
    futures: dict[Future[dict[Job, HW4Error]], list[PlannedJob]] = {}
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TrainingDisplay(workspace, plan) as display:
            # Workers are started by `submit` and inherit this: Ctrl-C is the parent's to handle.
            interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number, group in enumerate(plan.groups):
                slot = None
                if deadline is not None:
                    rounds = _rounds_left(number, len(plan.groups), plan.workers)
                    slot = _Slot(deadline, rounds, sum(planned.closing for planned in group))
                jobs = [planned.job for planned in group]
                futures[pool.submit(_work, workspace.root, jobs, device, slot, logs)] = group
            signal.signal(signal.SIGINT, interrupted)
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    failed: dict[Job, Exception] = {}
                    try:
                        failed |= future.result()
                    except BrokenProcessPool:
                        raise DataError(
                            "a training process died (killed, or out of memory?)",
                            "Run the same command again: it goes on from the checkpoints. "
                            "With --workers 1 it needs the least memory.",
                        ) from None
                    except Exception as error:
                        failed |= {planned.job: error for planned in futures[future]}
                    for planned in futures[future]:
                        if planned.job not in failed:
                            display.finished(planned)
                    for job, reason in failed.items():
                        failures[job] = reason
                        say(f"{job} failed: {reason}")
                # The pool calls a job "running" when it is next in line: the workers have the first of these.
                running = [group for future, group in futures.items() if future in waiting and future.running()]
                display.refresh([planned for group in running[: plan.workers] for planned in group])
                if deadline is not None and waiting and time.monotonic() > deadline:
                    undone = [planned.job for future in waiting for planned in futures[future]]
                    raise PendingError(
                        f"the time is up, with {len(undone)} of {len(plan.jobs)} jobs not done",
                        "Run the same command again: it goes on from the checkpoints. Or blend the members that "
                        "are complete: kaggle-hw4 ensemble NAME …, and submit what it writes.",
                    )
    except KeyboardInterrupt:
        say("Stopping: the trainings write their checkpoints …")
        raise
    finally:
        # A second Ctrl-C must not break off the shutdown: the pool would never end.
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, terminated)
    if failures:
        job, first = next(iter(failures.items()))
        if not isinstance(first, HW4Error):
            raise first
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise type(first)(f"{job}: {first.cause}{more}", first.remedy)


def _start_worker(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """The pool's workers outlive a parent that was killed: waiting for work for ever, or training on."""
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    _stop.set()
    with _at_work:  # until the checkpoint is written
        os._exit(1)


@dataclass(frozen=True)
class _Slot:
    """A group's part of the time that is left when it begins: its worker does `rounds` more, this one included.

    On a machine slower than it was in calibration trainings end early rather than never.
    """

    deadline: float
    rounds: int
    closing: float

    def ends(self) -> float:
        now = time.monotonic()
        return now + (self.deadline - _RESERVE_SECONDS - now) / self.rounds - 2 * self.closing


def _rounds_left(number: int, groups: int, workers: int) -> int:
    """How many groups the worker of group `number` does from there on, this one included."""
    return -(-groups // workers) - number // workers


def _work(
    root: Path, jobs: list[Job], device: str, slot: _Slot | None = None, logs: Sequence[str] = ()
) -> dict[Job, HW4Error]:
    """Do jobs of one variant together, in two halves one after the other where the memory does not suffice."""
    import torch

    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import load_folds
    from kaggle_hw4.training.session import do_jobs
    from kaggle_hw4.training.stopping import Stopped

    if device == "cpu":
        torch.set_num_threads(1)
    workspace = Workspace(root)
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)

    failures: dict[Job, HW4Error] = {}
    waiting = [jobs]
    until = slot.ends() if slot else None
    with _at_work, suppress(Stopped):
        while waiting and not _stop.is_set():
            group = waiting.pop()
            try:
                failures |= do_jobs(workspace, group, store, folds, torch.device(device), _stop.is_set, until, logs)
                continue
            except (torch.OutOfMemoryError, MemoryError) as error:
                reason = (str(error).splitlines() or ["no memory left"])[0]
            if len(group) == 1:
                raise DataError(
                    f"out of memory: {reason}", "Run the same command with fewer --workers; it goes on from here."
                )
            # Out of the except: its traceback would keep the tensors of the attempt.
            if device != "cpu":
                torch.cuda.empty_cache()
            waiting += [group[len(group) // 2 :], group[: len(group) // 2]]
    return failures
