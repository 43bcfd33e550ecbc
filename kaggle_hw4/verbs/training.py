"""Verbs about models: train them, predict with them again."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

from kaggle_hw4.errors import DataError, UsageError, first_line
from kaggle_hw4.verbs.data import MAX_SEED, Names, listed, open_split
from kaggle_hw4.workspace import Workspace

if TYPE_CHECKING:
    from kaggle_hw4.runs import Job


@dataclass(frozen=True)
class Trained:
    """A finished training of a member (variant and seed) in `folder`; `fold` held out, None for a refit.

    `accuracy` (share) and `log_loss` (nats) of the `utterances` held out, named whole; None for a refit.
    """

    member: str
    fold: int | None
    folder: Path
    accuracy: float | None
    log_loss: float | None
    utterances: int


def train(
    workspace: Workspace,
    variants: Names = "default",
    *,
    folds: str = "all",
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    budget: str | None = None,
    refit: bool = False,
    device: str = "auto",
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    deterministic: bool = False,
    logs: Names = (),
    dry_run: bool = False,
) -> list[Trained]:
    """Train variants or sets of them on folds, and write their out-of-fold and test logits; gives what is finished.

    `folds` to hold out: `all`, or numbers as in `0,3`. `seeds`: default 0. `steps` of the optimiser: default each
    variant's own. `budget` as in `50m` plans variants, seeds and steps for a time. `refit` trains on all labels what
    is trained on every fold. `workers` are processes: default one per core on CPU, one per GPU. `engine` is `local`
    or `ray`, with the `address` of a cluster (default: one of its own here). `deterministic` asks for PyTorch's
    deterministic algorithms on a GPU. `logs` beside log.jsonl: `tensorboard`. The plan is told on stderr, and with
    `dry_run` that is all. Workers are spawned: a script calls this under `if __name__ == "__main__"`.

    Raises:
        UsageError: no such variant, fold or device, or options that contradict each other.
        DataError: no data, a folder of a run made from something else, or a training whose loss is not finite.
        UnavailableError: no Ray cluster answers.
        PendingError: the budget is used up before the end; checkpoints are written, the same call goes on.
    """
    import time
    from contextlib import closing

    from kaggle_hw4.jobs.command import open_engine, plan_training
    from kaggle_hw4.jobs.engine import run_plan
    from kaggle_hw4.jobs.work import Options
    from kaggle_hw4.terminal import say
    from kaggle_hw4.training.logs import check_logs
    from kaggle_hw4.training.session import announce
    from kaggle_hw4.views import plan_lines

    began = time.monotonic()
    _check_train(listed(variants), folds, budget, workers, engine)
    whole_seeds = _whole(seeds)
    check_logs(listed(logs))
    store, split = open_split(workspace)
    chosen = open_engine(
        workspace,
        store,
        split,
        engine=engine,
        address=address,
        device=device,
        workers=workers,
        options=Options(deterministic, tuple(listed(logs))),
    )
    with _handlers_kept(), _process_kept(), closing(chosen):
        plan, seconds = plan_training(
            workspace,
            store,
            split,
            names=listed(variants),
            fold=folds,
            seeds=whole_seeds,
            steps=steps,
            budget=budget,
            refit=refit,
            engine=chosen,
            dry_run=dry_run,
        )
        say(plan_lines(plan, chosen.device))
        if not dry_run:
            announce(workspace, [planned.job for planned in plan.jobs], store, split)
        if plan.open and not dry_run:
            run_plan(workspace, plan, chosen, None if seconds is None else began + seconds)
    return [found for planned in plan.jobs if (found := _trained(workspace, planned.job))]


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray and the engine handle SIGTERM; afterwards the caller does again."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _process_kept() -> Iterator[None]:
    """What suits the workers, PyTorch's threads and some of the environment, is afterwards as the caller had it."""
    import torch

    from kaggle_hw4.jobs.work import WORKER_ENVIRONMENT

    threads, before = torch.get_num_threads(), {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _whole(seeds: Sequence[int] | None) -> list[int] | None:
    """The seeds as Python's integers, which JSON takes; numpy's are fine. Raises UsageError for what is none."""
    if seeds is None:
        return None
    try:
        whole = [-1 if isinstance(seed, bool) else index(seed) for seed in seeds]
    except TypeError:
        whole = [-1]
    if not all(0 <= seed <= MAX_SEED for seed in whole):
        raise UsageError(f"seeds {seeds!r}"[:200], f"Give a list of whole numbers from 0 to {MAX_SEED}.")
    return whole


def _check_train(variants: list[str], folds: str, budget: str | None, workers: int | None, engine: str) -> None:
    """Raises UsageError for what the command line refuses by itself."""
    for fine, cause, remedy in (
        (variants, "no variants", "Name some, or leave them out for the default set."),
        (isinstance(folds, str), f"folds {folds!r}", 'Write "all", or numbers as in "0,3".'),
        (isinstance(budget, str | None), f"budget {budget!r}", 'Write it as "50m" or "2h".'),
        (workers is None or workers >= 1, f"workers {workers}", "At least 1."),
        (engine in ("local", "ray"), f"no engine {engine!r}", "There are: local, ray."),
        (current_thread() is main_thread(), "train in a thread", "Call it in the main thread: it minds Ctrl-C."),
    ):
        if not fine:
            raise UsageError(cause, remedy)


def _trained(workspace: Workspace, job: "Job") -> Trained | None:
    from kaggle_hw4.runs import run_of

    run = run_of(workspace, job)
    if not run.finished:
        return None
    result = run.read_result()
    fold = None if job.refit else job.fold
    return Trained(job.member, fold, run.folder, result["accuracy"], result["log_loss"], result["utterances"])


def predict(workspace: Workspace, names: Names = (), *, device: str = "auto") -> None:
    """Write the logits of trained members, variants or sets (default: all) again, from their weights.

    Raises:
        UsageError: no such member or device.
        DataError: a member that lacks folds, or weights that are damaged.
    """
    import torch

    from kaggle_hw4.ensemble.members import choose_members
    from kaggle_hw4.jobs.plan import choose_device, devices_of
    from kaggle_hw4.jobs.work import prepare_torch
    from kaggle_hw4.runs import REFIT, job_of, run_at
    from kaggle_hw4.terminal import progress_bar
    from kaggle_hw4.training.artefacts import predict_again

    store, split = open_split(workspace)
    target = devices_of(choose_device(device))[0]
    with _process_kept(), progress_bar("predicting") as update:
        prepare_torch(target, deterministic=False)  # as the workers of a training: the same logits, bit by bit
        members = choose_members(workspace, split.k, listed(names), "predict")
        runs = [run_at(workspace, member, number) for member in members for number in range(split.k)]
        runs += [run for run in (run_at(workspace, member, REFIT) for member in members) if run.finished]
        for done, run in enumerate(runs):
            try:
                predict_again(workspace, job_of(run), store, split, target)
            except (torch.OutOfMemoryError, MemoryError) as error:
                raise DataError(
                    f"{target} has too little memory: {first_line(error)}",
                    "Wait for what else is at work there, or use --device cpu.",
                ) from error
            update(done + 1, len(runs))
