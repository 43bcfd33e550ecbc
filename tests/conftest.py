"""Every test has a HOME of its own, none of Kaggle's variables, and cannot leave the machine."""

import atexit
import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kaggle_support import Plain, Port, Server, make_competition, running, serve

if TYPE_CHECKING:
    from jobs_done import Session

# One thread, and none that spins while it waits: the machine may be small, or busy with a training.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
# A shell that starts the tests in the background has them ignore Ctrl-C, and so what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
_PREFIXES = ("KAGGLE_", "VERBOSE", "XDG_CONFIG_HOME")
for _name in [name for name in os.environ if name.startswith(_PREFIXES)]:
    del os.environ[_name]
_HOME = tempfile.mkdtemp(prefix="kaggle-hw4-tests-")
os.environ.update(HOME=_HOME, USERPROFILE=_HOME)
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


# This process and those that it starts raise on a connection that would leave the machine.
_GUARD = str(Path(__file__).parent / "guard")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_GUARD, os.environ.get("PYTHONPATH", "")]))
sys.path.insert(0, _GUARD)
importlib.import_module("no_network")


@pytest.fixture
def competition_folder(tmp_path: Path) -> Path:
    """A tiny competition as `rehearsal make` writes it: archive and answers."""
    return make_competition(tmp_path / "competition")


@pytest.fixture(scope="session")
def port() -> Iterator[Port]:
    with running() as port:
        yield port


@pytest.fixture
def kaggle(competition_folder: Path, port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return serve(port, competition_folder, tmp_path / "home", monkeypatch)


@pytest.fixture
def plain(kaggle: Server, port: Port) -> Plain:
    """A client of `kaggle`, whose scores come at once."""
    kaggle.rehearsal.scoring_seconds = 0.0
    return Plain(port.number)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with tiny data."""
    import tiny  # imports torch, as below

    tiny.store(tmp_path)
    return tmp_path


@pytest.fixture
def session(tmp_path: Path) -> "Session":
    """A workspace with tiny data, to do jobs in."""
    import tiny  # imports torch, as below
    from jobs_done import Session

    tiny.store(tmp_path, longest=60)
    return Session(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What one worker makes of the tiny data, undisturbed."""
    import at_work  # imports torch, which must not come before the settings above
    import tiny

    root = tmp_path_factory.mktemp("undisturbed")
    tiny.store(root)
    code, stderr = at_work.finish(at_work.start(root, "--workers", "1"))
    assert code == 0, stderr
    return at_work.artefacts(root)
