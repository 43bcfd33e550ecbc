"""Measurements of speed and of what changes to a recipe bring: each module a command, `python -m benchmarks.…`."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from kaggle_hw4.errors import HW4Error
from kaggle_hw4.terminal import say


def run_command(main: Callable[..., Any]) -> None:
    """`main` as a command; what its user can mend ends it with one message, as in `kaggle-hw4`."""
    try:
        typer.run(main)
    except HW4Error as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
