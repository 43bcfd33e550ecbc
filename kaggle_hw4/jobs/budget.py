"""`train --budget`: which variants, seeds and steps fit into a time, so that an ensemble is there at its end."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from filelock import FileLock

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError, first_line
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.plan import Costs, Plan, PlannedJob, timed
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job, with_steps
from kaggle_hw4.terminal import duration
from kaggle_hw4.training.capture import compiled_from
from kaggle_hw4.workspace import Workspace, content_hash, read_json, storage_errors, write_json

_PLANNED_SHARE = 0.85  # of the time: the rest is for a machine slower than it was in calibration
_START_SECONDS = 15.0  # of the workers, and of the last logits
_FEW_STEPS = 2_000  # rather fewer variants than fewer steps each
_LEAST_STEPS = 100  # below, a model is no better than none
_MOST_SEEDS = 10


@dataclass(frozen=True)
class Allotment:
    """What is trained within the budget: `chosen` variants with their steps, the best first, and `seeds`."""

    chosen: dict[str, Variant]
    seeds: list[int]


def parse_duration(text: str) -> float:
    """Seconds of `50m`, `2h`, `1h30m`, `90s`. Raises UsageError for anything else."""
    match = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text, re.ASCII)
    if not match or not any(match.groups()):
        raise UsageError(f"no duration {text!r}", "Write it as 50m, 2h, 1h30m or 90s.")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def allot(
    variants: dict[str, Variant],
    fold_numbers: list[int],
    seeds: list[int] | None,
    *,
    budget: float,
    costs: Costs,
    workers: int,
    store: Store,
    folds: Folds,
) -> Allotment:
    """Share `budget` seconds: the same number of steps for every variant, up to its own.

    Where these are few, the variants at the front of `variants` are left out first (the best are
    last); where there is time to spare and no `seeds` are asked for, further seeds are added.

    Raises:
        UsageError: too short for a single variant; says what the least is.
    """
    usable = budget * _PLANNED_SHARE - _START_SECONDS

    def planned(chosen: dict[str, Variant], steps: int, seeds: int) -> Plan:
        """All jobs, as they will be planned."""
        jobs = [
            Job(name, with_steps(v, min(steps, v.steps)), seed, fold)
            for seed in range(seeds)
            for name, v in reversed(chosen.items())
            for fold in fold_numbers
        ]
        measured = {name: costs(name, v) for name, v in chosen.items()}
        return timed([PlannedJob(job, 0, 0.0, False) for job in jobs], measured, workers, store, folds)

    def seconds(chosen: dict[str, Variant], steps: int, seeds: int) -> float:
        return planned(chosen, steps, seeds).seconds

    count = len(seeds or [0])
    for left_out in range(len(variants)):
        chosen = dict(list(variants.items())[left_out:])
        longest = range(1, max(v.steps for v in chosen.values()) + 1)
        plan = planned(chosen, 1, count)
        jumps = {compiled_from(len(group)) for group in plan.groups if plan.compiles}
        ranges = [1, *sorted(n for n in jumps if n in longest and n > 1), len(longest) + 1]
        steps = _most_steps(usable, ranges, partial(seconds, chosen, seeds=count))
        if steps >= min(_FEW_STEPS, len(longest)):
            break
    if steps < min(_LEAST_STEPS, len(longest)):
        least = (seconds(chosen, _LEAST_STEPS, count) + _START_SECONDS) / _PLANNED_SHARE
        raise UsageError(
            f"--budget is too short: {', '.join(chosen)} on {len(fold_numbers)} folds takes {duration(least)}",
            f"Give at least {int(least / 60) + 1}m, or name a smaller variant with --variant.",
        )
    if seeds is None:
        fitting = [n for n in range(1, _MOST_SEEDS + 1) if seconds(chosen, len(longest), n) <= usable]
        count = max(fitting, default=1)
    shortened = {name: with_steps(v, min(steps, v.steps)) for name, v in reversed(chosen.items())}
    return Allotment(shortened, seeds or list(range(count)))


def _most_steps(usable: float, ranges: list[int], seconds: Callable[[int], float]) -> int:
    """The most steps that take no more than `usable` seconds, 0 for none.

    `ranges` are the borders of ranges in which more steps take longer; where a GPU begins to compile, they take less.
    """
    for begin, end in reversed(list(pairwise(ranges))):
        if fitting := bisect_right(range(begin, end), usable, key=seconds):
            return begin + fitting - 1
    return 0


def recall(workspace: Workspace, request: dict[str, object]) -> Allotment | None:
    """The allotment begun for the same `request`, so that the same command goes on. Raises DataError: damaged."""
    path = _record_of(workspace, request)
    if not path.exists():
        return None
    again = f"Delete {path}: the time is planned anew."
    record = read_json(path, again)
    try:
        return Allotment({name: Variant(**recipe) for name, recipe in record["chosen"].items()}, record["seeds"])
    except (KeyError, TypeError, AttributeError, UsageError) as error:  # the last of a recipe that is refused
        raise DataError(f"{path} is damaged: {first_line(error)}", again) from error


def remember(workspace: Workspace, request: dict[str, object], made: Allotment) -> Allotment:
    """Record what is begun for `request`; gives what another command began for the same meanwhile, else `made`."""
    with storage_errors(workspace.runs):
        workspace.runs.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace.runs / ".budget.lock"):
            if before := recall(workspace, request):
                return before
            recipes = {name: v.recipe() for name, v in made.chosen.items()}
            write_json(_record_of(workspace, request), {"request": request, "chosen": recipes, "seeds": made.seeds})
    return made


def _record_of(workspace: Workspace, request: dict[str, object]) -> Path:
    return workspace.runs / f"budget-{content_hash(request)}.json"
