"""Run jobs side by side on this machine: one process per worker, one thread each on CPU."""

import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path

from kaggle_hw4.errors import HW4Error
from kaggle_hw4.jobs.display import TrainingDisplay
from kaggle_hw4.jobs.plan import Plan, PlannedJob
from kaggle_hw4.runs import Job
from kaggle_hw4.terminal import say
from kaggle_hw4.workspace import Workspace

_stop: Event
_at_work = threading.Lock()


def default_workers(device_type: str) -> int:
    """One per usable core on CPU; one on a GPU."""
    if device_type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_plan(workspace: Workspace, plan: Plan, device: str) -> None:
    """Do the open jobs of `plan`; a job that fails does not stop the others.

    Raises:
        HW4Error: the first failure of a job, after the others are done; or a worker died.
        KeyboardInterrupt: interrupted (SIGINT or SIGTERM), after all workers wrote their checkpoints.
        Exception: a job failed in an unforeseen way, after the others are done.
    """
    failures: dict[str, Exception] = {}
    # A new interpreter reads these before torch counts cores. Spinning threads would fight over them.
    os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if device == "cpu" else {})
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(plan.workers, context, _start_worker, (stop,))
    futures: dict[Future[None], PlannedJob] = {}
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TrainingDisplay(workspace, plan) as display:
            # Workers are started by `submit` and inherit this: Ctrl-C is the parent's to handle.
            interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
            futures.update({pool.submit(_work, workspace.root, planned.job, device): planned for planned in plan.open})
            signal.signal(signal.SIGINT, interrupted)
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        future.result()
                    except BrokenProcessPool:
                        raise HW4Error(
                            "a training process died (killed, or out of memory?)",
                            "Run the same command again: it goes on from the checkpoints. "
                            "With --workers 1 it needs the least memory.",
                        ) from None
                    except Exception as error:
                        failures[str(futures[future].job)] = error
                        say(f"{futures[future].job} failed: {error}")
                    else:
                        display.finished(futures[future])
                # The pool calls a job "running" when it is next in line: the workers have the first of these.
                running = [planned for future, planned in futures.items() if future in waiting and future.running()]
                display.refresh(running[: plan.workers])
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


def _work(root: Path, job: Job, device: str) -> None:
    import torch

    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import load_folds
    from kaggle_hw4.training.session import Stopped, do_job

    if device == "cpu":
        torch.set_num_threads(1)
    workspace = Workspace(root)
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)

    with _at_work, suppress(Stopped):
        if _stop.is_set():
            return
        try:
            do_job(workspace, job, store, folds, torch.device(device), _stop.is_set)
        except (torch.OutOfMemoryError, MemoryError) as error:
            reason = (str(error).splitlines() or ["no memory left"])[0]
            raise HW4Error(
                f"out of memory: {reason}", "Run the same command with fewer --workers; it goes on from here."
            ) from None
