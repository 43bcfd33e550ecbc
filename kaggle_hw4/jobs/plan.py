"""What `train` is going to do, how long it takes and what it writes: shown before anything starts."""

import time
from dataclasses import dataclass

import torch

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.runs import Job, check_identity, identity, run_of, with_steps
from kaggle_hw4.training.trainer import VALIDATIONS
from kaggle_hw4.variants import Variant, expand, variant
from kaggle_hw4.workspace import Workspace


@dataclass(frozen=True)
class PlannedJob:
    """A job, the step it stands at, and the seconds it should still take on one worker."""

    job: Job
    done_steps: int
    seconds: float
    finished: bool


@dataclass(frozen=True)
class Plan:
    """All jobs asked for, in the order in which they are done. `disk` in bytes, still to be written."""

    jobs: list[PlannedJob]
    workers: int
    disk: int

    @property
    def open(self) -> list[PlannedJob]:
        return [planned for planned in self.jobs if not planned.finished]

    @property
    def seconds(self) -> float:
        """Wall time: the jobs handed to the workers in turn."""
        busy = [0.0] * self.workers
        for planned in self.open:
            busy[busy.index(min(busy))] += planned.seconds
        return max(busy)


def choose_device(name: str) -> torch.device:
    """`auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1` … Raises UsageError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"{device.type} is not supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used: {reason}", "Use --device cpu, or auto.") from error
    return device


def choose_folds(text: str, k: int) -> list[int]:
    """The folds named by `all`, `2` or `0,3`. Raises UsageError that lists what there is."""
    if text == "all":
        return list(range(k))
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError:
        chosen = [-1]
    if not all(0 <= fold < k for fold in chosen):
        raise UsageError(f"no fold {text!r}", f"There are: {', '.join(map(str, range(k)))}, all.")
    return list(dict.fromkeys(chosen))


def make_plan(
    workspace: Workspace,
    store: Store,
    folds: Folds,
    *,
    names: list[str],
    fold_numbers: list[int],
    seeds: list[int],
    steps: int | None,
    device: torch.device,
    workers: int,
) -> Plan:
    """Plan every variant × seed × fold; fold by fold, so that an early stop leaves comparable work.

    Raises:
        UsageError: an unknown variant.
        DataError: a run's folder was made from something else.
    """
    chosen = {name: with_steps(variant(name), steps) for name in expand(names)}
    jobs = [Job(name, v, seed, fold) for fold in fold_numbers for seed in seeds for name, v in chosen.items()]
    states = [_state(workspace, job, store, folds) for job in jobs]
    costs = {
        job.name: measure(job.variant, len(store.speakers), device)
        for job, (_, finished) in zip(jobs, states, strict=True)
        if not finished
    }
    planned = [
        PlannedJob(job, step, 0.0 if finished else _seconds(job, step, costs[job.name][0], store, folds), finished)
        for job, (step, finished) in zip(jobs, states, strict=True)
    ]
    todo = [p.job for p in planned if not p.finished]
    workers = max(1, min(workers, len(todo)))
    rows = sum(len(folds.validation_rows(job.fold)) + len(store.test_rows) for job in todo)
    # Of each job its weights, and of each at work a checkpoint (weights, average, two moments), written beside
    # the one before.
    parameters = sum(costs[job.name][1] for job in todo) + 8 * sum(costs[job.name][1] for job in todo[:workers])
    return Plan(planned, workers, 4 * (len(store.speakers) * rows + parameters))


def _state(workspace: Workspace, job: Job, store: Store, folds: Folds) -> tuple[int, bool]:
    """The last step logged, and whether the job is finished."""
    run = run_of(workspace, job)
    if run.started:
        check_identity(run, identity(job, store, folds))
    if run.finished:
        return job.variant.steps, True
    lines = run.log_lines() if run.checkpoint.exists() else []
    return max((line["step"] for line in lines), default=0), False


def _seconds(job: Job, done: int, per_step: float, store: Store, folds: Folds) -> float:
    """Steps and predictions still to come; a forward pass costs a third of a step."""
    held_out = int(store.lengths[folds.validation_rows(job.fold)].sum())
    predicted = (VALIDATIONS + 1) * held_out + int(store.lengths[store.test_rows].sum())
    frames_per_step = job.variant.batch * job.variant.crop
    return per_step * (job.variant.steps - done + predicted / frames_per_step / 3)


def measure(v: Variant, n_speakers: int, device: torch.device) -> tuple[float, int]:
    """Seconds of one training step, the fastest of three, and the number of parameters."""
    from kaggle_hw4.models.classifier import SpeakerClassifier

    model = SpeakerClassifier(v, n_speakers).to(device)
    x = torch.zeros(v.batch, v.crop, N_MELS, device=device)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        model(x).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times), sum(parameter.numel() for parameter in model.parameters())
