"""The command about this machine and account: `doctor`."""

from typing import Annotated

import typer

from kaggle_hw4 import verbs
from kaggle_hw4.commands.common import Json, as_begun, emit
from kaggle_hw4.competition import DEFAULT_SLUG
from kaggle_hw4.errors import DataError


def doctor(
    ctx: typer.Context,
    online: Annotated[bool, typer.Option("--online/--offline", help="Also ask Kaggle.")] = True,
    as_json: Json = False,
) -> None:
    """Check versions, GPU and credentials, and say what mends each problem."""
    from kaggle_hw4.doctor import Finding, examine
    from kaggle_hw4.views import findings_table, remedies

    slug, damaged = DEFAULT_SLUG, []
    try:
        slug = verbs.edition_of(ctx.obj).slug
    except DataError as error:  # one finding among the others
        damaged = [Finding("data", False, error.cause, error.remedy)]
    findings = [*examine(slug, ctx.obj, online=online), *damaged]
    emit(as_json, [vars(finding) for finding in findings], lambda: findings_table(findings))
    if not as_json and (mends := remedies(findings)):
        typer.echo(as_begun(ctx, mends))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(DataError.exit_code)
