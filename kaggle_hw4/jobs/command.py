"""From what the user asks of `train` to a plan."""

from functools import partial

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.jobs.budget import allot, parse_duration, recall, remember
from kaggle_hw4.jobs.engine import Engine
from kaggle_hw4.jobs.local import LocalEngine
from kaggle_hw4.jobs.plan import Plan, check_member, choose_device, choose_folds, make_plan
from kaggle_hw4.jobs.work import Options
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import (
    REFIT,
    Job,
    Run,
    finishing_command,
    job_of,
    member_name,
    run_of,
    with_steps,
)
from kaggle_hw4.terminal import say
from kaggle_hw4.variants import expand, variant
from kaggle_hw4.workspace import Workspace, check_fields


def open_engine(
    workspace: Workspace,
    store: Store,
    folds: Folds,
    *,
    engine: str,
    address: str | None,
    device: str,
    workers: int | None,
    options: Options,
) -> Engine:
    """The engine `local` or `ray`, which does not begin anything yet.

    Raises:
        UsageError: a device that is not there, or an `address` for nothing.
    """
    if engine == "ray":
        from kaggle_hw4.jobs.ray_engine import RayEngine

        return RayEngine(
            workspace,
            store,
            folds,
            address=address,
            device=device,
            workers=workers,
            options=options,
        )
    if address is not None:
        raise UsageError("--address without --engine ray", "Add --engine ray, or leave the address out.")
    return LocalEngine(workspace, store, choose_device(device), workers, options)


def plan_training(
    workspace: Workspace,
    store: Store,
    folds: Folds,
    *,
    names: list[str],
    fold: str,
    seeds: list[int] | None,
    steps: int | None,
    budget: str | None,
    refit: bool,
    engine: Engine,
    dry_run: bool,
) -> tuple[Plan, float | None]:
    """The plan, and the seconds it may take (None without `budget`); what these hold is recorded but in a dry run.

    Raises:
        UsageError: an unknown variant or fold, crops longer than any utterance, no duration, or one too short;
            `refit` of what is not cross-validated, or with options that contradict it.
        DataError: see `make_plan`.
    """
    seeds = None if seeds is None else list(dict.fromkeys(seeds))
    if refit:
        if fold != "all" or steps is not None or budget is not None:
            raise UsageError(
                "--refit with --fold, --steps or --budget",
                "A refit holds out no fold and takes the steps of its cross-validation: leave these out.",
            )
        fold_numbers = [REFIT]
        chosen = {name: cross_validated(workspace, store, folds, name, seeds or [0]) for name in expand(names)}
    else:
        fold_numbers = choose_folds(fold, folds.k)
        chosen = {name: with_steps(variant(name), steps) for name in expand(names)}
    for name, v in chosen.items():
        check_fits(name, v, store)
    seconds = None if budget is None else parse_duration(budget)
    workers = engine.workers
    jobs = len(fold_numbers) * len(seeds or [0])
    parts = min(jobs, -(-workers // len(chosen)))  # in which the workers take those of a variant, see Plan.groups
    costs = engine.costs(-(-jobs // parts))
    request: dict[str, object] = {
        "budget": budget,
        "variants": list(chosen),
        "folds": fold_numbers,
        "seeds": seeds,
        "steps": steps,
        "data": store.hash,
        "split": folds.hash,
    }
    allotted = None
    if seconds is not None:
        allotted = recall(workspace, request) or allot(
            chosen, fold_numbers, seeds, budget=seconds, costs=costs, workers=workers, store=store, folds=folds
        )
        chosen, seeds = allotted.chosen, allotted.seeds
    planned = partial(
        make_plan,
        workspace,
        store,
        folds,
        fold_numbers=fold_numbers,
        costs=costs,
        workers=workers,
        member_by_member=seconds is not None,
    )
    plan = planned(chosen=chosen, seeds=seeds or [0])
    if allotted and not dry_run and (begun := remember(workspace, request, allotted)) != allotted:
        plan = planned(chosen=begun.chosen, seeds=begun.seeds)
    return plan, seconds


def cross_validated(workspace: Workspace, store: Store, folds: Folds, name: str, seeds: list[int]) -> Variant:
    """The recipe, steps included, with which `name` was trained on every fold with each of `seeds`.

    Says where a budget ended a fold before all of its steps: the refit takes them all.

    Raises:
        UsageError: a fold is not trained to its end, or the recipes differ.
        DataError: a run was made from something else.
    """
    recipes: list[Variant] = []
    for seed in seeds:
        member, found, early = member_name(name, seed), list[Variant](), list[str]()
        for fold in range(folds.k):
            run = run_of(workspace, Job(name, variant(name), seed, fold))
            if not run.finished:
                begun = finishing_command(workspace, [member])
                raise UsageError(
                    f"{member} is not trained on fold {fold}: a refit takes its steps from there",
                    f"Run first: {begun or f'kaggle-hw4 train --fold all --variant {name} --seed {seed}'}",
                )
            found.append(job_of(run).variant)
            if _steps_done(run) < found[-1].steps:
                early.append(str(fold))
        recipes.append(max(found, key=found.count))
        check_member(workspace, Job(name, recipes[-1], seed, REFIT), store, folds)
        if early:
            say(f"{member} ended early on fold {', '.join(early)}: its refit takes all {recipes[-1].steps:,} steps.")
    if any(recipe != recipes[0] for recipe in recipes):
        raise UsageError(f"the seeds of {name} were trained with different recipes", "Refit the seeds one at a time.")
    return recipes[0]


def _steps_done(run: Run) -> int:
    try:
        return int(check_fields(run.read_result(), steps=int)["steps"])
    except ValueError as error:
        raise DataError(f"{run.result} is not the result of a run: {error}", run.train_again) from error


def check_fits(name: str, v: Variant, store: Store) -> None:
    """Raises UsageError when the crops of a variant are longer than any labelled utterance."""
    longest = int(store.lengths[store.train_rows].max())
    if v.longest_crop > longest:
        raise UsageError(
            f"{name} takes crops of {v.longest_crop} frames, but the longest labelled utterance has {longest}",
            "Choose a variant with shorter crops.",
        )
