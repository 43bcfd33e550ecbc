"""What the commands have in common: shared options, printing, naming what comes next."""

import json
import shlex
from collections.abc import Callable
from typing import Annotated, Any

import typer

from kaggle_hw4.commands.completion import complete_members

MAX_SEED = 2**32 - 1  # scikit-learn's and numpy's
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1 …")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME …]", help="Members, variants or sets; default: all.", autocompletion=complete_members
    ),
]


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
    root = (
        f"--root {shlex.quote(str(ctx.find_root().params['root']))} " if given and given.name == "COMMANDLINE" else ""
    )
    say(f"Next: kaggle-hw4 {root}{command}")
