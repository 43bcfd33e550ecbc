"""The command about this machine and account: `doctor`."""

from typing import Annotated

import typer

from kaggle_hw4 import verbs
from kaggle_hw4.commands.common import Json, emit
from kaggle_hw4.errors import DataError


def doctor(
    ctx: typer.Context,
    online: Annotated[bool, typer.Option("--online/--offline", help="Also ask Kaggle.")] = True,
    as_json: Json = False,
) -> None:
    """Check versions, GPU and credentials, and say what mends each problem."""
    from kaggle_hw4.doctor import examine
    from kaggle_hw4.views import findings_table, remedies

    findings = examine(verbs.edition_of(ctx.obj).slug, ctx.obj, online=online)
    emit(as_json, [vars(finding) for finding in findings], lambda: findings_table(findings))
    if not as_json and (mends := remedies(findings)):
        typer.echo(mends)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(DataError.exit_code)
