"""The command line in this process, and how it refuses."""

from pathlib import Path

from typer.testing import CliRunner, Result

from kaggle_hw4.cli import app


def run(*arguments: str, root: Path | None = None) -> Result:
    options = ["--root", str(root)] if root else []
    return CliRunner().invoke(app, [*options, *arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """One message on stderr, no traceback, the exit code of its kind."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output
