"""Commands about submissions and scores: `ensemble`, `submit`, `board`, `diff`, `explain`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kaggle_hw4 import verbs
from kaggle_hw4.commands.common import Json, Names, as_begun, emit, next_command
from kaggle_hw4.commands.completion import complete_namings, complete_submissions
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.workspace import Workspace


class WithAdd(typer.core.TyperCommand):
    """`--add` takes three values and may be repeated, which typer has no annotation for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        next(parameter for parameter in self.params if parameter.name == "add").nargs = 3


def ensemble(
    ctx: typer.Context,
    names: Names = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="equal, greedy or convex. [default: equal, unless another is better in a paired test]",
        ),
    ] = None,
    weights: Annotated[str, typer.Option(metavar="WEIGHTS", help="Weights by hand: NAME=0.5,NAME=0.5.")] = "",
    add: Annotated[
        list[Any] | None,  # with a parser: before 0.29 typer refuses Any, since then it makes a str of all three values
        typer.Option(
            metavar="NAME OOF.npy TEST.npy",
            help="A member from elsewhere: logits in the index's order.",
            parser=lambda value: value,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Blend members, say what the blend is honestly worth, and write submissions/<name>.csv."""
    from kaggle_hw4.score_views import ensemble_table

    added = [(name, Path(oof), Path(test)) for name, oof, test in add or []]
    made = verbs.blend(ctx.obj, names or [], method=method, weights=weights, added=added)
    emit(as_json, made.summary(), lambda: ensemble_table(made))
    next_command(ctx, f"kaggle-hw4 submit {made.name}")


def submit(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="In submissions/, or a file; default: the ensemble of all members.",
            autocompletion=complete_submissions,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the score.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Seconds to wait for the score.")] = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the file and validate it; nothing is sent.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send even a file that was sent and scored before.")] = False,
    as_json: Json = False,
) -> None:
    """Send a submission to Kaggle at most once, wait for its score and record it."""
    from kaggle_hw4.score_views import ensemble_table
    from kaggle_hw4.submission_file import find_submission
    from kaggle_hw4.terminal import stderr
    from kaggle_hw4.views import score_line

    workspace: Workspace = ctx.obj
    if name is None:
        made = verbs.blend(workspace)
        stderr.print(ensemble_table(made))
        name = made.name
    row = verbs.send(workspace, name, wait=wait, timeout=timeout, dry_run=dry_run, force=force)
    if row is None:
        file = find_submission(workspace, name)
        emit(as_json, {"file": str(file), "valid": True, "sent": False}, lambda: f"{file}: valid, not sent")
        return
    emit(as_json, vars(row), lambda: score_line(row, verbs.edition_of(workspace)))
    next_command(ctx, "kaggle-hw4 board" if row.public else "kaggle-hw4 board --sync")


def board(
    ctx: typer.Context,
    sync: Annotated[
        bool, typer.Option("--sync", help="First ask Kaggle: scores, other submissions, the place among the teams.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Also draw it: FILE.png, .svg or .pdf.", metavar="FILE")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    as_json: Json = False,
) -> None:
    """Show cross-validation and leaderboard side by side, and where the public score was to be expected."""
    from kaggle_hw4.board_views import board_csv, board_picture, board_tables
    from kaggle_hw4.terminal import say

    if as_csv and as_json:
        raise UsageError("--csv and --json are two forms of the same", "Give one of them.")
    content = verbs.get_board(ctx.obj, sync=sync)
    if content.problem:
        say(as_begun(ctx, content.problem))
    if picture:
        board_picture(content, picture)
    begun = partial(as_begun, ctx)
    emit(as_json, content.as_json(), lambda: board_csv(content) if as_csv else board_tables(content, begun=begun))


def diff(
    ctx: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A submission (name, file or number), an ensemble, a member, or a run (MEMBER/fold0).",
            autocompletion=complete_namings,
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.", autocompletion=complete_namings)],
    as_json: Json = False,
) -> None:
    """Show how two submissions differ, and whether a score could tell them apart."""
    from kaggle_hw4.score_views import difference_text

    report = verbs.diff(ctx.obj, a, b)
    emit(as_json, report.as_json(), lambda: difference_text(report))


def explain(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A submission, its reference, or its file.",
            autocompletion=complete_submissions,
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute what can be recomputed (minutes at scale).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show where a score comes from: file, weights, logits, checkpoints, variants, folds, data and code."""
    from kaggle_hw4.score_views import chain_table

    chain = verbs.explain(ctx.obj, name, verify=verify)
    emit(as_json, chain.as_json(), lambda: chain_table(chain))
    if chain.broken:
        raise DataError(f"the first link that does not match is {chain.broken.link}: {chain.broken.found}")
