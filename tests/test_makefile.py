"""`make install` with commands that only pretend: which environment it makes, keeps and refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAMP = '{ cat pyproject.toml constraints.txt | cksum; echo "$PWD"; } > .venv/.kaggle-hw4-installed'
# The python that made the environment, and the one in it: tells what it was asked for, pip does nothing.
PRETENCE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$1 $2" in
"-m venv") for folder; do :; done
    [ "$3" != --clear ] || rm -r "$folder"
    mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python"; : > "$folder/pyvenv.cfg"
    echo "VIRTUAL_ENV=$folder" > "$folder/bin/activate";;
"-m pip") ;;
*) exec {python} "$@";;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a complete environment of its own, and `new-python` to make others with."""
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-client.txt"):
        shutil.copy(ROOT / name, folder / name)
    program(tmp_path / "new-python")
    program(folder / ".venv" / "bin" / "python")
    (folder / ".venv" / "pyvenv.cfg").touch()
    (folder / ".venv" / "bin" / "activate").write_text(f"VIRTUAL_ENV={folder}/.venv\n")
    subprocess.run(STAMP, shell=True, check=True, cwd=folder)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return folder


def program(path: Path, python: str = sys.executable) -> None:
    path.write_text(PRETENCE.replace("{python}", python))
    path.chmod(0o755)


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")}
    command = ["make", "--no-print-directory", "install", f"PYTHON={folder.parent / 'new-python'}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def made(folder: Path) -> list[str]:
    """The environments that were made since."""
    return [line for line in (folder.parent / "log").read_text().splitlines() if "-m venv" in line]


def test_what_is_complete_is_left_alone(checkout: Path) -> None:
    done = install(checkout)
    assert (done.returncode, done.stdout, made(checkout)) == (0, "", [])


def test_an_environment_whose_python_is_gone_is_made_anew(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.99")
    assert install(checkout).returncode == 0
    assert made(checkout) == [f"new-python -m venv --clear {checkout}/.venv"]


def test_the_environment_of_a_moved_checkout_is_made_anew(checkout: Path) -> None:
    moved = checkout.rename(checkout.with_name("moved"))
    assert install(moved).returncode == 0
    assert made(moved) == [f"new-python -m venv --clear {moved}/.venv"]


def test_an_environment_of_an_older_python_is_refused_by_name(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".venv" / ".kaggle-hw4-installed").unlink()
    old = tmp_path / "old-python"
    old.write_text(
        f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 10, 1)\nsys.argv = sys.argv[2:]\nexec(sys.argv[0])\n"
    )
    old.chmod(0o755)
    program(checkout / ".venv" / "bin" / "python", str(old))
    done = install(checkout)
    assert done.returncode != 0
    assert f"error: {checkout}/.venv has Python 3.10: rm -r it, or deactivate" in done.stderr
