"""Commands about models: `variants`, `train`, `predict`."""

from enum import StrEnum
from typing import Annotated

import typer

from kaggle_hw4 import verbs
from kaggle_hw4.commands.common import Device, Json, Names, emit, next_command
from kaggle_hw4.commands.completion import complete_variants
from kaggle_hw4.verbs.data import MAX_SEED
from kaggle_hw4.workspace import Workspace


class Engines(StrEnum):
    """What does the work."""

    local = "local"
    ray = "ray"


def variants(as_json: Json = False) -> None:
    """List the variants, with the scores published for them."""
    from kaggle_hw4 import variants as registry
    from kaggle_hw4.views import variants_table

    rows = [
        {"name": e.name, "description": e.description, "rung": e.rung}
        | {"val": e.val, "private": e.private, "public": e.public}
        | {"sets": [name for name, members in registry.SETS.items() if e.name in members]}
        | {"recipe": e.variant.recipe()}
        for e in registry.entries()
    ]
    emit(as_json, rows, lambda: variants_table(rows))


def train(
    ctx: typer.Context,
    fold: Annotated[str, typer.Option(metavar="FOLDS", help="Folds to hold out: all, or numbers as in 0,3.")] = "all",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Variant or set (default, best, wide); may be repeated. [default: the set default]",
            autocompletion=complete_variants,
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(metavar="N", min=0, max=MAX_SEED, help="Seed; may be repeated. [default: 0]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Optimiser steps, instead of the variant's own.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time for all of it, as 50m or 2h: picks seeds and steps, and leaves out variants where it is short, "
            "those named first before the others.",
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train on all labels what is trained on every fold, for all steps of its recipe."),
    ] = False,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes side by side. [default: one per core on CPU, one per GPU]"),
    ] = None,
    engine: Annotated[Engines, typer.Option(help="This machine, or a Ray cluster.")] = Engines.local,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address of the Ray cluster. [default: one of its own on this machine]"),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On a GPU: PyTorch's deterministic algorithms. A CPU always is.")
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT", help="Log in this format too: tensorboard (in each run's folder)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Train variants on folds and write out-of-fold and test logits; finished work is skipped."""
    trained = verbs.train(
        ctx.obj,
        variant or ["default"],
        folds=fold,
        seeds=seed,
        steps=steps,
        budget=budget,
        refit=refit,
        device=device,
        workers=workers,
        engine=engine,
        address=address,
        deterministic=deterministic,
        logs=log or [],
        dry_run=dry_run,
    )
    if not dry_run:
        next_command(ctx, _after_training(ctx.obj, list(dict.fromkeys(one.member for one in trained))))


def _after_training(workspace: Workspace, members: list[str]) -> str:
    """What comes after these were trained: to finish them, or to blend what is complete."""
    from kaggle_hw4.ensemble.members import complete_members
    from kaggle_hw4.runs import finishing_command

    _, missing = complete_members(workspace, verbs.open_split(workspace)[1].k)
    if unfinished := [member for member in members if member in missing]:
        return finishing_command(workspace, unfinished)
    return f"kaggle-hw4 ensemble {' '.join(members)}" if missing else "kaggle-hw4 submit"


def predict(ctx: typer.Context, names: Names = None, device: Device = "auto") -> None:
    """Write the logits of trained models again, from their weights."""
    from kaggle_hw4.ensemble.members import complete_members

    verbs.predict(ctx.obj, names or [], device=device)
    _, missing = complete_members(ctx.obj, verbs.open_split(ctx.obj)[1].k)
    next_command(ctx, " ".join(["kaggle-hw4 ensemble", *(names or [] if missing else [])]))
