"""What a shell offers when Tab is pressed, asked as the installed completion asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_hw4.commands import completion


def offered(line: str) -> list[str]:
    """The completions of the last word of `line`."""
    words = line.split(" ")
    asked = {"_KAGGLE_HW4_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-m", "kaggle_hw4"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for run in ("conformer-full-s0/fold0", "mine-s3/fold1"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "ensemble-1a2b.csv").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("expl", ["explain"]),
        ("train --variant conformer-f", ["conformer-full", "conformer-full-128"]),
        ("train --variant wi", ["wide"]),
        ("ensemble m", ["mine-s3", "mfa-conformer", "mfa-conformer-wide"]),
        ("ensemble mine-s3 conformer-full-s", ["conformer-full-s0"]),
        ("submit e", ["ensemble-1a2b"]),
        ("explain e", ["ensemble-1a2b"]),
        ("diff ensemble-1a2b mine-s3/", ["mine-s3/fold1"]),
        ("export e", ["ensemble-1a2b"]),
    ],
)
def test_names_of_the_workspace_are_offered(root: Path, rest: str, expected: list[str]) -> None:
    assert offered(f"kaggle-hw4 --root {root} {rest}") == expected


def test_the_workspace_of_the_environment_counts_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_HW4_ROOT", str(root))
    assert offered("kaggle-hw4 predict mine") == ["mine-s3"]


def test_nothing_is_offered_twice_and_an_empty_workspace_offers_variants(tmp_path: Path) -> None:
    found = completion.complete_variants("")
    assert len(set(found)) == len(found) > 15
    assert offered(f"kaggle-hw4 --root {tmp_path} predict conformer-4") == ["conformer-4"]


def test_the_script_of_a_shell_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # Or else typer asks which shell the tests were started from: there may be none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    command = [sys.executable, "-m", "kaggle_hw4", "--show-completion", "bash"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "_KAGGLE_HW4_COMPLETE=complete_bash" in shown.stdout, shown.stderr
