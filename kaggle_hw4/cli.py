"""The program: its global options, its commands in the order of the way, and how a failure ends."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kaggle_hw4.commands import data, machine, predictor, report, scoring, training, watching
from kaggle_hw4.commands.common import as_begun
from kaggle_hw4.errors import EXIT_CODES, HW4Error, UsageError
from kaggle_hw4.rehearsal.commands import rehearsal_app
from kaggle_hw4.workspace import Workspace, storage_errors


class _Commands(typer.core.TyperGroup):
    """Turns every foreseen failure into one message on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        from kaggle_hw4.terminal import say

        try:
            with storage_errors(Path(ctx.params["root"])):
                return super().invoke(ctx)
        except HW4Error as error:
            say(f"error: {as_begun(ctx, str(error))}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("Interrupted. What is finished is kept: the same command goes on from here.")
            raise typer.Exit(130) from None
        except Exception as error:
            if getattr(error, "option_name", None) != "--root":
                raise
            say("error: --root stands before the command\n  kaggle-hw4 --root DIR COMMAND …")
            raise typer.Exit(UsageError.exit_code) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Who is speaking? A workbench for Kaggle's ml2023springhw4: data, folds, training, ensemble, submission.",
)


@app.callback()
def _root(
    ctx: typer.Context,
    root: Annotated[
        Path,
        typer.Option(
            metavar="DIR", envvar="KAGGLE_HW4_ROOT", help="The workspace: data/, folds/, runs/, submissions/."
        ),
    ] = Path(),
) -> None:
    try:
        ctx.obj = Workspace(root.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError before Python 3.13
        raise UsageError(f"--root {root}: {error}", "Name a folder.") from None


# With what stands in the list of commands, where there is room for some 40 characters.
_COMMANDS: dict[Callable[..., None], str] = {
    data.data: "Download, verify and pack the data.",
    data.check: "Show what in the data will hurt.",
    data.folds: "Make the split, once; show it.",
    training.variants: "List variants with published scores.",
    training.train: "Train variants on folds.",
    training.predict: "Write trained models' logits again.",
    watching.watch: "Show every job, live.",
    scoring.ensemble: "Blend members into a submission.",
    scoring.submit: "Send a submission at most once.",
    scoring.board: "Show cross-validation and leaderboard.",
    scoring.diff: "Show how two submissions differ.",
    scoring.explain: "Show where a score comes from.",
    predictor.export: "Write a predictor in one file.",
    predictor.identify: "Name the speakers of WAV files.",
    report.report: "Draw everything into one HTML file.",
    machine.doctor: "Check versions, GPU and credentials.",
}
for command, short in _COMMANDS.items():
    app.command(cls=scoring.WithAdd if command is scoring.ensemble else None, short_help=short)(command)
app.add_typer(rehearsal_app, name="rehearsal", short_help="The embedded competition and its server.")


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "?" for what a terminal or a file in another encoding does not know
    app(prog_name="kaggle-hw4")
