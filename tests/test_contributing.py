"""What CONTRIBUTING.md says is tried as written: its patches on a copy of the house, then its commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
HOW_TO = {title: text for title, _, text in (section.partition("\n") for section in SECTIONS) if "```diff" in text}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def patched(tmp_path: Path, title: str) -> Path:
    """A copy of the house with the patches of a section. Line numbers count for nothing, their context does."""
    house = tmp_path / "house"
    for folder in ("kaggle_hw4", "tests"):
        shutil.copytree(ROOT / folder, house / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", house)
    for patch in blocks(HOW_TO[title], "diff"):
        for part in re.split(r"(?m)^(?=--- a/)", patch)[1:]:
            head, *hunks = re.split(r"(?m)^@@.*\n", part)
            path = house / head.splitlines()[1].removeprefix("+++ b/")
            source = path.read_text(encoding="utf-8")
            for hunk in hunks:
                lines = hunk.splitlines(keepends=True)
                old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
                assert source.count(old) == 1, f"{path.name}: {old}"
                source = source.replace(old, new)
            path.write_text(source, encoding="utf-8")
    return house


def test_three_things_are_shown() -> None:
    assert sorted(HOW_TO) == ["Add a check", "Add a pooling", "Add a variant"]


@pytest.mark.parametrize("title", HOW_TO)
def test_the_patches_apply_and_the_result_is_well_formed(tmp_path: Path, title: str) -> None:
    house = patched(tmp_path, title)
    for command in (["ruff", "check", "kaggle_hw4"], ["ruff", "format", "--check", "kaggle_hw4"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=house, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    names = re.findall(r'^\+@register\("([\w-]+)"\)', HOW_TO[title], re.MULTILINE)
    command = [sys.executable, "-m", "kaggle_hw4", "variants", "--json"]
    listed = subprocess.run(command, cwd=house, env=environment(house), capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert all(f'"{name}"' in listed.stdout for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("title", HOW_TO)
def test_the_commands_that_follow_succeed(tmp_path: Path, title: str) -> None:
    house = patched(tmp_path, title)
    commands = [line for block in blocks(HOW_TO[title], "sh") for line in block.splitlines()]
    assert commands
    for line in commands:
        if line.startswith("kaggle-hw4"):
            continue  # needs data: tests/test_api.py trains a variant somebody registered
        command = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=house, env=environment(house), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert "passed" in done.stdout or re.search(r"\.\s+\[100%\]", done.stdout), done.stdout


def environment(house: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(house), os.environ.get("PYTHONPATH", "")])}
