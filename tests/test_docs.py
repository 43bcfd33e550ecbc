"""The pages keep what they say: blocks are run as they stand, commands exist, the reference is that of the commands."""

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import desk
import pytest
import tiny
import typer
from kaggle_support import Port, Server
from pages import ROOT, Block, blocks, command_lines, links, pages, spans

from kaggle_hw4.cli import app
from kaggle_hw4.rehearsal.server import client_environment

# Seconds each; the others are for `make test-all`.
QUICK = ["docs/explanation.md", "docs/kaggle.md"]
SLUGS = {"docs/howto/edition-2022.md": "ml2022spring-hw4"}
# The patches of CONTRIBUTING are tried by tests/test_contributing.py.
RUN, SHOWN = ["sh", "python"], ["text", "console", "json", "csv", "diff"]

ELSEWHERE = ["CONTRIBUTING.md"]  # whose commands follow its patches: tests/test_contributing.py
RUNNING = [p for p in pages() if p not in ELSEWHERE and any(b.language in RUN and not b.not_run for b in blocks(p))]
NOT_RUN = [block for page in pages() for block in blocks(page) if block.not_run]
COPIED = (
    "kaggle_hw4",
    "benchmarks",
    "docs",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-client.txt",
    "README.md",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout whose environment `make install` finds complete. See `small_program`."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    bin = folder / ".venv" / "bin"
    bin.mkdir(parents=True)
    for name in ("kaggle-hw4", "python"):
        (bin / name).write_text(f"#!{sys.executable}\n" + (ROOT / "tests" / "small_program.py").read_text())
        (bin / name).chmod(0o755)
    (bin / "activate").write_text(f"export VIRTUAL_ENV={bin.parent} PATH={bin}:$PATH\n")
    stamp = '{ cat pyproject.toml constraints.txt | cksum; echo "$PWD"; } > .venv/.kaggle-hw4-installed'
    subprocess.run(stamp, shell=True, check=True, cwd=folder)
    return folder


@pytest.fixture
def environment(checkout: Path, tmp_path: Path, port: Port, request: pytest.FixtureRequest) -> Any:
    """For the commands of a page: a small competition is served, and nothing outlives the test."""
    content = tiny.files(train=10, test=3, longest=160)
    slug = SLUGS.get(request.node.callspec.params["page"], desk.SLUG)
    port.server = Server(desk.make_competition(tmp_path / "competition", content, slug))
    (tmp_path / "home").mkdir()
    (tmp_path / "state").mkdir()
    path = os.pathsep.join([str(checkout / ".venv" / "bin"), os.environ["PATH"]])
    ours = {"PATH": path, "PAGES_STATE": str(tmp_path / "state")}
    outside = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    yield outside | client_environment(port.number, tmp_path / "home") | ours
    servers = tmp_path / "state" / "servers"
    for pid in servers.read_text().split() if servers.exists() else []:
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("page", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in RUNNING])
def test_the_blocks_of_a_page_work_in_their_order(page: str, checkout: Path, environment: dict[str, str]) -> None:
    """In one shell, in a new checkout that is the workspace too; each Python block is a program of its own."""
    script = ["set -e -o pipefail"]
    for block in blocks(page):
        if block.language in RUN and not block.not_run:
            script.append(f"echo '--- {block}' >&2")
            code = f"python - <<'END-OF-BLOCK'\n{block.content}END-OF-BLOCK\n"
            script.append(code if block.language == "python" else block.content)
    (checkout.parent / "page.sh").write_text("\n".join(script))
    command = ["bash", str(checkout.parent / "page.sh")]
    files = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    shell = subprocess.Popen(command, cwd=checkout, env=environment, start_new_session=True, **files)
    try:
        said, _ = shell.communicate(timeout=380)  # pytest's own patience would leave the commands running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, said[-6000:]


@pytest.mark.parametrize("page", pages())
def test_every_block_is_of_a_language_that_is_run_or_of_one_that_need_not_be(page: str) -> None:
    for block in blocks(page):
        assert block.language in RUN + SHOWN or block.language.startswith("{"), f"{block}: {block.language!r}"
        assert not block.not_run or block.language in RUN, f"{block} is not run anyway"


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: f"{block}: {block.not_run}")
def test_what_is_not_run_would_be_taken(block: Block) -> None:
    """Every command of the block exists, with all its options; a program, short of its main part, is run."""
    if block.language == "python":
        exec(compile(block.content, str(block), "exec"), {"__name__": "page"})
        return
    for line in command_lines(block):
        check_command(shlex.split(line), str(block))


@pytest.mark.parametrize("page", pages())
def test_commands_in_the_text_exist(page: str) -> None:
    commands = typer.main.get_command(app).commands
    for span in spans(page):
        words = span.replace("'", "").split()
        if words and words[0] in commands and any(word.startswith("--") for word in words):
            words.insert(0, "kaggle-hw4")
        if words[:1] in (["kaggle-hw4"], ["make"]):
            check_command(words, f"{page}: `{span}`")


def check_command(words: list[str], where: str) -> None:
    """Fails unless the program, the command and all options are there. Values are not looked at."""
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(word in targets for word in rest), where
    elif program == "kaggle-hw4":
        check_options(typer.main.get_command(app), rest, where)
    elif words[:2] == ["python", "-m"] and rest[1].startswith("benchmarks"):
        name = rest[1] if "." in rest[1] else f"{rest[1]}.__main__"
        alone = typer.Typer()
        alone.command()(importlib.import_module(name).main)
        check_options(typer.main.get_command(alone), rest[2:], where)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"kaggle-hw4\[(\w+)\]", " ".join(rest))) <= extras.keys(), where
    else:
        assert program in ("export", "python", "ray"), f"{where}: nobody checks {program!r}"


def check_options(command: Any, words: list[str], where: str) -> None:
    for place, word in enumerate(words):
        known = [name for option in command.params for name in (*option.opts, *option.secondary_opts)]
        known += ["--help", "-h"]
        if word.strip("[]").startswith("-"):
            assert word.strip("[]") in known, f"{where}: {command.name} has no {word}"
        elif word in getattr(command, "commands", {}):
            return check_options(command.commands[word], words[place + 1 :], where)
    return None


def test_a_command_that_is_not_there_is_noticed() -> None:
    for line in (
        "kaggle-hw4 train --stepps 3",
        "make dmo",
        "kaggle-hw4 rehearsal make --k 3",
        "wget x",
        "kaggle-hw4 -x",
    ):
        with pytest.raises(AssertionError):
            check_command(line.split(), "here")


def test_the_reference_of_the_commands_is_current(tmp_path: Path) -> None:
    written = tmp_path / "cli.md"
    command = [
        "-m",
        "typer",
        "kaggle_hw4.cli",
        "utils",
        "docs",
        "--name",
        "kaggle-hw4",
        "--title",
        "Commands",
        "--output",
    ]
    subprocess.run([sys.executable, *command, written], check=True, cwd=ROOT, capture_output=True)
    assert written.read_text() == (ROOT / "docs" / "cli.md").read_text(), "run: make docs-cli"


@pytest.mark.parametrize("page", pages())
def test_links_to_files_lead_somewhere(page: str) -> None:
    local = [link.split("#")[0] for link in links(page) if not re.match(r"\w+:", link)]
    assert [link for link in local if link and not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_pages_build_without_a_warning_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = [path.read_text() for path in (tmp_path / "html").rglob("*.html")]
    assert len(html) > 10
    loaded = [tag for page in html for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)]
    assert any("furo.css" in tag for tag in loaded)
    assert [tag for tag in loaded if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)] == []
