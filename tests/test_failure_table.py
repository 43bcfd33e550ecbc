"""What goes wrong between a user and Kaggle, a row of docs/kaggle.md each.

The commands run whole, through the official client as it is installed, against the rehearsal server
and its faults. Every test holds exit code, message, the requests made, and what is left on disk.
"""

import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import tiny
from desk import KEY, SIGINT, SIGKILL, Desk, make_desk, without_credentials
from kaggle_support import SLUG, Port

from kaggle_hw4.rehearsal.faults import ALWAYS, FAULTS, Planned, answer, json_answer, refusal

CONTENT = tiny.files(shortest=500, longest=700)  # 3 MB: many pieces


@pytest.fixture
def desk(tmp_path: Path, port: Port, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A workspace without data yet."""
    return make_desk(tmp_path, port, monkeypatch, CONTENT)


@pytest.fixture
def packed(desk: Desk) -> Desk:
    """A workspace with data, ready to submit."""
    assert desk.run("data").exit_code == 0
    desk.requests()
    return desk


# --- credentials and access --------------------------------------------------------------------


def test_no_credentials(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    without_credentials(monkeypatch)
    places = ("KAGGLE_API_TOKEN", "~/.kaggle/access_token", "KAGGLE_USERNAME", "kaggle.json", "credentials.json")
    desk.refused(desk.run("data"), 4, *places)
    assert desk.requests() == []


def test_wrong_key(desk: Desk) -> None:
    desk.server.rehearse("unauthorized")
    desk.refused(desk.run("data"), 4, f"does not accept the {KEY} (401)")
    assert desk.requests() == ["DownloadDataFiles"]


def test_stale_token_beside_a_good_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.rehearse("stale-token")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789")
    desk.refused(desk.run("data"), 4, "token from KAGGLE_API_TOKEN", "unset KAGGLE_API_TOKEN")
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert desk.run("data").exit_code == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "not valid JSON"), ('{"username": "u"}', "has no key"), ('{"username": "u", "key": ""}', "has no key")],
)
def test_malformed_or_keyless_kaggle_json(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, content: str, problem: str
) -> None:
    file = without_credentials(monkeypatch) / "kaggle.json"
    file.write_text(content)
    desk.refused(desk.run("data"), 4, f"{file}: {problem}")
    assert desk.requests() == []


@pytest.mark.parametrize(
    "fault",
    [refusal(403, "Forbidden"), json_answer(403, {"error": {"code": 403, "message": "Accept first"}})],
    ids=["flat", "nested"],
)
def test_rules_not_accepted(desk: Desk, fault: object) -> None:
    desk.server.plan.append(Planned("", fault))  # type: ignore[arg-type]
    desk.refused(desk.run("data"), 4, f"https://www.kaggle.com/competitions/{SLUG}/rules", "no other way")
    assert desk.requests() == ["DownloadDataFiles"]
    assert not desk.part.exists()


def test_unknown_competition(desk: Desk) -> None:
    desk.refused(desk.run("data", "--competition", "titanic"), 4, "no competition titanic")
    assert desk.requests() == ["DownloadDataFiles"]


@pytest.mark.parametrize("address", ["https://www.kaggle.com/competitions/{}/data", "https://kaggle.com/c/{}?x=1"])
def test_an_address_instead_of_a_slug(desk: Desk, address: str) -> None:
    assert desk.run("data", "--competition", address.format(SLUG)).exit_code == 0
    assert desk.whole()


# --- answers that are none ---------------------------------------------------------------------


def test_too_many_requests(desk: Desk) -> None:
    desk.server.rehearse("rate-limit@DownloadDataFiles")
    assert desk.run("data").exit_code == 0
    assert desk.requests() == ["DownloadDataFiles", "DownloadDataFiles", "GET"]
    desk.server.disturb("ListSubmissions", answer(429, retry_after="3600"))
    desk.refused(desk.run("board", "--sync"), 5, "429", "Try again in 3600 seconds")
    assert desk.requests() == ["ListSubmissions"]


def test_server_errors_are_tried_again(packed: Desk) -> None:
    packed.server.rehearse("unavailable", "bad-gateway")
    assert packed.run("board", "--sync").exit_code == 0
    assert packed.requests() == [*["ListSubmissions"] * 3, "GetSubmissionLimits"]
    packed.server.rehearse("bad-gateway*99")
    packed.refused(packed.run("board", "--sync"), 5, "error 502", "run the same command again")
    assert len(packed.requests()) <= 4


@pytest.mark.parametrize("fault", ["broken-json", "html"])
@pytest.mark.parametrize("command", ["data", "submit", "board --sync"])
def test_no_sense_in_the_answer(packed: Desk, command: str, fault: str) -> None:
    packed.server.rehearse(fault)
    if command == "data":
        packed.root = packed.root / "another"
    arguments = [*command.split(), *([str(packed.csv)] if command == "submit" else [])]
    packed.refused(packed.run(*arguments), 5, "unexpected answer from the server", "a proxy or a sign-in page")
    assert len(packed.requests()) == 1
    assert not packed.part.exists()


def test_a_proxy_that_forbids(packed: Desk) -> None:
    """An HTML page with 403 is no word of Kaggle's on the rules."""
    packed.server.disturb("*", answer(403, b"<html>Blocked</html>", content_type="text/html"))
    packed.refused(packed.run("board", "--sync"), 5, "unexpected answer from the server (403)", "a proxy")


def test_nothing_listens(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    desk.refused(desk.run("data"), 5, "cannot be reached", "run the same command again")


def test_the_connection_breaks_off(packed: Desk) -> None:
    packed.server.rehearse("reset")
    assert packed.run("board", "--sync").exit_code == 0
    assert packed.requests() == [*["ListSubmissions"] * 2, "GetSubmissionLimits"]
    packed.server.rehearse("reset*99")
    packed.refused(packed.run("board", "--sync"), 5, "broke the connection off")
    assert len(packed.requests()) <= 4


@pytest.mark.parametrize("method", ["DownloadDataFiles", "GET"])
@pytest.mark.parametrize("fault", ["stall", "drip"])
def test_a_stalled_download_ends(desk: Desk, fault: str, method: str) -> None:
    if (fault, method) == ("drip", "GET"):
        return  # bytes arrive, and the progress bar tells how long it will take
    desk.server.rehearse(f"{fault}@{method}")
    desk.refused(desk.run("data"), 5, "did not answer in time")
    assert not desk.archive.exists()


@pytest.mark.parametrize("fault", ["stall", "drip"])
def test_a_stalled_submission_ends(packed: Desk, fault: str) -> None:
    packed.server.rehearse(fault)
    packed.refused(packed.run("submit", str(packed.csv)), 5, "did not answer in time")
    assert set(packed.requests()) == {"GetSubmissionLimits"}
    assert packed.ledger() == []


def test_a_stall_after_the_submission_is_no_doubt(packed: Desk) -> None:
    packed.server.rehearse("stall@GetSubmission*9")
    result = packed.run("submit", str(packed.csv))
    (entry,) = packed.server.rehearsal.entries
    packed.refused(result, 5, "did not answer in time", f"submission {entry.ref} is made and recorded")
    packed.server.plan.clear()
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    assert len(packed.server.rehearsal.entries) == 1


# --- the archive -------------------------------------------------------------------------------


def ranges(desk: Desk) -> list[str]:
    """Where the requests for the archive began, in a list that grows."""
    seen: list[str] = []

    async def noting(app, scope, receive, send):  # type: ignore[no-untyped-def]
        seen.append(dict(scope["headers"]).get(b"range", b"").decode())
        await app(scope, receive, send)

    desk.server.plan.append(Planned("", noting, "GET", ALWAYS))
    return seen


def test_cut_in_the_middle(desk: Desk) -> None:
    desk.server.rehearse("cut")
    seen = ranges(desk)
    assert desk.run("data").exit_code == 0
    assert desk.whole()
    first, rest = seen
    assert first == ""
    assert 1_000_000 < int(rest.removeprefix("bytes=").removesuffix("-")) <= 1_500_000


@pytest.mark.parametrize(("end", "code"), [(SIGKILL, -9), (SIGINT, 130)], ids=["kill", "Ctrl-C"])
def test_killed_or_interrupted_and_run_again(desk: Desk, end: int, code: int) -> None:
    desk.server.rehearse("slow")
    process = desk.interrupt_download(end)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    kept = desk.part.stat().st_size
    assert 0 < kept < desk.server.rehearsal.archive.stat().st_size
    assert not desk.archive.exists()
    desk.server.plan.clear()
    seen = ranges(desk)
    assert desk.run("data").exit_code == 0
    assert desk.whole()
    assert seen == ["", f"bytes={kept}-"]


def test_an_expired_address(desk: Desk) -> None:
    """What has arrived survives the refusal, and a fresh address is asked for."""
    desk.server.rehearse("cut", "expired*2")
    seen = ranges(desk)
    assert desk.run("data").exit_code == 0
    assert desk.whole()
    assert desk.requests().count("DownloadDataFiles") == 4
    assert seen[-1].startswith("bytes=1")  # not from the start


def test_an_address_that_stays_expired_keeps_what_arrived(desk: Desk) -> None:
    desk.server.rehearse("cut", "expired*99")
    desk.refused(desk.run("data"), 5, "file store answered with error 403")
    assert desk.part.stat().st_size > 1_000_000
    assert not desk.archive.exists()


def test_a_tampered_part(desk: Desk) -> None:
    desk.server.rehearse("slow")
    desk.interrupt_download(SIGKILL).communicate(timeout=30)
    desk.server.plan.clear()
    desk.part.write_bytes(bytes(desk.part.stat().st_size))
    assert desk.run("data").exit_code == 0
    assert desk.whole()


@pytest.mark.parametrize("place", ["archive", "part"])
def test_a_wrong_file_of_full_size(desk: Desk, place: str) -> None:
    file: Path = getattr(desk, place)
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(desk.server.rehearsal.archive.stat().st_size))
    assert desk.run("data").exit_code == 0
    assert desk.whole(aside=place == "archive")


@pytest.mark.parametrize("fault", ["corrupt", "truncated"])
def test_a_corrupt_or_truncated_body(desk: Desk, fault: str) -> None:
    desk.server.rehearse(fault)
    assert desk.run("data").exit_code == 0
    assert desk.whole()
    assert desk.requests() == ["DownloadDataFiles", "GET"] * 2


@pytest.mark.parametrize("fault", ["corrupt*9", "truncated*9"])
def test_nothing_corrupt_is_left(desk: Desk, fault: str) -> None:
    desk.server.rehearse(fault)
    desk.refused(desk.run("data"), 5, "damaged twice")
    assert desk.left() == set()


def test_no_room_on_the_disk(desk: Desk) -> None:
    desk.server.rehearse("huge")
    desk.refused(desk.run("data"), 3, "GiB are still to come", "GiB are free", "--root")
    assert desk.requests() == ["DownloadDataFiles", "GET"]
    assert desk.left() == set()


def test_an_archive_that_went_bad_on_the_disk_is_fetched_again(desk: Desk) -> None:
    """By a fault that leaves its size and time as they were: what was verified is not verified anew."""
    assert desk.run("data").exit_code == 0
    shutil.rmtree(desk.root / "data" / "store")
    noted = desk.archive.stat().st_mtime_ns
    blob = bytearray(desk.archive.read_bytes())
    blob[len(blob) // 2] ^= 1
    desk.archive.write_bytes(blob)
    os.utime(desk.archive, ns=(noted, noted))
    desk.refused(desk.run("data"), 3, "damaged", "Download it again and repeat the command.")
    assert desk.run("data").exit_code == 0
    assert desk.whole(aside=True)


def test_an_archive_that_is_there_takes_no_account(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert desk.run("data").exit_code == 0
    shutil.rmtree(desk.root / "data" / "store")
    desk.requests()
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(desk.root))
    desk.refused(desk.run("submit", str(desk.csv)), 3, "no data in")
    result = desk.run("data")
    assert result.exit_code == 0, result.output
    assert desk.requests() == []


def test_the_clients_leaderboard_takes_the_archives_name(desk: Desk) -> None:
    """Done by hand with the official client; `data` is not fooled. This project downloads none."""
    from kaggle_hw4.official_client import new_api

    api = new_api()
    api.authenticate()
    api.competition_leaderboard_download(SLUG, str(desk.archive.parent))
    with zipfile.ZipFile(desk.archive) as taken:
        assert taken.namelist() == [f"{SLUG}-publicleaderboard.csv"]
    assert desk.run("data").exit_code == 0
    assert desk.whole(aside=True)


# --- the submission ----------------------------------------------------------------------------


def submitted_once(desk: Desk) -> None:
    """One submission on Kaggle and in the ledger, scored."""
    (line,) = desk.ledger()
    (entry,) = desk.server.rehearsal.entries
    assert (line["ref"], line["state"], line["public"]) == (entry.ref, "complete", 1.0)


def test_a_failed_upload_is_made_again(packed: Desk) -> None:
    packed.server.rehearse("upload")
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    assert packed.requests()[:5] == [
        "GetSubmissionLimits",
        *("StartSubmissionUpload", "PUT") * 2,
    ]
    submitted_once(packed)


def test_an_upload_that_keeps_failing(packed: Desk) -> None:
    packed.server.rehearse("upload*99")
    packed.refused(packed.run("submit", str(packed.csv)), 5, "file store answered with error 503")
    assert "CreateSubmission" not in packed.requests()
    assert packed.ledger() == []


@pytest.mark.parametrize("fault", ["unavailable", "rate-limit", "bad-gateway", "stall", "html", "reset"])
def test_a_submission_that_fails_is_looked_up_not_repeated(packed: Desk, fault: str) -> None:
    packed.server.rehearse(f"{fault}@CreateSubmission*1")
    packed.refused(packed.run("submit", str(packed.csv)), 6, "not known; its id is hw4-", "Run the same command again")
    made = packed.requests()
    assert made.count("CreateSubmission") == 1
    assert made[-1] == "ListSubmissions"
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    again = packed.requests()
    assert again.index("ListSubmissions") < again.index("CreateSubmission")
    submitted_once(packed)


def test_a_lost_answer(packed: Desk) -> None:
    packed.server.rehearse("lost-answer")
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    assert packed.requests().count("CreateSubmission") == 1
    submitted_once(packed)


def test_the_daily_limit(packed: Desk) -> None:
    packed.server.rehearse("no-slots")
    packed.refused(packed.run("submit", str(packed.csv)), 4, "no submissions left today (5 made)", "00:00 UTC")
    assert packed.requests() == ["GetSubmissionLimits"]
    assert packed.ledger() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("Category", "Label"), ["its first line is 'Id,Label'"]),
        (lambda text: text[: text.rindex("uttr-")], ["7 rows instead of 8", "the first missing is uttr-"]),
        (lambda text: text.replace("uttr-", "1.2E+", 1), ["line 2: '1.2E+", "which has 'uttr-", "a spreadsheet"]),
    ],
    ids=["columns", "rows", "ids"],
)
def test_a_file_that_would_end_as_an_error(packed: Desk, tmp_path: Path, change, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    bad = tmp_path / "bad.csv"
    bad.write_text(change(packed.csv.read_text()))
    packed.refused(packed.run("submit", str(bad)), 3, *words)
    packed.refused(packed.run("submit", str(bad), "--dry-run"), 3, *words)
    assert packed.requests() == []
    assert packed.ledger() == []


def test_kaggles_error_is_shown_with_its_reason_or_without(packed: Desk) -> None:
    packed.server.rehearse("no-reason*1")
    packed.refused(packed.run("submit", str(packed.csv)), 4, "could not score submission", "it gives no reason")
    (line,) = packed.ledger()
    assert line["state"] == "error"
    packed.requests()
    packed.refused(packed.run("submit", str(packed.csv)), 4, "--force")
    assert packed.requests() == []


def test_pending_for_long(packed: Desk) -> None:
    packed.server.rehearse("pending")
    result = packed.run("submit", str(packed.csv), "--timeout", "0.5")
    (entry,) = packed.server.rehearsal.entries
    packed.refused(result, 6, f"submission {entry.ref} is not scored after", "board --sync")
    packed.server.plan.clear()
    assert packed.run("board", "--sync").exit_code == 0
    submitted_once(packed)
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    assert packed.requests().count("CreateSubmission") == 1


def test_all_pages_of_the_list(packed: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them by this project, the rest made elsewhere."""
    from kaggle_hw4 import kaggle_client

    monkeypatch.setattr(kaggle_client, "_PAGE", 2)
    packed.server.rehearsal.scoring_seconds = 0.0
    assert packed.run("submit", str(packed.csv)).exit_code == 0
    assert packed.run("submit", str(packed.csv), "--force").exit_code == 0
    client = kaggle_client.KaggleClient(SLUG)
    for number in range(3):
        client.create(client.upload("s.csv", packed.csv.read_bytes()), f"elsewhere {number}")
    packed.requests()
    assert packed.run("board", "--sync").exit_code == 0
    assert packed.requests() == [*["ListSubmissions"] * 3, "GetLeaderboard", "GetSubmissionLimits"]
    assert {line["ref"] for line in packed.ledger()} == {entry.ref for entry in packed.server.rehearsal.entries}


@pytest.mark.parametrize("method", ["StartSubmissionUpload", "CreateSubmission"])
@pytest.mark.parametrize(
    ("status", "text"), [(400, "The competition is closed"), (403, "The deadline has passed"), (404, "Not found")]
)
def test_a_closed_competition(packed: Desk, method: str, status: int, text: str) -> None:
    packed.server.disturb(method, refusal(status, text))
    result = packed.run("submit", str(packed.csv))
    packed.refused(result, 4, "closed", f"https://www.kaggle.com/competitions/{SLUG}")
    assert "rules" not in result.stderr
    assert packed.requests().count(method) == 1
    assert packed.server.rehearsal.entries == []


def test_no_wait_and_dry_run(packed: Desk) -> None:
    assert packed.run("submit", str(packed.csv), "--dry-run").exit_code == 0
    assert packed.requests() == []
    result = packed.run("submit", str(packed.csv), "--no-wait")
    assert result.exit_code == 0
    assert "not scored yet" in result.stdout
    assert packed.requests()[-1] == "CreateSubmission"
    (line,) = packed.ledger()
    assert line["state"] == "sent"


# --- the page ----------------------------------------------------------------------------------


def test_the_page_names_every_fault_and_only_tests_that_exist() -> None:
    page = Path("docs/kaggle.md").read_text(encoding="utf-8")
    table = page[page.index("| failure |") :]
    named = set(re.findall(r"`(test_\w+)`", table))
    sources = "".join(path.read_text(encoding="utf-8") for path in Path("tests").glob("test_*.py"))
    assert named <= set(re.findall(r"def (test_\w+)", sources))
    assert set(FAULTS) <= set(re.findall(r"`([a-z-]+)`", table))
