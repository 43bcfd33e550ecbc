"""The command that looks on: `watch`."""

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from kaggle_hw4.commands.common import Json, as_begun, emit


def watch(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end, as when stdout is no terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Show every job of the workspace and how it is doing, live until Ctrl-C (which ends this view only)."""
    from kaggle_hw4.terminal import stdout
    from kaggle_hw4.watch import Watch
    from kaggle_hw4.watch_views import watch_live, watch_view

    look = Watch(ctx.obj).look
    if stdout.is_terminal and not once and not as_json:
        # Ends with 0: nothing is interrupted, Ctrl-C is how one stops to look.
        watch_live(look, stdout, partial(as_begun, ctx))
        return
    jobs = look()
    emit(as_json, [asdict(job) for job in jobs], lambda: watch_view(jobs, stdout, begun=partial(as_begun, ctx)))
