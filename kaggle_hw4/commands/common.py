"""What the commands have in common: shared options, printing, naming what comes next."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kaggle_hw4.commands.completion import complete_members
from kaggle_hw4.errors import DataError

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:1 …")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME …]",
        help="Members, variants or sets; default: all members, which must be trained on every fold.",
        autocompletion=complete_members,
    ),
]


def emit(as_json: bool, value: Any, human: Callable[[], Any]) -> None:
    """Print on stdout: JSON, or what a person reads; what is left where a pipe's reader has gone is dropped.

    Raises:
        DataError: it cannot be written.
    """
    shown = json.dumps(value, indent=1) if as_json else human()
    try:
        if not isinstance(shown, str):
            from kaggle_hw4.terminal import stdout

            with stdout.capture() as captured:  # rich would end the program where the reader has gone
                stdout.print(shown, crop=False)  # of a command that is longer than the terminal is wide
            shown = captured.get().removesuffix("\n")
        typer.echo(shown)
    except BrokenPipeError:  # as of `| head`, who has what they want: the exit code is that of the command
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise DataError(f"stdout cannot be written: {error.strerror}", "What the command made is kept.") from error


def as_begun(ctx: Any, text: str) -> str:
    """`text` with the commands it names as this one was begun: by the same program, in the same workspace.

    A script with variants of its own stands for the program; the environment's workspace need not be said.
    """
    top = ctx.find_root()
    script = Path(sys.argv[0])
    own = script.suffix == ".py" and script.name != "__main__.py"
    program = f"python {shlex.quote(sys.argv[0])}" if own else "kaggle-hw4"
    given = top.get_parameter_source("root")
    if given and given.name == "COMMANDLINE":
        program += f" --root {shlex.quote(str(top.params['root']))}"
    return re.sub(rf"\bkaggle-hw4 (?=({'|'.join(top.command.commands)})\b)", lambda _: f"{program} ", text)


def next_command(ctx: typer.Context, command: str) -> None:
    """Name the next command."""
    from kaggle_hw4.terminal import say

    say(f"Next: {as_begun(ctx, command)}")
