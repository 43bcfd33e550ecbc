"""The commands: each one a verb of the way from archive to board. Heavy imports stay inside the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaggle_hw4.competition import DEFAULT_SLUG, competition
from kaggle_hw4.errors import DataError, HW4Error, UsageError
from kaggle_hw4.rehearsal.commands import rehearsal_app
from kaggle_hw4.workspace import Workspace, storage_errors

if TYPE_CHECKING:
    from kaggle_hw4.data.store import Store
    from kaggle_hw4.folds import Folds


class _Commands(typer.core.TyperGroup):
    """Turns every foreseen failure into one message on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        from kaggle_hw4.terminal import say

        try:
            with storage_errors(Path(ctx.params["root"])):
                return super().invoke(ctx)
        except HW4Error as error:
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("Interrupted. What is finished is kept: the same command goes on from here.")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Who is speaking? A workbench for Kaggle's ml2023springhw4: data, folds, training, ensemble, submission.",
)
app.add_typer(rehearsal_app, name="rehearsal")

_MAX_SEED = 2**32 - 1  # scikit-learn's and numpy's
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1 …")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME …]", help="Members, variants or sets; default: all.")]


@app.callback()
def _root(
    ctx: typer.Context,
    root: Annotated[
        Path, typer.Option(envvar="KAGGLE_HW4_ROOT", help="The workspace: data/, folds/, runs/, submissions/.")
    ] = Path(),
) -> None:
    ctx.obj = Workspace(root.resolve())


@app.command()
def data(
    ctx: typer.Context,
    source: Annotated[
        Path | None, typer.Option("--from", help="Take this folder, .zip or .tar(.gz) instead of downloading.")
    ] = None,
    slug: Annotated[
        str | None,
        typer.Option("--competition", help=f"Slug or address. [default: that of the data here, or {DEFAULT_SLUG}]"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32: how frames are stored.")] = "float16",
    as_json: Json = False,
) -> None:
    """Download the competition through the official client, verify it and pack it."""
    from kaggle_hw4.data.obtain import obtain

    store = obtain(ctx.obj, None if slug is None else competition(slug).slug, source, dtype)
    facts = {
        "competition": store.competition,
        "speakers": len(store.speakers),
        "train": len(store.train_rows),
        "test": len(store.test_rows),
        "frames": store.total_frames,
        "dtype": store.dtype,
        "hash": store.hash,
        "store": str(store.folder),
    }
    _emit(
        as_json,
        facts,
        lambda: (
            f"{facts['competition']}: {facts['speakers']} speakers, {facts['train']:,} labelled and {facts['test']:,} "
            f"unlabelled utterances, {facts['frames']:,} frames in {facts['store']}"
        ),
    )
    _next(ctx, "train --fold all")


@app.command()
def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what in the data will hurt: drift, twins, odd speakers, and what each does to the score."""
    from kaggle_hw4.check import check_data
    from kaggle_hw4.score_views import check_table
    from kaggle_hw4.terminal import stage

    store, split = _open(ctx.obj)
    with stage() as tick:
        findings = check_data(ctx.obj, store, split, tick)
    _emit(as_json, [vars(finding) for finding in findings], lambda: check_table(findings))


@app.command()
def folds(
    ctx: typer.Context,
    k: Annotated[int | None, typer.Option(min=2, help="Number of folds. [default: 5]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=_MAX_SEED, help="Seed of the split. [default: 0]")] = None,
    as_json: Json = False,
) -> None:
    """Make the speaker-stratified split, once; show it when it is there."""
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import make_folds

    workspace: Workspace = ctx.obj
    split = make_folds(open_store(workspace.store), workspace.folds_file, k=k, seed=seed)
    sizes = [len(split.validation_rows(fold)) for fold in range(split.k)]
    facts = {"k": split.k, "seed": split.seed, "sizes": sizes, "hash": split.hash, "file": str(workspace.folds_file)}
    _emit(as_json, facts, lambda: f"{split.k} folds of {', '.join(map(str, sizes))} utterances: {facts['file']}")
    _next(ctx, "train --fold all")


@app.command()
def variants(as_json: Json = False) -> None:
    """List the variants, with the scores published for them."""
    from kaggle_hw4 import variants as registry
    from kaggle_hw4.views import variants_table

    rows = [
        {"name": e.name, "description": e.description, "rung": e.rung}
        | {"val": e.val, "private": e.private, "public": e.public}
        | {"sets": [name for name, members in registry.SETS.items() if e.name in members]}
        | {"recipe": e.variant.recipe()}
        for e in registry.entries()
    ]
    _emit(as_json, rows, lambda: variants_table(rows))


@app.command()
def train(
    ctx: typer.Context,
    fold: Annotated[str, typer.Option(help="Folds to hold out: all, or numbers as in 0,3.")] = "all",
    variant: Annotated[list[str] | None, typer.Option(help="Variant or set; may be repeated.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=_MAX_SEED, help="Seed; may be repeated. [default: 0]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the variant's own.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for all of it, as 50m or 2h: picks variants, seeds and steps.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train on all labels what is trained on every fold, for as many steps.")
    ] = False,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes side by side. [default: one per core on CPU, one on a GPU]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Train variants on folds and write out-of-fold and test logits; finished work is skipped."""
    import time

    from kaggle_hw4.jobs.command import plan_training
    from kaggle_hw4.jobs.local import run_plan
    from kaggle_hw4.jobs.plan import choose_device
    from kaggle_hw4.terminal import say
    from kaggle_hw4.views import plan_lines

    began = time.monotonic()
    store, split = _open(ctx.obj)
    target = choose_device(device)
    plan, seconds = plan_training(
        ctx.obj,
        store,
        split,
        names=variant or ["default"],
        fold=fold,
        seeds=seed,
        steps=steps,
        budget=budget,
        refit=refit,
        device=target,
        workers=workers,
    )
    say(plan_lines(plan, target))
    if dry_run:
        return
    if plan.open:
        run_plan(ctx.obj, plan, str(target), None if seconds is None else began + seconds)
    _next(ctx, "submit" if fold == "all" else "train --fold all")


@app.command()
def predict(ctx: typer.Context, names: Names = None, device: Device = "auto") -> None:
    """Write the logits of trained models again, from their weights."""
    from kaggle_hw4.ensemble.members import choose_members
    from kaggle_hw4.jobs.plan import choose_device
    from kaggle_hw4.runs import Run, job_of
    from kaggle_hw4.terminal import progress_bar
    from kaggle_hw4.training.artefacts import predict_again

    workspace: Workspace = ctx.obj
    store, split = _open(workspace)
    target = choose_device(device)
    members = choose_members(workspace, split.k, names or [])
    runs = [Run(workspace.runs / member / f"fold{number}") for member in members for number in range(split.k)]
    runs += [run for run in (Run(workspace.runs / member / "refit") for member in members) if run.finished]
    with progress_bar("predicting") as update:
        for done, run in enumerate(runs):
            predict_again(workspace, job_of(run), store, split, target)
            update(done + 1, len(runs))
    _next(ctx, "ensemble")


class _WithAdd(typer.core.TyperCommand):
    """`--add` takes three values and may be repeated, which typer has no annotation for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        next(parameter for parameter in self.params if parameter.name == "add").nargs = 3


@app.command(cls=_WithAdd)
def ensemble(
    ctx: typer.Context,
    names: Names = None,
    method: Annotated[
        str | None,
        typer.Option(help="equal, greedy or convex. [default: equal, unless another is better in a paired test]"),
    ] = None,
    weights: Annotated[str, typer.Option(help="Weights by hand: NAME=0.5,NAME=0.5.")] = "",
    add: Annotated[
        list[Any] | None,
        typer.Option(metavar="NAME OOF.npy TEST.npy", help="A member from elsewhere: logits in the index's order."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Blend members, say what the blend is honestly worth, and write submissions/<name>.csv."""
    from kaggle_hw4.ensemble.blend import make_ensemble
    from kaggle_hw4.score_views import ensemble_table
    from kaggle_hw4.terminal import stage

    added = [(name, Path(oof), Path(test)) for name, oof, test in add or []]
    store, split = _open(ctx.obj)
    with stage() as tick:
        made = make_ensemble(ctx.obj, store, split, names or [], method=method, by_hand=weights, added=added, tick=tick)
    _emit(as_json, made.summary(), lambda: ensemble_table(made))
    _next(ctx, f"submit {made.name}")


@app.command()
def submit(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="In submissions/, or a file; default: the ensemble.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the score.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score.")] = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate only; no request is made.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send even a file that was sent before.")] = False,
    as_json: Json = False,
) -> None:
    """Send a submission to Kaggle at most once, wait for its score and record it."""
    from kaggle_hw4 import submit as submission
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.ensemble.blend import make_ensemble
    from kaggle_hw4.ensemble.submission import recorded_name
    from kaggle_hw4.score_views import ensemble_table
    from kaggle_hw4.terminal import say, stage, stderr
    from kaggle_hw4.views import score_line

    workspace: Workspace = ctx.obj
    if name is None:
        with stage() as tick:
            made = make_ensemble(workspace, *_open(workspace), [], tick=tick)
        stderr.print(ensemble_table(made))
        file = made.file
    else:
        file = _submission_file(workspace, name)
    store = open_store(workspace.store)
    row = submission.submit(
        store.competition,
        workspace,
        file,
        test_ids=store.test_ids,
        speakers=store.speakers,
        report=say,
        ensemble=recorded_name(workspace, file),
        wait=wait,
        timeout=timeout,
        dry_run=dry_run,
        force=force,
    )
    if row is None:
        _emit(as_json, {"file": str(file), "valid": True, "sent": False}, lambda: f"{file}: valid, not sent")
        return
    _emit(as_json, vars(row), lambda: score_line(row, competition(store.competition)))
    _next(ctx, "board" if row.public else "board --sync")


@app.command()
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
    from kaggle_hw4.board import read_board
    from kaggle_hw4.board_views import board_csv, board_picture, board_tables

    workspace: Workspace = ctx.obj
    edition = _edition(workspace)
    slots = None
    if sync:
        from kaggle_hw4.standing import look_up_standing
        from kaggle_hw4.submit import sync as sync_ledger
        from kaggle_hw4.terminal import say

        say(f"{len(sync_ledger(edition.slug, workspace))} submissions are new or changed")
        slots = look_up_standing(edition.slug, workspace)
    content = read_board(workspace, edition, slots)
    if picture:
        board_picture(content, picture)
    if as_csv:
        typer.echo(board_csv(content), nl=False)
    else:
        _emit(as_json, content.as_json(), lambda: board_tables(content))


@app.command()
def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(help="A submission or its file, an ensemble, a member, or a run (MEMBER/fold0).")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    as_json: Json = False,
) -> None:
    """Show how two submissions differ, and whether a score could tell them apart."""
    from kaggle_hw4.diff import compare_namings
    from kaggle_hw4.score_views import difference_text

    report = compare_namings(ctx.obj, *_open(ctx.obj), a, b)
    _emit(as_json, report.as_json(), lambda: difference_text(report))


@app.command()
def explain(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A submission, its reference, or its file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute what can be recomputed (minutes at scale).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show where a score comes from: file, weights, logits, checkpoints, variants, folds, data and code."""
    from kaggle_hw4.explain import explain as explain_chain
    from kaggle_hw4.score_views import chain_table
    from kaggle_hw4.terminal import stage

    workspace: Workspace = ctx.obj
    with stage() as tick:
        chain = explain_chain(workspace, _edition(workspace).slug, name, verify, tick)
    _emit(as_json, chain.as_json(), lambda: chain_table(chain))
    if chain.broken:
        raise DataError(f"the first link that does not match is {chain.broken.link}: {chain.broken.found}")


@app.command()
def doctor(
    ctx: typer.Context,
    online: Annotated[bool, typer.Option("--online/--offline", help="Also ask Kaggle.")] = True,
    as_json: Json = False,
) -> None:
    """Check versions, GPU and credentials, and say what mends each problem."""
    from kaggle_hw4.doctor import examine
    from kaggle_hw4.views import findings_table

    findings = examine(_edition(ctx.obj).slug, ctx.obj, online=online)
    _emit(as_json, [vars(finding) for finding in findings], lambda: findings_table(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(DataError.exit_code)


def _open(workspace: Workspace) -> tuple["Store", "Folds"]:
    """The data and its split, which is made with the defaults when there is none."""
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import load_folds, make_folds

    store = open_store(workspace.store)
    path = workspace.folds_file
    return store, load_folds(store, path) if path.exists() else make_folds(store, path)


def _edition(workspace: Workspace) -> Any:
    """The competition of the workspace's data; the default one before there is data."""
    from kaggle_hw4.data.store import open_store

    return competition(open_store(workspace.store).competition if workspace.store.exists() else DEFAULT_SLUG)


def _submission_file(workspace: Workspace, name: str) -> Path:
    for candidate in (workspace.submissions / f"{name}.csv", workspace.submissions / name, Path(name)):
        if candidate.is_file():
            return candidate
    there = ", ".join(sorted(path.stem for path in workspace.submissions.glob("*.csv"))) or "none yet"
    raise UsageError(f"no submission {name!r} in {workspace.submissions}, and no such file", f"There are: {there}.")


def _emit(as_json: bool, value: Any, human: Callable[[], Any]) -> None:
    """Print on stdout: JSON, or what a person reads."""
    shown = json.dumps(value, indent=1) if as_json else human()
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        from kaggle_hw4.terminal import stdout

        stdout.print(shown)


def _next(ctx: typer.Context, command: str) -> None:
    """Name the next command, with the workspace when it was given on this one's line."""
    from kaggle_hw4.terminal import say

    given = ctx.find_root().get_parameter_source("root")
    root = f"--root {ctx.find_root().params['root']} " if given and given.name == "COMMANDLINE" else ""
    say(f"Next: kaggle-hw4 {root}{command}")


def main() -> None:
    app(prog_name="kaggle-hw4")
