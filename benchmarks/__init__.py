"""Measurements of speed and of what changes to a recipe bring: each module a command, `python -m benchmarks.…`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from kaggle_hw4.errors import HW4Error
from kaggle_hw4.terminal import say
from kaggle_hw4.workspace import write_text


def run_command(main: Callable[..., Any]) -> None:
    """`main` as a command; what its user can mend ends it with one message, as in `kaggle-hw4`."""
    try:
        typer.run(main)
    except HW4Error as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


def write_between(markers: tuple[str, str], page: Path, text: str) -> None:
    """Put `text` in the place of what a page has between its two markers."""
    begin, end = markers
    before, rest = page.read_text(encoding="utf-8").split(begin)
    write_text(page, before + begin + text + end + rest.split(end)[1])
