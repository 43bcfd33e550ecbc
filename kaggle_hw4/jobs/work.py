"""What a worker does with the jobs it is given, on whichever machine it runs."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, HW4Error, first_line
from kaggle_hw4.folds import Folds
from kaggle_hw4.machine import name_torchs_cache
from kaggle_hw4.runs import Job
from kaggle_hw4.training.session import do_jobs, part_of
from kaggle_hw4.training.stopping import Stopped
from kaggle_hw4.workspace import Workspace, storage_errors

T = TypeVar("T")

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


@dataclass(frozen=True)
class Options:
    """How trainings are done, which does not belong to what they are: `logs`, see `do_jobs`."""

    deterministic: bool = False
    logs: tuple[str, ...] = ()


def prepare_torch(device: torch.device, deterministic: bool) -> None:
    """Set up this process: one thread on CPU; on a GPU, if asked for, what PyTorch has against chance.

    What has no deterministic form warns and is done as it is.
    """
    name_torchs_cache()
    if device.type == "cpu":
        torch.set_num_threads(1)
        return
    torch.cuda.set_device(device)  # a captured graph belongs to the current one
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read at the first product
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def work(
    workspace: Workspace,
    jobs: list[Job],
    store: Store,
    folds: Folds,
    device: torch.device,
    should_stop: Callable[[], bool],
    until: float | None = None,
    logs: Sequence[str] = (),
) -> dict[Job, HW4Error]:
    """Do jobs of one variant together, in two halves one after the other where the memory does not suffice.

    See `do_jobs`; but when asked to stop it returns, with checkpoints written.

    Raises:
        DataError: not even one of them fits the memory, or see `do_jobs`.
    """
    failures: dict[Job, HW4Error] = {}
    waiting = [jobs]
    with suppress(Stopped):
        while waiting and not should_stop():
            group = waiting.pop()
            end = part_of(until, len(group), sum(map(len, waiting)))
            try:
                failures |= do_jobs(workspace, group, store, folds, device, should_stop, end, logs)
                continue
            except (torch.OutOfMemoryError, MemoryError) as error:
                reason = first_line(error)
            if len(group) == 1:
                raise DataError(
                    f"out of memory: {reason}", "Run the same command with fewer --workers; it goes on from here."
                )
            # Out of the except: its traceback would keep the tensors of the attempt.
            if device.type == "cuda":
                torch.cuda.empty_cache()
            waiting += [group[len(group) // 2 :], group[: len(group) // 2]]
    return failures


def answer_of(workspace: Workspace, do: Callable[[], T]) -> T | Exception:
    """What `do` gives or raises, fit to be sent to another process: a bug with its traceback as text."""
    try:
        with storage_errors(workspace.runs):
            return do()
    except HW4Error as error:
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())


def monotonic_end(seconds: float | None) -> float | None:
    """`seconds` from now on the clock that trainings end by; clocks of two machines differ."""
    return None if seconds is None else time.monotonic() + seconds
