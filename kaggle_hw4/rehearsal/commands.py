"""`kaggle-hw4 rehearsal …`: make the embedded competition, and serve it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kaggle_hw4.competition import DEFAULT_SLUG
from kaggle_hw4.errors import UsageError

rehearsal_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The embedded competition: synthetic voices, and a local server that the Kaggle client takes for Kaggle.",
)


@rehearsal_app.command("make")
def rehearsal_make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write it to.")],
    speakers: Annotated[int, typer.Option(metavar="N", help="Number of speakers.")] = 24,
    utterances: Annotated[
        int, typer.Option(metavar="N", help="Utterances per speaker; a quarter of them is the test set.")
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, other voices.")] = 0,
) -> None:
    """Synthesise a competition: DIR/ml2023springhw4.zip and DIR/labels.csv, the answers."""
    from kaggle_hw4.rehearsal.make import make
    from kaggle_hw4.terminal import progress_bar, say

    with progress_bar("synthesising") as update:
        make(folder, speakers=speakers, utterances=utterances, seed=seed, progress=update)
    typer.echo(f"{folder / (DEFAULT_SLUG + '.zip')} and {folder / 'labels.csv'}")
    say(f"Next: kaggle-hw4 rehearsal serve {shlex.quote(str(folder))}")


@rehearsal_app.command("serve")
def rehearsal_serve(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", show_default=False, help="Folder that `rehearsal make` wrote.")
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT", help="What shall go wrong, as cut or stall@CreateSubmission*2; `--fault list` lists them."
        ),
    ] = None,
) -> None:
    """Serve DIR's archive and score submissions against its labels, as Kaggle would, or with faults."""
    try:
        from kaggle_hw4.rehearsal import faults
        from kaggle_hw4.rehearsal.server import export_lines, serve
    except ImportError as error:
        raise UsageError(
            f"the server needs a package that is not installed: {error.name}",
            "Run: pip install 'kaggle-hw4[rehearsal]'",
        ) from None
    from kaggle_hw4.terminal import say

    if fault == ["list"]:
        typer.echo(faults.listing())
        return
    if folder is None:
        raise UsageError("which competition is to be served?", "Give the folder that `rehearsal make` wrote.")
    plan = [faults.parse(text) for text in fault or []]

    def ready(used: int) -> None:
        say(f"Serving {folder} on 127.0.0.1:{used} until Ctrl-C. In another terminal, first:")
        typer.echo("\n".join(export_lines(used)))

    serve(folder, port, faults=plan, on_ready=ready, on_fault=lambda method, what: say(f"{method}: {what}"))
