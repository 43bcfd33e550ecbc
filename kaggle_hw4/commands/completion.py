"""What a shell offers for names on the command line: variants, members, submissions."""

import typer

from kaggle_hw4.variants import SETS, entries
from kaggle_hw4.workspace import Workspace


def complete_variants(incomplete: str) -> list[str]:
    return _starting([*(entry.name for entry in entries()), *SETS], incomplete)


def complete_members(ctx: typer.Context, incomplete: str) -> list[str]:
    """Members of the workspace, and the variants and sets that name several."""
    return _starting([*_members(_workspace(ctx)), *complete_variants(incomplete)], incomplete)


def complete_submissions(ctx: typer.Context, incomplete: str) -> list[str]:
    return _starting(_submissions(_workspace(ctx)), incomplete)


def complete_namings(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `diff` compares: submissions, members, and runs as MEMBER/fold0."""
    workspace = _workspace(ctx)
    members = _members(workspace)
    runs = [f"{member}/{run.name}" for member in members for run in sorted((workspace.runs / member).glob("fold*"))]
    return _starting([*_submissions(workspace), *members, *runs], incomplete)


def _workspace(ctx: typer.Context) -> Workspace:
    return Workspace(ctx.find_root().params["root"])  # no command has run yet: ctx.obj is empty


def _members(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in workspace.runs.glob("*") if path.is_dir())


def _submissions(workspace: Workspace) -> list[str]:
    return sorted(path.stem for path in workspace.submissions.glob("*.csv"))


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
