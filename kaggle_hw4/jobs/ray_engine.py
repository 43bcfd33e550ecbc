"""Run jobs on a Ray cluster, each group as a task. Only this and `ray_node` import Ray, and only if asked for."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any
from uuid import uuid4

import torch

from kaggle_hw4 import __version__
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import HW4Error, UnavailableError, UsageError, first_line
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.engine import LOOK_SECONDS, STOP_SECONDS, Answer, Lost, silence
from kaggle_hw4.jobs.plan import Costs, known_once
from kaggle_hw4.jobs.work import WORKER_ENVIRONMENT, Options
from kaggle_hw4.machine import usable_cores
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job, claim, identity, run_of
from kaggle_hw4.training.stopping import Stopped, locked
from kaggle_hw4.workspace import Workspace

_REACH_SECONDS = 5.0  # for the first answer of a host
_JOIN_SECONDS = 90.0  # to be let into a cluster
_AGAIN = "Run the same command again: it goes on from the checkpoints."


class RayEngine:
    """The cluster at `address`; without one, a cluster of its own on this machine that only this machine can reach.

    The locks of the runs are held here, where the workspace is; the nodes write through the mailbox.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        folds: Folds,
        *,
        address: str | None,
        device: str,
        workers: int | None,
        options: Options,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device {device} with --engine ray", "Ray chooses the GPU: say auto, cpu or cuda.")
        self._workspace, self._store, self._folds = workspace, store, folds
        self._address, self._wanted_device, self._wanted_workers = address, device, workers
        self._options = options
        self._tasks: dict[int, _Task] = {}
        self._signs: dict[str, int] = {}
        self._surroundings = ExitStack()
        self._early: list[tuple[int, Answer]] = []  # of groups for which there was nothing to do

    @cached_property
    def _ray(self) -> Any:
        """The module, connected."""
        return self._surroundings.enter_context(connected(self._address, self._wanted_workers))

    @cached_property
    def device(self) -> torch.device:
        """The kind that the nodes train on. Raises UsageError when the one asked for is nowhere."""
        gpus = self._ray.cluster_resources().get("GPU", 0)
        if self._wanted_device == "cuda" and not gpus:
            raise UsageError("--device cuda: no node of the Ray cluster has a GPU", "Use --device cpu, or auto.")
        return torch.device("cuda" if gpus and self._wanted_device != "cpu" else "cpu")

    @cached_property
    def _slots(self) -> int:
        kind = "CPU" if self.device.type == "cpu" else "GPU"
        return max(1, int(self._ray.cluster_resources().get(kind, 0)))

    @property
    def workers(self) -> int:
        return self._wanted_workers or self._slots

    @property
    def _sharing(self) -> int:
        """How many tasks share a GPU."""
        return -(-self.workers // self._slots)

    @cached_property
    def _mailbox(self) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from kaggle_hw4.jobs.ray_node import Mailbox

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        actor = self._ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here)
        return actor.remote(self._workspace.root, self._store.folder)

    @cached_property
    def _source(self) -> Any:
        from kaggle_hw4.jobs.ray_node import Source

        device = "cpu" if self.device.type == "cpu" else "cuda:0"  # Ray shows a task its own GPU only
        store = self._store
        return self._ray.put(
            Source(store.folder, store.hash, store.dtype, self._folds, device, self._options, __version__)
        )

    def _remote(self, function: Any) -> Any:
        on_cpu = self.device.type == "cpu"
        share: dict[str, Any] = {"num_cpus": 1} if on_cpu else {"num_cpus": 0, "num_gpus": 1 / self._sharing}
        environment = {"env_vars": WORKER_ENVIRONMENT if on_cpu else {}}
        return self._ray.remote(function).options(**share, max_retries=0, runtime_env=environment)

    def costs(self, jobs_of_a_variant: int) -> Costs:
        wait = self._ray.get  # connected first: what is imported below reads the settings made there

        def measured(variant: Variant) -> Any:
            from kaggle_hw4.jobs.ray_node import measure_on_node

            with _cluster_errors():
                task = self._remote(measure_on_node)
                answer = wait(task.remote(self._mailbox, self._source, variant, jobs_of_a_variant, self._sharing))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return known_once(measured)

    def start(self, number: int, jobs: list[Job], seconds: float | None) -> bool:
        from kaggle_hw4.jobs.ray_node import files_in, work_on_node

        runs = [run_of(self._workspace, job) for job in sorted(jobs, key=str)]
        with ExitStack() as locks:
            try:
                for job, run in zip(sorted(jobs, key=str), runs, strict=True):
                    locks.enter_context(locked(run, lambda: True))
                    claim(run, identity(job, self._store, self._folds))
            except Stopped:
                return False
            except HW4Error as error:
                self._early.append((number, error))
                return True
            todo = [job for job in jobs if not run_of(self._workspace, job).finished]
            if not todo:
                self._early.append((number, {}))
                return True
            folders = [run_of(self._workspace, job).folder for job in todo]
            files = {
                str(path.relative_to(self._workspace.runs)): path.read_bytes()
                for folder in folders
                for path in files_in(folder)
            }
            with _cluster_errors():
                name = uuid4().hex
                self._ray.get(self._mailbox.admit.remote(name))
                arguments = (name, self._mailbox, self._source, todo, self._ray.put(files), seconds)
                answer = self._remote(work_on_node).remote(*arguments)
            self._tasks[number] = _Task(name, answer, locks.pop_all())
        return True

    def answers(self) -> list[tuple[int, Answer]]:
        answers, self._early = self._early, []
        if not self._tasks:
            time.sleep(0 if answers else LOOK_SECONDS)
            return answers
        with _cluster_errors():
            of = {task.answer: number for number, task in self._tasks.items()}
            ready, _ = self._ray.wait(list(of), num_returns=len(of), timeout=LOOK_SECONDS)
            self._signs = self._ray.get(self._mailbox.heard.remote())
            for answer in ready:
                task = self._tasks.pop(of[answer])
                try:
                    answers.append((of[answer], self._ray.get(answer)))
                except self._ray.exceptions.RayError as error:
                    reason = silence() if task.hung else f"its Ray worker was lost ({_reason(error)})"
                    answers.append((of[answer], Lost(reason)))
                self._ray.get(self._mailbox.dismiss.remote(task.name))
                task.locks.close()
        return answers

    def signs_of_life(self, number: int) -> int:
        task = self._tasks.get(number)
        return self._signs.get(task.name, 0) if task else 0

    def give_up(self, number: int) -> None:
        task = self._tasks[number]
        task.hung = True
        with _cluster_errors():
            self._ray.get(self._mailbox.dismiss.remote(task.name))
            self._ray.cancel(task.answer, force=True)

    def close(self) -> None:
        ray = self.__dict__.pop("_ray", None)  # as far as it is connected
        if ray is None:
            return
        tasks, self._tasks = list(self._tasks.values()), {}
        with suppress(ray.exceptions.RayError):
            if tasks:
                ray.get(self._mailbox.stop.remote())
                ray.wait([task.answer for task in tasks], num_returns=len(tasks), timeout=STOP_SECONDS)
        for task in tasks:
            task.locks.close()
        ray.shutdown()
        self._surroundings.close()


class _Task:
    """A group in Ray's hands: its name to the mailbox, its answer to come, the locks of its runs."""

    def __init__(self, name: str, answer: Any, locks: ExitStack) -> None:
        self.name, self.answer, self.locks = name, answer, locks
        self.hung = False


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address`, or to a new one with room for `workers`.

    The environment is as before afterwards.

    Raises:
        UsageError: Ray is not installed, or that is no address.
        UnavailableError: there is no cluster at the address, or none can be started.
    """
    before = os.environ.copy()
    try:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # a note about GPUs that we do not depend on
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]  # Ray talks to its own nodes only
        if address is None:
            # The documented switch to a cluster of one node, whose servers then all listen on 127.0.0.1 only.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as the local engine's workers; Ray's are nice by 15
        yield _initialised(address, workers)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _initialised(address: str | None, workers: int | None) -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray, which is not installed", "pip install 'kaggle-hw4[ray]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        quiet |= {"num_cpus": max(usable_cores(), workers or 1), "include_dashboard": False}
    else:
        _check(address)
    try:
        ray.init(address=address or "local", **quiet)
    except Exception as error:  # plain ones, among others
        ray.shutdown()
        raise UnavailableError(f"Ray did not start: {_reason(error)}", "Run the same command again.") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own prints a stack
    return ray


def _check(address: str) -> None:
    """Raises UnavailableError when there is no cluster: left to itself Ray tries for minutes, then ends the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"no address {address!r}", "Write it as `ray start` tells it: HOST:PORT, as in 10.0.0.1:6379.")
    remedy = "Start it with `ray start` on every node, this one too (see docs/ray.md), or leave --address out."
    joining = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
        # In a process of its own, which can be ended.
        command = [sys.executable, "-c", joining, address]
        subprocess.run(command, capture_output=True, text=True, timeout=_JOIN_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"no Ray cluster answered at {address} in {_JOIN_SECONDS:.0f} s", remedy) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UnavailableError(f"the Ray cluster at {address} cannot be joined: {last}", remedy) from None
    except OSError as error:
        raise UnavailableError(f"nothing answers at {address}: {error}", remedy) from None


@contextmanager
def _cluster_errors() -> Iterator[None]:
    """Raises UnavailableError for what Ray raises when it lost more than a worker."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise UnavailableError(f"the Ray cluster failed: {_reason(error)}", _AGAIN) from error


def _reason(error: Exception) -> str:
    return first_line(getattr(error, "cause", None) or error)  # what a task raised, without Ray's own traceback
