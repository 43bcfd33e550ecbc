"""`train --budget`: which variants, seeds and steps fit into a time, so that an ensemble is there at its end."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.plan import Costs, job_seconds
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job, with_steps
from kaggle_hw4.terminal import duration
from kaggle_hw4.workspace import Workspace, read_json, write_json

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
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
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

    def seconds(chosen: dict[str, Variant], steps: int, seeds: int) -> float:
        """Wall time of all jobs, handed to the workers in turn."""
        busy = [0.0] * workers
        for name, v in chosen.items():
            for fold in [fold for _ in range(seeds) for fold in fold_numbers]:
                job = Job(name, with_steps(v, min(steps, v.steps)), 0, fold)
                busy[busy.index(min(busy))] += job_seconds(job, 0, costs(name, v), store, folds)
        return max(busy)

    count = len(seeds or [0])
    for left_out in range(len(variants)):
        chosen = dict(list(variants.items())[left_out:])
        longest = range(1, max(v.steps for v in chosen.values()) + 1)
        steps = bisect_right(longest, usable, key=lambda steps: seconds(chosen, steps, count))
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


def kept(workspace: Workspace, request: dict[str, object], make: Callable[[], Allotment]) -> Allotment:
    """The allotment begun for the same `request`, so that the same command goes on; else a new one, recorded.

    Raises:
        DataError: the record is damaged.
        UsageError: see `allot`.
    """
    path = workspace.runs / "budget.json"
    again = f"Delete {path}: the time is planned anew."
    if path.exists():
        record = read_json(path, again)
        if isinstance(record, dict) and record.get("request") == request:
            try:
                chosen = {name: Variant(**recipe) for name, recipe in record["chosen"].items()}
                return Allotment(chosen, record["seeds"])
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path} is damaged: {error}", again) from error
    made = make()
    recipes = {name: v.recipe() for name, v in made.chosen.items()}
    write_json(path, {"request": request, "chosen": recipes, "seeds": made.seeds})
    return made
