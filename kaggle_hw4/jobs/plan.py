"""What `train` is going to do, how long it takes and what it writes: shown before anything starts."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean

import torch

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.calibrate import Cost, measure
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import REFIT, Job, Run, check_identity, identity, job_of, run_of, train_command
from kaggle_hw4.training.capture import COMPILED_SHARE, COMPILING_SECONDS, worth_compiling
from kaggle_hw4.training.schedules import mean_crop, validation_steps
from kaggle_hw4.workspace import Workspace


@dataclass(frozen=True)
class PlannedJob:
    """A job, the step it stands at, and the seconds it should still take on one worker.

    `closing` of these come after the last step: the predictions.
    """

    job: Job
    done_steps: int
    seconds: float
    finished: bool
    closing: float = 0.0


@dataclass(frozen=True)
class Plan:
    """All jobs asked for, in the order in which they are done. `disk` in bytes, still to be written.

    `together` says of each variant how many of its jobs train at once in one worker; `compiles` whether
    the device compiles their steps where that pays.
    """

    jobs: list[PlannedJob]
    workers: int
    disk: int
    together: dict[str, int]
    compiles: bool = False

    @property
    def open(self) -> list[PlannedJob]:
        return [planned for planned in self.jobs if not planned.finished]

    @property
    def groups(self) -> list[list[PlannedJob]]:
        """The open jobs as the workers take them: alone, or those of a variant that train together."""
        stacked = any(count > 1 for count in self.together.values())
        todo = sorted(self.open, key=lambda planned: planned.job.name) if stacked else self.open
        groups: list[list[PlannedJob]] = []
        for name, members in groupby(todo, key=lambda planned: planned.job.name):
            jobs, size = list(members), self.together[name]
            # In equal parts: 5 of at most 4 at once are 3 and 2, not 4 and 1. And each worker gets a part.
            parts = max(-(-len(jobs) // size), min(len(jobs), -(-self.workers * len(jobs) // len(todo))))
            groups += [jobs[i * len(jobs) // parts : (i + 1) * len(jobs) // parts] for i in range(parts)]
        return groups

    @property
    def compiled(self) -> list[str]:
        """The variants whose steps are compiled."""
        long = [group[0].job for group in self.groups if worth_compiling(group[0].job.variant, len(group))]
        return list(dict.fromkeys(job.name for job in long)) if self.compiles else []

    @property
    def seconds(self) -> float:
        """Wall time: the groups handed to the workers in turn."""
        return wall_time([sum(planned.seconds for planned in group) for group in self.groups], self.workers)


def wall_time(seconds: Iterable[float], workers: int) -> float:
    """How long `workers` are busy with what takes so many seconds each, handed out in turn."""
    busy = [0.0] * workers
    for each in seconds:
        busy[busy.index(min(busy))] += each
    return max(busy)


def choose_device(name: str) -> torch.device:
    """`auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1` … Raises UsageError when it is not there, or is of
    no use to this PyTorch, which may be built for newer GPUs only."""
    named = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", named):
            raise RuntimeError("there is no such device")
        device = torch.device(named)
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        remedy = "Use --device auto, cpu, cuda, or cuda:1 and so on."
        if name == "auto":
            remedy = "Use --device cpu, or a PyTorch that is built for this GPU."
        raise UsageError(f"--device {name} cannot be used: {reason}", remedy) from error
    return device


def devices_of(device: torch.device) -> list[torch.device]:
    """The devices meant: `cuda` is every GPU of this machine, anything else itself."""
    if str(device) == "cuda":
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device]


def choose_folds(text: str, k: int) -> list[int]:
    """The folds named by `all`, `2` or `0,3`. Raises UsageError that lists what there is."""
    if text == "all":
        return list(range(k))
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError:
        chosen = [-1]
    if not text.isascii() or not all(0 <= fold < k for fold in chosen):
        raise UsageError(f"no fold {text!r}", f"There are: {', '.join(map(str, range(k)))}, all.")
    return list(dict.fromkeys(chosen))


Costs = Callable[[str, Variant], Cost]


def costs_on(store: Store, device: torch.device, jobs_of_a_variant: int, sharing: int) -> Costs:
    """Measures what a variant costs there, for one of `sharing` workers; see `known_once`."""
    return known_once(lambda variant: measure(variant, store, device, jobs_of_a_variant, sharing))


def known_once(measured: Callable[[Variant], Cost]) -> Costs:
    """Measures each variant once: its steps take as long whatever their number."""
    known: dict[str, Cost] = {}

    def cost(name: str, variant: Variant) -> Cost:
        if name not in known:
            known[name] = measured(variant)
        return known[name]

    return cost


def make_plan(
    workspace: Workspace,
    store: Store,
    folds: Folds,
    *,
    chosen: dict[str, Variant],
    fold_numbers: list[int],
    seeds: list[int],
    costs: Costs,
    workers: int,
    member_by_member: bool = False,
) -> Plan:
    """Plan every variant × seed × fold.

    Fold by fold, so that an early stop leaves comparable work; `member_by_member`, so that it leaves
    members that are complete.

    Raises:
        DataError: see `check_member`, or a variant does not fit the GPU.
    """
    jobs = [Job(name, v, seed, fold) for fold in fold_numbers for seed in seeds for name, v in chosen.items()]
    if member_by_member:
        jobs.sort(key=lambda job: (seeds.index(job.seed), list(chosen).index(job.name)))
    for job in {job.member: job for job in jobs}.values():
        check_member(workspace, job, store, folds)
    states = [_state(workspace, job) for job in jobs]
    planned = [PlannedJob(job, step, 0.0, finished) for job, (step, finished) in zip(jobs, states, strict=True)]
    todo = [p.job for p in planned if not p.finished]
    rows = sum(len(folds.validation_rows(job.fold)) + len(store.test_rows) for job in todo)
    sizes = {job.name: costs(job.name, job.variant) for job in todo}
    plan = timed(planned, sizes, workers, store, folds)
    # Of each job its weights, and of each at work a checkpoint (weights, average, two moments), written beside
    # the one before.
    workers = max(1, min(workers, len(plan.groups)))
    at_work = [p.job for group in plan.groups[:workers] for p in group]
    parameters = sum(sizes[job.name].parameters for job in todo) + 8 * sum(sizes[j.name].parameters for j in at_work)
    return replace(plan, workers=workers, disk=4 * (len(store.speakers) * rows + parameters))


def timed(jobs: list[PlannedJob], costs: dict[str, Cost], workers: int, store: Store, folds: Folds) -> Plan:
    """The plan of jobs at variants' `costs`, with the seconds that they take in the groups they go in; no disk yet."""
    together = {name: cost.together for name, cost in costs.items()}
    plan = Plan(jobs, workers, 0, together, any(cost.compiles for cost in costs.values()))
    size = {planned.job: len(group) for group in plan.groups for planned in group}

    def with_seconds(p: PlannedJob) -> PlannedJob:
        if p.finished:
            return p
        seconds, closing = (
            job_seconds(p.job, done, costs[p.job.name], store, folds, size[p.job])
            for done in (p.done_steps, p.job.variant.steps)
        )
        return replace(p, seconds=seconds, closing=closing)

    return replace(plan, jobs=[with_seconds(planned) for planned in jobs])


def check_member(workspace: Workspace, job: Job, store: Store, folds: Folds) -> None:
    """Raises DataError when a fold or the refit of the job's member was made from something else than the job is."""
    asked = [replace(job, fold=fold) for fold in (*range(folds.k), REFIT)]
    started = {run: identity(one, store, folds) for one in asked if (run := run_of(workspace, one)).started}
    others = [run for run, expected in started.items() if run.read_record() != expected]
    ours = [run for run in started if run not in others]
    remedy = ""
    if others and ours:  # only one of them can be gone on with: what more of them are
        fewer, more = sorted((others, ours), key=len)
        folders = ", ".join(str(run.folder) for run in fewer)
        remedy = f"Delete {folders} and train again: {train_command([job_of(more[0])])}"
    for run in others:
        check_identity(run, started[run], remedy)


def _state(workspace: Workspace, job: Job) -> tuple[int, bool]:
    """The last step logged, and whether the job is finished."""
    run = run_of(workspace, job)
    if run.finished:
        return job.variant.steps, True
    return last_step(run), False


def last_step(run: Run) -> int:
    """The last step logged of a training that goes on from a checkpoint; else 0."""
    goes_on = run.checkpoint.exists() or run.previous_checkpoint.exists()  # the former is not there for a moment
    lines = run.log_lines() if goes_on else []
    return max((line["step"] for line in lines), default=0)


def job_seconds(job: Job, done: int, cost: Cost, store: Store, folds: Folds, together: int) -> float:
    """The steps and predictions still to come of one of `together` jobs: its share of them.

    A step of the last stage takes longer than those measured as its crops are longer. Steps of fewer jobs than were
    measured are counted like those: they do not take longer. Each job predicts by itself.
    """
    held_out = int(store.lengths[folds.validation_rows(job.fold)].sum())
    looks = sum(step > done for step in validation_steps(job.variant, held_out))
    predicted = (looks + 1) * held_out + int(store.lengths[store.test_rows].sum())
    v, measured = job.variant, fmean(job.variant.crop_lengths)
    steps = (v.steps - done) * mean_crop(v) / measured
    compiling = 0.0
    if cost.compiles and worth_compiling(v, together) and done < v.steps:
        steps *= COMPILED_SHARE
        compiling = COMPILING_SECONDS * len({*v.crop_lengths, v.final_crop or v.crop})
    return (cost.step * steps + compiling) / together + cost.frame * predicted
