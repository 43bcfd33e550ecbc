"""What the commands have in common: shared options, opening a workspace, printing, naming what comes next."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaggle_hw4.competition import DEFAULT_SLUG, competition
from kaggle_hw4.workspace import Workspace

if TYPE_CHECKING:
    from kaggle_hw4.data.store import Store
    from kaggle_hw4.folds import Folds

MAX_SEED = 2**32 - 1  # scikit-learn's and numpy's
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1 …")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME …]", help="Members, variants or sets; default: all.")]


def open_split(workspace: Workspace) -> tuple["Store", "Folds"]:
    """The data and its split, which is made with the defaults when there is none."""
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import load_folds, make_folds

    store = open_store(workspace.store)
    path = workspace.folds_file
    return store, load_folds(store, path) if path.exists() else make_folds(store, path)


def edition_of(workspace: Workspace) -> Any:
    """The competition of the workspace's data; the default one before there is data."""
    from kaggle_hw4.data.store import open_store

    return competition(open_store(workspace.store).competition if workspace.store.exists() else DEFAULT_SLUG)


def emit(as_json: bool, value: Any, human: Callable[[], Any]) -> None:
    """Print on stdout: JSON, or what a person reads."""
    shown = json.dumps(value, indent=1) if as_json else human()
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        from kaggle_hw4.terminal import stdout

        stdout.print(shown)


def next_command(ctx: typer.Context, command: str) -> None:
    """Name the next command, with the workspace when it was given on this one's line."""
    from kaggle_hw4.terminal import say

    given = ctx.find_root().get_parameter_source("root")
    root = f"--root {ctx.find_root().params['root']} " if given and given.name == "COMMANDLINE" else ""
    say(f"Next: kaggle-hw4 {root}{command}")
