"""Validation, at most one submission, waiting and the ledger, against the rehearsal server."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kaggle_support import IDS, LABELS, SLUG, SPEAKERS, Server, write_csv
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggle_hw4 import submit as submit_module
from kaggle_hw4.errors import DataError, PendingError, RefusedError, UnavailableError
from kaggle_hw4.kaggle_client import KaggleClient
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.rehearsal.faults import answer, json_answer, lose_answer
from kaggle_hw4.submission_file import find_submission
from kaggle_hw4.submit import read_submission, submit, sync
from kaggle_hw4.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(submit_module, "_LOOKUP_SECONDS", 0.15)
    monkeypatch.setattr(submit_module, "_LOOKUP_PAUSE", 0.05)
    monkeypatch.setattr(submit_module, "_SETTLE_SECONDS", 0.2)
    return Workspace(tmp_path / "work")


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "mean.csv", LABELS)


def send(workspace: Workspace, csv_path: Path, **options: Any) -> Row | None:
    said: list[str] = []
    options = {"test_ids": IDS, "speakers": SPEAKERS, "report": said.append, "timeout": 20.0, **options}
    return submit(SLUG, workspace, csv_path, **options)


def create(csv_path: Path, description: str) -> int:
    """A submission made otherwise than by `submit`."""
    client = KaggleClient(SLUG)
    return client.create(client.upload(csv_path.name, csv_path.read_bytes()), description)


def row_of(workspace: Workspace) -> Row:
    (row,) = Ledger(workspace.ledger).all(SLUG)
    return row


# --- validation --------------------------------------------------------------------------------


def lines(change: Callable[[list[str]], list[str]] = list) -> str:
    return "\n".join(["Id,Category", *change([f"{name},{label}" for name, label in LABELS.items()])]) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        lines().encode(),
        lines(lambda rows: rows[::-1]).encode(),
        b"\xef\xbb\xbf" + lines().encode(),
        lines().replace("\n", "\r\n").encode(),
        "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in lines().split()).encode(),
        lines().encode() + b"\n\n",
    ],
    ids=["plain", "another order", "BOM", "CRLF", "quotes", "empty lines"],
)
def test_a_right_file_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    frame = read_submission(path, IDS, SPEAKERS)
    assert dict(zip(frame["Id"], frame["Category"], strict=True)) == LABELS


BAD = {
    "no such file": (None, "is missing"),
    "empty": (b"", "first line"),
    "other columns": (lines().replace("Category", "category").encode(), "Id,category"),
    "semicolons": (lines().replace(",", ";").encode(), "Id;Category"),
    "UTF-16": (lines().encode("utf-16"), "not UTF-8"),
    "a row too few": (lines(lambda rows: rows[:-1]).encode(), f"11 rows instead of 12.*{IDS[-1]}"),
    "a row too many": (lines(lambda rows: [*rows, "x,id00001"]).encode(), "13 rows"),
    "a row twice": (lines(lambda rows: [*rows, rows[2]]).encode(), f"{IDS[2]} stands in lines 4, 14"),
    "an altered id": (lines(lambda rows: ["1.0E+09,id00001", *rows[1:]]).encode(), r"line 2: '1\.0E\+09'"),
    "an unknown speaker": (lines().replace("id00003", "id99999").encode(), "line 4: .*id99999"),
    "three columns": (lines(lambda rows: [rows[0] + ",x", *rows[1:]]).encode(), "line 2: 3 columns"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_without_a_request(
    kaggle: Server, workspace: Workspace, tmp_path: Path, case: str
) -> None:
    content, text = BAD[case]
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=text):
        send(workspace, path)
    assert kaggle.requests == []
    assert not workspace.root.exists()


def test_a_path_is_no_name_of_a_submission(
    workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`./mean.csv` is the file here, also where the workspace has a submission of that name."""
    workspace.submissions.mkdir(parents=True)
    inside = workspace.submissions / csv_path.name
    inside.write_bytes(csv_path.read_bytes())
    monkeypatch.chdir(csv_path.parent)
    for name in ("mean", "mean.csv"):
        assert find_submission(workspace, name) == inside
    for path in (f".{os.sep}mean.csv", os.path.join("..", csv_path.parent.name, "mean.csv"), str(csv_path)):
        assert os.path.samefile(find_submission(workspace, path), csv_path)


# --- sending -----------------------------------------------------------------------------------


def test_sent_waited_for_and_recorded(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    row = send(workspace, csv_path, ensemble="mean.json")
    assert row == row_of(workspace)
    assert (row.state, row.public, row.private, row.ensemble) == (
        "complete",
        "1.00000",
        "1.00000",
        "mean.json",
    )
    (entry,) = kaggle.rehearsal.entries
    assert entry.ref == row.ref
    assert entry.description == f"mean [{row.id}]"


def test_a_dry_run_makes_no_request(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    assert send(workspace, csv_path, dry_run=True) is None
    assert kaggle.requests == []
    assert not workspace.root.exists()


def test_the_same_file_is_not_sent_again(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    first = send(workspace, csv_path)
    made = len(kaggle.requests)
    assert send(workspace, csv_path) == first
    assert len(kaggle.requests) == made
    forced = send(workspace, csv_path, force=True)
    assert forced is not None
    assert first is not None
    assert forced.ref != first.ref
    assert len(kaggle.rehearsal.entries) == 2


def test_the_same_rows_in_another_order_are_not_sent(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    first = send(workspace, csv_path)
    said: list[str] = []
    turned = write_csv(csv_path.with_name("turned.csv"), dict(reversed(LABELS.items())))
    assert turned.read_bytes() != csv_path.read_bytes()
    assert send(workspace, turned, report=said.append) == first
    assert "names every utterance as mean did, sent before" in said[0]
    assert len(kaggle.rehearsal.entries) == 1
    forced = send(workspace, turned, force=True)
    assert forced is not None
    assert len(kaggle.rehearsal.entries) == 2


def test_a_file_given_by_a_relative_path_is_found_from_another_folder(
    kaggle: Server, workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(csv_path.parent)
    first = send(workspace, Path(csv_path.name))
    monkeypatch.chdir("/")
    assert send(workspace, write_csv(csv_path.with_name("turned.csv"), dict(reversed(LABELS.items())))) == first
    assert len(kaggle.rehearsal.entries) == 1


def test_a_file_whose_name_is_not_utf_8_is_sent(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    odd = csv_path.rename(csv_path.with_name(os.fsdecode(b"mine\xff.csv")))
    row = send(workspace, odd)
    assert row is not None
    assert (row.name, row.state) == ("mine?", "complete")
    assert send(workspace, odd) == row
    assert len(kaggle.rehearsal.entries) == 1


def test_what_a_score_cannot_tell_from_an_earlier_one_is_warned_about_and_sent(
    kaggle: Server, workspace: Workspace, csv_path: Path
) -> None:
    send(workspace, csv_path)
    other = write_csv(csv_path.with_name("other.csv"), LABELS | {IDS[0]: SPEAKERS[1]})
    said: list[str] = []
    row = send(workspace, other, report=said.append)
    assert row is not None
    assert row.state == "complete"
    assert "warning: a score can hardly tell this from mean (1 of 12 rows differ, public 1.00000)" in said
    assert len(kaggle.rehearsal.entries) == 2
    csv_path.write_text("changed since")  # what was sent is no longer there to compare with
    third = write_csv(csv_path.with_name("third.csv"), LABELS | {IDS[1]: SPEAKERS[2], IDS[0]: SPEAKERS[1]})
    said.clear()
    send(workspace, third, report=said.append)
    assert [line.startswith("warning: a score can hardly tell this from other (") for line in said].count(True) == 1


def test_no_slots_left(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    for _ in range(5):
        create(csv_path, "elsewhere")
    kaggle.requests.clear()
    with pytest.raises(RefusedError, match=r"no submissions left today(.|\n)*00:00 UTC"):
        send(workspace, csv_path)
    assert kaggle.requests == ["GetSubmissionLimits"]
    assert Ledger(workspace.ledger).all(SLUG) == []


def test_quota_unknown_is_no_hindrance(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    kaggle.disturb("GetSubmissionLimits", json_answer(501, b"{}"))
    assert send(workspace, csv_path) == row_of(workspace)


def test_pending_then_picked_up(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    kaggle.rehearsal.scoring_seconds = 3600.0
    with pytest.raises(PendingError) as caught:
        send(workspace, csv_path, timeout=0.2)
    row = row_of(workspace)
    assert row.state == "sent"
    assert str(row.ref) in str(caught.value)
    assert send(workspace, csv_path, wait=False) == row
    kaggle.rehearsal.entries = [replace(entry, due=0.0) for entry in kaggle.rehearsal.entries]
    scored = send(workspace, csv_path)
    assert scored is not None
    assert (scored.id, scored.public) == (row.id, "1.00000")
    assert kaggle.requests.count("CreateSubmission") == 1


@pytest.mark.parametrize("again", ["mean.csv", "turned.csv"])
def test_a_forced_one_that_is_pending_is_waited_for_by_the_same_command(
    kaggle: Server, workspace: Workspace, csv_path: Path, again: str
) -> None:
    """It is what the message advises, and promises that nothing is sent twice."""
    send(workspace, csv_path)
    write_csv(csv_path.with_name("turned.csv"), dict(reversed(LABELS.items())))
    kaggle.rehearsal.scoring_seconds = 3600.0
    with pytest.raises(PendingError, match=r"Run the same command again(.|\n)*nothing is sent twice"):
        send(workspace, csv_path, force=True, timeout=0.2)
    kaggle.rehearsal.scoring_seconds = 0.0
    kaggle.rehearsal.entries = [replace(entry, due=0.0) for entry in kaggle.rehearsal.entries]
    row = send(workspace, csv_path.with_name(again), force=True)
    assert len(kaggle.rehearsal.entries) == 2
    assert row is not None
    assert (row.ref, row.state) == (kaggle.rehearsal.entries[-1].ref, "complete")


def test_a_pending_one_that_kaggle_does_not_know_is_no_hindrance_to_force(
    kaggle: Server, workspace: Workspace, csv_path: Path
) -> None:
    """A rehearsal set up anew, say."""
    kaggle.rehearsal.scoring_seconds = 3600.0
    first = send(workspace, csv_path, wait=False)
    kaggle.rehearsal.scoring_seconds = 0.0
    kaggle.rehearsal.entries = []
    row = send(workspace, csv_path, force=True)
    assert row is not None
    assert first is not None
    assert (row.id != first.id, row.state) == (True, "complete")


def test_an_answer_from_before_a_score_does_not_take_it_away(
    kaggle: Server, workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that wait for one submission, the one that was told "pending" writes last."""
    kaggle.rehearsal.scoring_seconds = 3600.0
    send(workspace, csv_path, wait=False)
    asked = KaggleClient.submission

    def asked_before(client: KaggleClient, ref: int) -> Any:
        found = asked(client, ref)
        monkeypatch.setattr(KaggleClient, "submission", asked)
        kaggle.rehearsal.entries = [replace(entry, due=0.0) for entry in kaggle.rehearsal.entries]
        send(workspace, csv_path)
        return found

    monkeypatch.setattr(KaggleClient, "submission", asked_before)
    row = send(workspace, csv_path, wait=False)
    assert row == row_of(workspace)
    assert (row.state, row.public) == ("complete", "1.00000")


def test_refused_while_waiting_says_that_it_is_made(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    kaggle.disturb("GetSubmission", json_answer(401, b'{"code": 401, "message": "Unauthenticated"}'))
    with pytest.raises(RefusedError, match=r"\(401\); submission \d+ is made and recorded(.|\n)*settings/api"):
        send(workspace, csv_path)
    assert row_of(workspace).state == "sent"


def test_kaggles_verdict_is_shown_and_remembered(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    """A file that passes here but not there: the server knows other ids."""
    kaggle.rehearsal.answers = replace(kaggle.rehearsal.answers, public={"other.pt": "id00001"})
    for _ in range(2):
        with pytest.raises(RefusedError, match="must have 7 rows"):
            send(workspace, csv_path)
    assert row_of(workspace).state == "error"
    assert kaggle.requests.count("CreateSubmission") == 1


def test_a_lost_answer_is_looked_up(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    kaggle.disturb("CreateSubmission", lose_answer)
    row = send(workspace, csv_path)
    assert row is not None
    assert (row.state, row.ref) == ("complete", kaggle.rehearsal.entries[0].ref)
    assert kaggle.requests.count("CreateSubmission") == 1


def test_an_answer_without_a_reference(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    async def no_reference(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def swallow(message: Any) -> None:
            pass

        await app(scope, receive, swallow)
        await json_answer(200, b'{"message": "ok"}')(app, scope, _nothing, send)

    kaggle.disturb("CreateSubmission", no_reference)
    row = send(workspace, csv_path)
    assert row is not None
    assert row.ref == kaggle.rehearsal.entries[0].ref


async def _nothing() -> dict[str, str]:
    return {"type": "http.request"}


def test_a_submission_that_may_be_lost_names_its_id_and_is_made_by_a_rerun(
    kaggle: Server, workspace: Workspace, csv_path: Path
) -> None:
    kaggle.disturb("CreateSubmission", answer(502, b"<html>Bad gateway</html>"))
    with pytest.raises(PendingError) as caught:
        send(workspace, csv_path)
    row = row_of(workspace)
    assert (row.state, row.ref) == ("sending", None)
    assert row.id in str(caught.value)
    again = send(workspace, csv_path)
    assert again == row_of(workspace)
    assert (again.id, again.state) == (row.id, "complete")
    assert len(kaggle.rehearsal.entries) == 1


def test_no_look_up_no_second_submission(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    kaggle.disturb("CreateSubmission", lose_answer)
    kaggle.disturb("ListSubmissions", *[json_answer(200, b'{"submissions": 3}')] * 2)
    for _ in range(2):
        with pytest.raises(PendingError, match="hw4-"):
            send(workspace, csv_path, force=True)
    row = send(workspace, csv_path)
    assert row == row_of(workspace)
    assert len(kaggle.rehearsal.entries) == 1


def test_a_look_up_that_is_refused_is_a_doubt_and_says_why(
    kaggle: Server, workspace: Workspace, csv_path: Path
) -> None:
    kaggle.disturb("CreateSubmission", lose_answer)
    kaggle.disturb("ListSubmissions", *[json_answer(401, b'{"code": 401, "message": "Unauthenticated"}')] * 2)
    for _ in range(2):
        with pytest.raises(PendingError, match=r"hw4-(.|\n)*\(401\)(.|\n)*settings/api"):
            send(workspace, csv_path)
    send(workspace, csv_path)
    assert len(kaggle.rehearsal.entries) == 1


def test_a_refusal_cut_in_the_middle_of_a_character_is_recorded(
    kaggle: Server, workspace: Workspace, csv_path: Path
) -> None:
    kaggle.disturb("CreateSubmission", json_answer(400, b'{"code": 400, "message": "cut \\ud83d"}'))
    with pytest.raises(RefusedError, match=r"cut \?"):
        send(workspace, csv_path)
    assert row_of(workspace).state == "error"


def test_a_ledger_that_goes_away_while_waiting_is_named(
    kaggle: Server, workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = KaggleClient.submission

    def moved_away(client: KaggleClient, ref: int) -> Any:
        workspace.ledger.rename(workspace.ledger.with_name("away.sqlite"))
        return asked(client, ref)

    monkeypatch.setattr(KaggleClient, "submission", moved_away)
    with pytest.raises(DataError, match=r"ledger\.sqlite(.|\n)*board --sync"):
        send(workspace, csv_path)


def test_refused_before_sending_can_be_repeated(kaggle: Server, workspace: Workspace, csv_path: Path) -> None:
    kaggle.disturb("CreateSubmission", json_answer(403, b'{"code": 403, "message": "rules"}'))
    with pytest.raises(RefusedError, match="/rules"):
        send(workspace, csv_path)
    assert row_of(workspace).state == "error"
    row = send(workspace, csv_path)
    assert row is not None
    assert row.state == "complete"


@pytest.mark.parametrize("status", [400, 404])
def test_a_failed_upload_is_no_submission(
    kaggle: Server, workspace: Workspace, csv_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._PATIENCE_SECONDS", 2.5)  # two tries
    kaggle.disturb("PUT", *[answer(status)] * 9)
    with pytest.raises(UnavailableError, match="file store"):
        send(workspace, csv_path)
    assert kaggle.requests.count("CreateSubmission") == 0
    assert Ledger(workspace.ledger).all(SLUG) == []


# --- sync --------------------------------------------------------------------------------------


def test_sync_brings_scores_lost_references_and_foreign_submissions(
    kaggle: Server, workspace: Workspace, csv_path: Path, tmp_path: Path
) -> None:
    kaggle.rehearsal.scoring_seconds = 0.0
    lost = write_csv(tmp_path / "lost.csv", dict.fromkeys(IDS, "id00001"))
    kaggle.disturb("CreateSubmission", lose_answer)
    kaggle.disturb("ListSubmissions", json_answer(200, b'{"submissions": 3}'))
    with pytest.raises(PendingError):
        send(workspace, lost)
    own = send(workspace, csv_path)
    create(csv_path, "by hand")
    changed = sync(SLUG, workspace)
    assert {(row.name, row.state, row.public is not None) for row in changed} == {
        ("lost", "complete", True),
        ("by hand", "complete", True),
    }
    rows = Ledger(workspace.ledger).all(SLUG)
    assert len(rows) == 3
    assert own in rows
    assert sync(SLUG, workspace) == []
    assert Ledger(workspace.ledger).all(SLUG) == rows
