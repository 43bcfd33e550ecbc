"""The house is tidy: its map is true, what is public is documented, nothing needs one operating system."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kaggle_hw4", "benchmarks")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
_LINES_WITHOUT_DOCSTRING = 3  # a shorter function says itself what it does
# Modules longer than this, with the reason.
_LONGEST = 300
LONGER = {"kaggle_hw4/submit.py": "one story: what may happen between validation and the recorded score"}

_POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
_POSIX_NAMES = {
    "chown",
    "fork",
    "geteuid",
    "getpgid",
    "getuid",
    "killpg",
    "mkfifo",
    "posix_fadvise",
    "posix_fallocate",
    "sched_getaffinity",
    "setsid",
    "statvfs",
    "uname",
    "SIGALRM",
    "SIGHUP",
    "SIGKILL",
    "SIGQUIT",
    "SIGUSR1",
    "alarm",
    "pthread_sigmask",
}
_GUARDS = ("hasattr(", "sys.platform", "os.name", "get_all_start_methods")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=MODULES, ids=name_of)
def module(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def rooms() -> dict[str, list[str]]:
    """The map in CONTRIBUTING.md: folder → modules in it. A folder may have several rows."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder, modules in re.findall(r"^\| `([\w/]+)/` \| (.*?) \|", text, re.MULTILINE):
        found.setdefault(folder, []).extend(re.findall(r"`(\w+)`", modules))
    return found


def test_the_map_names_every_room_and_module_and_no_other() -> None:
    there: dict[str, set[str]] = {}
    for path in MODULES:
        if path.stem not in ("__init__", "__main__"):
            there.setdefault(path.parent.relative_to(ROOT).as_posix(), set()).add(path.stem)
    shown = rooms()
    assert all(len(set(modules)) == len(modules) for modules in shown.values())
    assert {folder: set(modules) for folder, modules in shown.items()} == there


def test_no_module_is_long_without_a_reason(module: Path) -> None:
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert (lines > _LONGEST) == (name_of(module) in LONGER), f"{name_of(module)} has {lines} lines"


def public(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Classes and functions without a leading underscore, and their public methods."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def interfaces() -> set[str]:
    """The methods that a Protocol of the package documents for all classes that have them."""
    return {
        method.name
        for path in MODULES
        for node in public(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.dump(base) for base in node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
    }


EXPLAINED = interfaces() | {"forward", "as_json"}


def test_what_is_public_is_documented(module: Path) -> None:
    """Modules; of the package also classes, and functions of more than three lines that no interface explains."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    lacking = [] if ast.get_docstring(tree) else ["the module"]
    for node in public(tree) if name_of(module).startswith("kaggle_hw4") else ():
        lines = (node.body[-1].end_lineno or 0) - node.body[0].lineno + 1
        short = lines <= _LINES_WITHOUT_DOCSTRING and not isinstance(node, ast.ClassDef)
        if not (ast.get_docstring(node) or short or node.name in EXPLAINED):
            lacking.append(f"{node.name}, line {node.lineno}")
    assert lacking == []


def test_posix_is_asked_for_only_where_it_is_known_to_be_there() -> None:
    """What only Linux and macOS have is used in a function, or behind a condition, that asks for it."""
    for path in (ROOT / "kaggle_hw4").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        tree, lines = ast.parse(source), source.splitlines()
        guarded: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.If | ast.IfExp):
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                if any(guard in text for guard in _GUARDS):
                    guarded |= set(ast.walk(node))
            if isinstance(node, ast.Try) and any("ImportError" in ast.dump(handler) for handler in node.handlers):
                guarded |= set(ast.walk(node))
        for node in ast.walk(tree):
            if node in guarded:
                continue
            if isinstance(node, ast.Import):
                used = {alias.name for alias in node.names} & _POSIX_MODULES
            elif isinstance(node, ast.ImportFrom):
                used = {node.module or ""} & _POSIX_MODULES
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = {node.attr} & _POSIX_NAMES if node.value.id in ("os", "signal") else set()
            else:
                used = set()
            assert not used, f"{name_of(path)}, line {node.lineno}: {used.pop()}"  # type: ignore[attr-defined]


def test_layers_point_one_way() -> None:
    """The contracts in pyproject.toml, which `make lint` checks too."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tests_are_named_by_what_they_promise() -> None:
    """A name of two words at least, and none twice in a module."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        names = [
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        assert len(set(names)) == len(names), path.name
        assert all(len(name.split("_")) >= 3 for name in names), [n for n in names if len(n.split("_")) < 3]


def test_the_citation_names_the_version_and_the_changelog_is_kept() -> None:
    from kaggle_hw4 import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (Unreleased|{re.escape(__version__)})$", changelog, re.MULTILINE)
