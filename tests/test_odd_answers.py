"""Well-formed answers and names that nobody expects: said, recorded and shown; no slot lost, no secret told."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tiny
from desk import Desk, make_desk
from kaggle_support import Port

from kaggle_hw4 import doctor
from kaggle_hw4 import submit as submit_module
from kaggle_hw4.kaggle_client import KaggleClient
from kaggle_hw4.ledger import Ledger
from kaggle_hw4.rehearsal.faults import Fault, answer, edited, lose_answer, stall
from kaggle_hw4.workspace import Workspace

CONTENT = tiny.files()


@pytest.fixture
def desk(tmp_path: Path, port: Port, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A workspace with data, ready to submit; scores come at once."""
    monkeypatch.setattr(doctor, "_imports", list)
    desk = make_desk(tmp_path, port, monkeypatch, CONTENT)
    desk.server.rehearsal.scoring_seconds = 0.0
    assert desk.run("data").exit_code == 0
    desk.requests()
    return desk


def each(change: dict[str, Any]) -> Fault:
    """Answers with every submission in them changed."""

    def edit(content: dict[str, Any]) -> None:
        for item in content.get("submissions", [content]):
            item.update(change)

    return edited(edit)


def by_hand(desk: Desk, description: str, content: bytes | None = None) -> int:
    """Submit without this project; gives the reference."""
    client = KaggleClient(desk.slug)
    return client.create(client.upload("by-hand.csv", content or desk.csv.read_bytes()), description)


def ended(result: Any, code: int) -> None:
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


@pytest.mark.parametrize("description", ["lr=1e-3 [/2 epochs]", "[resnet] 3 seeds", "$5 \\foo$ a$^$b", "\x1b[2J \x01"])
def test_a_description_is_text_and_nothing_else(desk: Desk, description: str, tmp_path: Path) -> None:
    by_hand(desk, description)
    for command in (("--sync",), (), ("--picture", str(tmp_path / "board.png"))):
        result = desk.run("board", *command)
        ended(result, 0)
        assert "\x1b" not in result.stdout
    assert description.split()[0].strip("\x1b") in result.stdout
    ended(desk.run("explain", str(desk.ledger()[0]["ref"])), 0)
    ended(desk.run("report", "--output", str(tmp_path / "report.html")), 0)


@pytest.mark.parametrize("score", ["N/A", "nan", "0.5 (late)"])
def test_a_score_that_is_no_number_is_shown_as_it_is(desk: Desk, score: str) -> None:
    for method in ("GetSubmission", "ListSubmissions"):
        desk.server.disturb(method, *[each({"publicScore": score})] * 5)
    for _ in range(2):
        result = desk.run("submit", str(desk.csv))
        ended(result, 0)
        assert f"public {score}, private" in result.stdout
    ended(desk.run("board", "--sync"), 0)
    assert "NaN" not in desk.run("board", "--json").stdout


def test_a_reference_beyond_64_bits_is_no_reference(desk: Desk) -> None:
    desk.server.disturb("CreateSubmission", edited(lambda content: content.update(ref=10**30)))
    ended(desk.run("submit", str(desk.csv)), 0)
    assert len(desk.server.rehearsal.entries) == 1
    desk.server.disturb("ListSubmissions", each({"ref": 10**30}))
    ended(desk.run("board", "--sync"), 5)


def test_a_description_cut_in_the_middle_of_a_character(desk: Desk) -> None:
    by_hand(desk, "hello")
    desk.server.disturb("ListSubmissions", each({"description": "cut \ud83d"}))
    ended(desk.run("board", "--sync"), 0)
    assert desk.ledger()[0]["name"] == "cut ?"


def test_a_secret_in_a_verdict_is_cut_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", key := "0123456789abcdef0123")
    verdict = {"status": "ERROR", "errorDescription": f"{key} may not", "publicScore": "", "privateScore": ""}
    desk.server.disturb("GetSubmission", *[each(verdict)] * 3)
    result = desk.run("submit", str(desk.csv))
    desk.refused(result, 4, "may not")
    assert key not in result.output
    assert key.encode() not in Workspace(desk.root).ledger.read_bytes()


def test_a_token_longer_than_a_file_name_is_not_printed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client fails at it: it takes it for a file's path first."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_" + "a" * 300)
    for command in (("board", "--sync"), ("doctor",)):
        result = desk.run(*command)
        ended(result, 4 if command[0] == "board" else 3)
        assert "access_token" in result.output
        assert "a" * 40 not in result.output


def test_certificates_that_are_not_there(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /gone.pem")  # requests'

    def fail(*arguments: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", fail)
    desk.refused(desk.run("board", "--sync"), 5, "/gone.pem", "REQUESTS_CA_BUNDLE")
    ended(desk.run("doctor"), 3)


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("*", answer(403, b"<html>Blocked</html>", content_type="text/html")),
        ("GET", answer(403, b"<Error>denied</Error>", content_type="application/xml")),
    ],
)
def test_a_403_that_is_not_kaggles_says_nothing_of_the_rules(desk: Desk, method: str, fault: Fault) -> None:
    desk.server.disturb(method, *[fault] * 8)
    result = desk.run("doctor", "--json")
    found = {finding["name"]: finding["ok"] for finding in json.loads(result.stdout)}
    assert found["Kaggle"] is False
    assert "rules" not in found


def test_no_wait_ends_with_4_on_a_verdict_that_is_there(desk: Desk) -> None:
    desk.server.disturb("CreateSubmission", lose_answer)
    desk.server.disturb("ListSubmissions", each({"status": "ERROR", "errorDescription": "bad ids", "publicScore": ""}))
    desk.refused(desk.run("submit", str(desk.csv), "--no-wait"), 4, "bad ids")


def test_a_list_from_before_a_score_does_not_take_it_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.rehearsal.scoring_seconds = 0.5
    ended(desk.run("submit", str(desk.csv), "--no-wait"), 0)
    listed: Callable[[KaggleClient], Any] = KaggleClient.submissions

    def listed_before(client: KaggleClient) -> Any:
        found = listed(client)
        monkeypatch.setattr(KaggleClient, "submissions", listed)
        ended(desk.run("submit", str(desk.csv)), 0)
        return found

    monkeypatch.setattr(KaggleClient, "submissions", listed_before)
    ended(desk.run("board", "--sync"), 0)
    assert (desk.ledger()[0]["state"], desk.ledger()[0]["public"]) == ("complete", 1.0)


def test_a_listed_submission_gives_its_reference_to_a_row_that_failed(desk: Desk) -> None:
    """A proxy said no, and the submission was made all the same."""
    desk.server.disturb("CreateSubmission", lose_answer)
    desk.server.disturb("ListSubmissions", *[answer(500)] * 20)
    ended(desk.run("submit", str(desk.csv)), 6)
    desk.server.plan.clear()
    ledger = Ledger(Workspace(desk.root).ledger)
    (row,) = ledger.all(desk.slug)
    ledger.update(row.id, state="error", error="forbidden")
    desk.server.disturb("ListSubmissions", each({"status": "PENDING", "publicScore": "", "privateScore": ""}))
    ended(desk.run("board", "--sync"), 0)
    ended(desk.run("submit", str(desk.csv)), 0)
    assert len(desk.server.rehearsal.entries) == 1


def test_one_in_doubt_answers_before_one_that_is_scored(desk: Desk) -> None:
    ended(desk.run("submit", str(desk.csv)), 0)
    other = desk.csv.with_name("other.csv")
    other.write_bytes(desk.csv.read_bytes().replace(b"\n", b"\r\n"))
    desk.server.disturb("CreateSubmission", lose_answer)
    desk.server.disturb("ListSubmissions", *[answer(500)] * 20)
    ended(desk.run("submit", str(other), "--force"), 6)
    desk.server.plan.clear()
    ledger = Ledger(Workspace(desk.root).ledger)
    doubtful = next(row for row in ledger.all(desk.slug) if row.state == "sending")
    ledger.update(doubtful.id, created="2020-01-01T00:00:00.000Z")
    third = desk.csv.with_name("third.csv")
    third.write_bytes(desk.csv.read_bytes().rstrip(b"\n"))
    ended(desk.run("submit", str(third), "--force"), 0)
    assert len(desk.server.rehearsal.entries) == 2


def test_a_clock_set_forward_in_between(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doubtful submission seems to be an hour old: it is waited for all the same."""
    monkeypatch.setattr(submit_module, "_SETTLE_SECONDS", 6.0)
    desk.server.disturb("CreateSubmission", stall(3.0))
    ended(desk.run("submit", str(desk.csv)), 6)
    ledger = Ledger(Workspace(desk.root).ledger)
    (row,) = ledger.all(desk.slug)
    ledger.update(row.id, created=(datetime.fromisoformat(row.created) - timedelta(hours=1)).isoformat())
    ended(desk.run("submit", str(desk.csv)), 0)
    time.sleep(3.5)  # what stalled may still be carried out
    assert len(desk.server.rehearsal.entries) == 1


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_doubtful_submission_answers_for_the_same_rows_in_other_bytes(desk: Desk, force: tuple[str, ...]) -> None:
    desk.server.disturb("CreateSubmission", lose_answer)
    desk.server.disturb("ListSubmissions", *[answer(500)] * 20)
    ended(desk.run("submit", str(desk.csv)), 6)
    desk.server.plan.clear()
    again = desk.csv.with_name("again.csv")
    again.write_bytes(desk.csv.read_bytes().replace(b"\n", b"\r\n"))
    ended(desk.run("submit", str(again), *force), 0)
    assert len(desk.server.rehearsal.entries) == 1


def test_what_is_sent_in_place_of_a_doubtful_one_is_recorded(desk: Desk) -> None:
    desk.server.disturb("CreateSubmission", answer(500))
    ended(desk.run("submit", str(desk.csv)), 6)
    again = desk.csv.with_name("again.csv")
    again.write_bytes(desk.csv.read_bytes().replace(b"\n", b"\r\n"))
    ended(desk.run("submit", str(again)), 0)
    (entry,) = desk.server.rehearsal.entries
    assert [(line["name"], line["ref"]) for line in desk.ledger()] == [("again", entry.ref)]
    desk.csv.unlink()
    ended(desk.run("submit", str(again)), 0)
    assert len(desk.server.rehearsal.entries) == 1


def test_json_of_ones_own_beside_a_file_is_no_record(desk: Desk) -> None:
    folder = desk.root / "submissions"
    folder.mkdir()
    (folder / "mine.csv").write_bytes(desk.csv.read_bytes())
    (folder / "mine.json").write_text('["notes"]')
    for command in (("submit", "mine", "--dry-run"), ("diff", "mine", str(desk.csv)), ("explain", "mine")):
        ended(desk.run(*command), 0)
    desk.refused(desk.run("submit", "mine.json", "--dry-run"), 2, "no submission")


def test_a_file_named_like_a_submission_made_elsewhere_is_not_taken_for_it(desk: Desk) -> None:
    rows = desk.csv.read_text().splitlines()
    speaker = rows[1].partition(",")[2]
    others = [rows[0], *(row.partition(",")[0] + f",{speaker}" for row in rows[1:])]
    ref = by_hand(desk, "", "\n".join(others).encode())
    folder = desk.root / "submissions"
    folder.mkdir()
    (folder / "by-hand.csv").write_bytes(desk.csv.read_bytes())
    ended(desk.run("submit", "by-hand"), 0)
    ended(desk.run("board", "--sync"), 0)
    found = json.loads(desk.run("explain", str(ref), "--json").stdout)
    assert "made elsewhere" in found["links"][-1]["what"]
    assert [link["link"] for link in found["links"]] == ["score", "file"]
    assert "1.00000" not in found["links"][0]["what"]


def test_a_name_longer_than_a_file_name(desk: Desk) -> None:
    ref = by_hand(desk, "x" * 300)
    ended(desk.run("board", "--sync"), 0)
    ended(desk.run("explain", str(ref)), 0)
    desk.refused(desk.run("explain", "y" * 300), 2, "no submission")
