"""At most one submission: killed anywhere, an answer lost or late, two processes at once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kaggle_support import IDS, LABELS, SLUG, SPEAKERS, Server, write_csv
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kaggle_hw4 import kaggle_client
from kaggle_hw4 import submit as submit_module
from kaggle_hw4.errors import PendingError
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.rehearsal.faults import Fault, answer, lose_answer, stall
from kaggle_hw4.submit import submit
from kaggle_hw4.workspace import Workspace

# Submits once; killed before or after its n-th writing to the ledger, if that is asked for.
SUBMIT = """
import os, signal, sys
from pathlib import Path
from kaggle_hw4 import submit as module
from kaggle_hw4.ledger import Ledger
from kaggle_hw4.workspace import Workspace
from kaggle_support import IDS, SLUG, SPEAKERS

written = 0

def deadly(whole):
    def write(*arguments, **changes):
        global written
        written += 1
        if sys.argv[3] == f"before {written}":
            os.kill(os.getpid(), signal.SIGKILL)
        row = whole(*arguments, **changes)
        if sys.argv[3] == f"after {written}":
            os.kill(os.getpid(), signal.SIGKILL)
        return row
    return write

Ledger.add, Ledger.update = deadly(Ledger.add), deadly(Ledger.update)
row = module.submit(
    SLUG, Workspace(Path(sys.argv[1])), Path(sys.argv[2]), test_ids=IDS, speakers=SPEAKERS, report=print
)
print(row.ref)
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(submit_module, "_LOOKUP_SECONDS", 0.2)
    monkeypatch.setattr(submit_module, "_LOOKUP_PAUSE", 0.1)
    monkeypatch.setattr(submit_module, "_SETTLE_SECONDS", 0.3)
    return Workspace(tmp_path / "work")


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "mean.csv", LABELS)


def start(workspace: Workspace, csv_path: Path, deadly: str = "never") -> subprocess.Popen[str]:
    path = os.pathsep.join(["tests", ".", os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", SUBMIT, str(workspace.root), str(csv_path), deadly]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def send(workspace: Workspace, csv_path: Path) -> Row:
    row = submit(SLUG, workspace, csv_path, test_ids=IDS, speakers=SPEAKERS, report=print, timeout=20.0)
    assert row is not None
    return row


def made_once(kaggle: Server, workspace: Workspace, row: Row) -> None:
    """One submission on Kaggle, one row in the ledger, and they are the same, scored."""
    (entry,) = kaggle.rehearsal.entries
    assert Ledger(workspace.ledger).all(SLUG) == [row]
    assert (row.ref, row.state, row.public) == (entry.ref, "complete", "1.00000")


class Killer:
    """Kills a process when a request of it arrives (lost), is carried out (done), or is answered (told)."""

    process: subprocess.Popen[str]

    def __init__(self, moment: str) -> None:
        self._moment = moment

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def drop(message: Message) -> None:
            pass

        if self._moment != "lost":
            await app(scope, receive, send if self._moment == "told" else drop)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("moment", ["lost", "done", "told"])
@pytest.mark.parametrize("method", ["StartSubmissionUpload", "PUT", "CreateSubmission", "GetSubmission"])
def test_killed_at_a_request(
    kaggle: Server,
    workspace: Workspace,
    csv_path: Path,
    method: str,
    moment: str,
    started: list[subprocess.Popen[str]],
) -> None:
    killer = Killer(moment)
    kaggle.disturb(method, killer)
    killer.process = start(workspace, csv_path)
    started.append(killer.process)
    assert killer.process.wait(300) == -signal.SIGKILL
    assert len(kaggle.rehearsal.entries) <= 1
    made_once(kaggle, workspace, send(workspace, csv_path))


@pytest.mark.parametrize("moment", ["before 1", "after 1", "before 2", "after 2", "before 3"])
def test_killed_at_the_ledger(
    kaggle: Server, workspace: Workspace, csv_path: Path, moment: str, started: list[subprocess.Popen[str]]
) -> None:
    started.append(start(workspace, csv_path, moment))
    assert started[0].wait(300) == -signal.SIGKILL
    made_once(kaggle, workspace, send(workspace, csv_path))


def test_two_at_once_make_one(
    kaggle: Server, workspace: Workspace, csv_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    started += [start(workspace, csv_path) for _ in range(2)]
    refs = {process.communicate(timeout=300)[0].split()[-1] for process in started}
    assert refs == {str(kaggle.rehearsal.entries[0].ref)}
    made_once(kaggle, workspace, send(workspace, csv_path))


def refused_to_guess(workspace: Workspace, csv_path: Path) -> str:
    """The id of the submission that `submit` ends in doubt about."""
    with pytest.raises(PendingError) as caught:
        send(workspace, csv_path)
    (row,) = Ledger(workspace.ledger).all(SLUG)
    assert (row.state, row.ref) == ("sending", None)
    assert row.id in caught.value.cause
    return row.id


def test_a_submission_that_is_made_after_it_was_given_up(
    kaggle: Server, workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is silent at first; a rerun at once must not take that for an answer."""
    monkeypatch.setattr(kaggle_client, "_CREATE_SECONDS", 1.0)
    monkeypatch.setattr(submit_module, "_SETTLE_SECONDS", 10.0)
    kaggle.disturb("CreateSubmission", stall(3.0))
    refused_to_guess(workspace, csv_path)
    assert kaggle.rehearsal.entries == []
    made_once(kaggle, workspace, send(workspace, csv_path))


@pytest.mark.parametrize("fault", [answer(500), answer(429, retry_after="1"), answer(502, b"<html>")])
def test_a_submission_that_failed_is_made_by_a_rerun_not_by_itself(
    kaggle: Server, workspace: Workspace, csv_path: Path, fault: Fault
) -> None:
    kaggle.disturb("CreateSubmission", fault)
    id = refused_to_guess(workspace, csv_path)
    assert kaggle.requests.count("CreateSubmission") == 1
    assert "ListSubmissions" in kaggle.requests
    row = send(workspace, csv_path)
    assert row.id == id
    made_once(kaggle, workspace, row)


def test_an_inconclusive_look_up_names_the_id_and_sends_nothing(
    kaggle: Server, workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._PATIENCE_SECONDS", 0.3)
    kaggle.disturb("CreateSubmission", lose_answer)
    kaggle.rehearse("no-list*2")
    ids = {refused_to_guess(workspace, csv_path) for _ in range(2)}
    assert len(ids) == 1
    assert kaggle.requests.count("CreateSubmission") == 1
    made_once(kaggle, workspace, send(workspace, csv_path))


def test_a_clock_set_back_in_between(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    """The row seems to come from tomorrow: its submission is looked for all the same."""
    kaggle.disturb("CreateSubmission", lose_answer)
    kaggle.rehearse("broken-json@ListSubmissions*1")
    id = refused_to_guess(workspace, csv_path)
    Ledger(workspace.ledger).update(id, created="2099-01-01T00:00:00.000Z")
    row = send(workspace, csv_path)
    made_once(kaggle, workspace, row)
    assert row.created == kaggle.rehearsal.entries[0].date
