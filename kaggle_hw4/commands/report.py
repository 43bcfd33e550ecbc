"""The command that draws: `report`."""

from pathlib import Path
from typing import Annotated

import typer

from kaggle_hw4.commands.common import Json, as_begun, emit
from kaggle_hw4.workspace import Workspace


def report(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write. [default: report.html in the workspace]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw everything that is here into one HTML file: scores, training, confusions, what the models hear."""
    from kaggle_hw4.report.page import write_report
    from kaggle_hw4.terminal import say, size, stage

    workspace: Workspace = ctx.obj
    with stage() as tick:
        made = write_report(workspace, output or workspace.root / "report.html", tick)
    for missing in made["missing"]:
        remedy = as_begun(ctx, missing["remedy"])
        say(f"Not shown: {', '.join(missing['without_it'])}: {missing['cause']}. {remedy}")
    emit(as_json, made, lambda: f"{made['file']}: {len(made['pictures'])} pictures, {size(made['bytes'])}")
