"""Commands about a predictor in one file: `export`, `identify`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kaggle_hw4 import verbs
from kaggle_hw4.commands.common import Json, emit, next_command
from kaggle_hw4.commands.completion import complete_namings
from kaggle_hw4.workspace import Workspace


def export(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME …]",
            help="An ensemble, or members, variants or sets to blend; default: all members, which must be trained on "
            "every fold.",
            autocompletion=complete_namings,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. [default: predictor.safetensors in the workspace]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a predictor in one safetensors file: weights, configuration and a model card."""
    from kaggle_hw4.terminal import size

    workspace: Workspace = ctx.obj
    card = verbs.export(workspace, names or [], output).card
    file = output or workspace.predictor
    facts = {"file": str(file), "bytes": file.stat().st_size, "card": card}
    members = ", ".join(member["name"] for member in card["members"])
    emit(as_json, facts, lambda: f"{card['name']} of {members}: {file} ({size(file.stat().st_size)})")
    next_command(ctx, "kaggle-hw4 identify FILE.wav" + (f" --model {shlex.quote(str(output))}" if output else ""))


def identify(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE.wav …", help="Recordings of one speaker each.")],
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Predictor that `export` wrote. [default: predictor.safetensors in the workspace]"
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many speakers to show, the most probable first.")
    ] = 5,
    as_json: Json = False,
) -> None:
    """Name the speaker of each WAV file with an exported predictor."""
    from kaggle_hw4.views import identification_table

    workspace: Workspace = ctx.obj
    found = verbs.identify(files, model or workspace.predictor, top=top)
    emit(as_json, [one.as_json() for one in found], lambda: identification_table(found))
