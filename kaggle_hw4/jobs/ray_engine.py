"""Run jobs on a Ray cluster, each group as a task. Ray is imported by the `ray_` modules only, if asked for."""

import time
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Any
from uuid import uuid4

import torch

from kaggle_hw4 import __version__
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import HW4Error, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.engine import LOOK_SECONDS, STOP_SECONDS, Answer, Lost, silence
from kaggle_hw4.jobs.plan import Costs, known_once
from kaggle_hw4.jobs.ray_cluster import Head, cluster_errors, connected, reason_of
from kaggle_hw4.jobs.work import WORKER_ENVIRONMENT, Options
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job, claim, identity, run_of
from kaggle_hw4.training.stopping import Stopped, locked
from kaggle_hw4.workspace import Workspace

_WITHOUT_HEAD = 5.0  # of `STOP_SECONDS`: without its head Ray soon ends all processes


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
    def _head(self) -> Head:
        return Head(self._ray)

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

            with cluster_errors():
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
            with cluster_errors():
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
        self._head.check()
        with cluster_errors():
            of = {task.answer: number for number, task in self._tasks.items()}
            ready, _ = self._ray.wait(list(of), num_returns=len(of), timeout=LOOK_SECONDS)
            self._signs = self._ray.get(self._mailbox.heard.remote())
            for answer in ready:
                task = self._tasks.pop(of[answer])
                try:
                    answers.append((of[answer], self._ray.get(answer)))
                except self._ray.exceptions.RayError as error:
                    reason = silence() if task.hung else f"its Ray worker was lost ({reason_of(error)})"
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
        with cluster_errors():
            self._ray.get(self._mailbox.dismiss.remote(task.name))
            self._ray.cancel(task.answer, force=True)

    def close(self) -> None:
        ray = self.__dict__.pop("_ray", None)  # as far as it is connected
        if ray is None:
            return
        tasks, self._tasks = list(self._tasks.values()), {}
        head = self.__dict__.get("_head")
        seconds = _WITHOUT_HEAD if head and head.gone else STOP_SECONDS
        with suppress(ray.exceptions.RayError):
            if tasks:
                ray.get(self._mailbox.stop.remote())
                ray.wait([task.answer for task in tasks], num_returns=len(tasks), timeout=seconds)
        for task in tasks:
            task.locks.close()
        ray.shutdown()
        self._surroundings.close()


class _Task:
    """A group in Ray's hands: its name to the mailbox, its answer to come, the locks of its runs."""

    def __init__(self, name: str, answer: Any, locks: ExitStack) -> None:
        self.name, self.answer, self.locks = name, answer, locks
        self.hung = False
