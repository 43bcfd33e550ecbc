"""Commands about the data: `data`, `check`, `folds`."""

from pathlib import Path
from typing import Annotated

import typer

from kaggle_hw4 import verbs
from kaggle_hw4.commands.common import Json, emit, next_command
from kaggle_hw4.competition import DEFAULT_SLUG
from kaggle_hw4.verbs.data import MAX_SEED
from kaggle_hw4.workspace import Workspace


def data(
    ctx: typer.Context,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Take this folder, .zip, .tar(.gz), or archive in parts (any of them), instead of downloading.",
        ),
    ] = None,
    slug: Annotated[
        str | None,
        typer.Option(
            "--competition",
            metavar="SLUG",
            help=f"Slug or address. [default: that of the data here, or {DEFAULT_SLUG}]",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="float16 or float32: how frames are stored. [default: that of the data here, or float16]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download the competition through the official client, verify it and pack it."""
    store = verbs.get_data(ctx.obj, source, slug=slug, dtype=dtype)
    facts = {
        "competition": store.competition,
        "speakers": len(store.speakers),
        "train": len(store.train_rows),
        "test": len(store.test_rows),
        "frames": store.total_frames,
        "dtype": store.dtype,
        "hash": store.hash,
        "store": str(store.folder),
    }
    emit(
        as_json,
        facts,
        lambda: (
            f"{facts['competition']}: {facts['speakers']} speakers, {facts['train']:,} labelled and {facts['test']:,} "
            f"unlabelled utterances, {facts['frames']:,} frames in {facts['store']}"
        ),
    )
    _train_next(ctx)


def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what in the data will hurt: drift, twins, odd speakers, and what each does to the score."""
    from kaggle_hw4.score_views import check_table

    findings = verbs.check(ctx.obj)
    emit(as_json, [vars(finding) for finding in findings], lambda: check_table(findings))


def folds(
    ctx: typer.Context,
    k: Annotated[int | None, typer.Option(metavar="K", min=2, help="Number of folds. [default: 5]")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=MAX_SEED, help="Seed of the split. [default: 0]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the speaker-stratified split, once; show it when it is there."""
    workspace: Workspace = ctx.obj
    _, split = verbs.open_split(workspace, k=k, seed=seed)
    sizes = [len(split.validation_rows(fold)) for fold in range(split.k)]
    facts = {"k": split.k, "seed": split.seed, "sizes": sizes, "hash": split.hash, "file": str(workspace.folds_file)}
    emit(as_json, facts, lambda: f"{split.k} folds of {', '.join(map(str, sizes))} utterances: {facts['file']}")
    _train_next(ctx)


def _train_next(ctx: typer.Context) -> None:
    """Name training as next where none is begun: of what is, steps and variants may be others than the default."""
    if not any(ctx.obj.runs.glob("*/*/run.json")):
        next_command(ctx, "kaggle-hw4 train --fold all")
