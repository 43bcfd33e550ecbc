"""Wheel and sdist: built, installed into a clean environment, and used outside the checkout (`make test-wheel`)."""

import email
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    # Of the tests' own path only what keeps a process on this machine: the checkout must not be found.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    guard = {"PYTHONPATH": str(ROOT / "tests" / "guard")}
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=folder, env=kept | guard | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, *options: str, into: Path) -> Path:
    """Build with the packages that are here; gives the one file that was made."""
    packages = os.pathsep.join(path for path in sys.path if "packages" in path)
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", into, source]
    run(*command, folder=into.parent, PYTHONPATH=packages)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "--wheel", into=tmp_path_factory.mktemp("built") / "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "--sdist", into=tmp_path_factory.mktemp("built") / "sdist")


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment: the package is in it by its wheel alone, what it needs is lent from here."""
    folder = tmp_path_factory.mktemp("clean") / "environment"
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, folder=folder)
    (packages,) = folder.rglob("site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "lent.pth").write_text("\n".join(lent) + "\n")
    return scripts


def test_the_wheel_holds_the_package_its_types_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(about))
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "kaggle_hw4").rglob("*.py")}
    assert package | {"kaggle_hw4/py.typed"} <= names
    assert all(name.startswith(("kaggle_hw4/", "kaggle_hw4-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert metadata["License-Expression"] == "MIT"
    assert {"ray", "rehearsal", "tensorboard", "docs"} <= set(metadata.get_all("Provides-Extra", []))
    assert "Who is speaking?" in str(metadata.get_payload())


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "Makefile", "tests/test_wheel.py"):
        assert (source / name).exists()
    again = build(source, "--wheel", into=tmp_path / "wheel")
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


def test_the_program_answers_outside_the_checkout(clean: Path, tmp_path: Path) -> None:
    hw4 = clean / "kaggle-hw4"
    where = run(clean / "python", "-c", "import kaggle_hw4; print(kaggle_hw4.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(clean.parent)
    assert "submit" in run(hw4, "--help", folder=tmp_path)
    assert len(json.loads(run(hw4, "variants", "--json", folder=tmp_path))) > 15
    run(hw4, "rehearsal", "make", "kaggle", "--speakers", "3", "--utterances", "8", folder=tmp_path)
    data = json.loads(run(hw4, "data", "--from", "kaggle/ml2023springhw4.zip", "--json", folder=tmp_path))
    assert (data["speakers"], data["train"], data["test"]) == (3, 18, 6)
    run(hw4, "folds", "--k", "2", folder=tmp_path)
    run(hw4, "train", "--variant", "sample", "--steps", "3", "--workers", "1", folder=tmp_path)
    (member,) = json.loads(run(hw4, "board", "--json", folder=tmp_path))["members"]
    assert (member["name"], member["folds_done"]) == ("sample-s0", 2)
    assert json.loads(run(hw4, "export", "--json", folder=tmp_path))["card"]["speakers"] == 3
