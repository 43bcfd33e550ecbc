"""The rehearsal server: protocol, scoring, persistence, and its clear refusals."""

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kaggle_support import IDS, LABELS, SLUG, Plain, Port, Server, make_competition, write_csv

from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.kaggle_client import KaggleClient
from kaggle_hw4.official_client import new_api
from kaggle_hw4.rehearsal.faults import parse
from kaggle_hw4.rehearsal.scoring import Answers, Rehearsal
from kaggle_hw4.rehearsal.server import client_environment, export_lines, serve

# --- protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "http://localhost"], ids=["origin form", "absolute form"])
def test_both_forms_of_requests(kaggle: Server, port: Port, prefix: str) -> None:
    plain = Plain(port.number, prefix)
    assert plain.call("GetSubmissionLimits", competitionName=SLUG) == (
        200,
        {"numToday": 0, "numTotal": 0, "numAllowedNow": 5, "limitedByTotal": False},
    )


@pytest.mark.parametrize("header", [{}, {"Authorization": ""}, {"Authorization": "Basic "}, {"Authorization": "x y"}])
def test_without_authorization(plain: Plain, header: dict[str, str]) -> None:
    status, answer = plain.call("ListSubmissions", headers=header, competitionName=SLUG)
    assert (status, answer) == (401, {"code": 401, "message": "Unauthenticated"})


def test_any_bearer_is_welcome(plain: Plain) -> None:
    status, _ = plain.call("ListSubmissions", headers={"Authorization": "Bearer x"}, competitionName=SLUG)
    assert status == 200


@pytest.mark.parametrize("method", ["ListSubmissions", "DownloadDataFiles", "CreateSubmission", "GetLeaderboard"])
def test_unknown_competition(plain: Plain, method: str) -> None:
    status, answer = plain.call(method, competitionName="titanic")
    assert (status, answer["code"]) == (404, 404)
    assert "titanic" in answer["message"]


def test_requests_that_make_no_sense(plain: Plain) -> None:
    path = "/api/v1/competitions.CompetitionApiService/ListSubmissions"
    assert plain.request("POST", path, b"{")[0] == 400
    assert plain.request("POST", path, b"[]")[0] == 400
    assert plain.request("GET", path)[0] == 405
    assert plain.call("LaunchCompetition")[0] == 404
    assert plain.call("GetSubmission", ref=1)[0] == 404
    assert plain.call("CreateSubmission", blobFileTokens="never uploaded")[0] == 400
    assert plain.call("ListSubmissions", pageToken="x")[0] == 400
    assert plain.request("GET", "/elsewhere")[0] == 404


def test_the_archive_and_its_parts(kaggle: Server, plain: Plain) -> None:
    content = kaggle.rehearsal.archive.read_bytes()
    path = "/api/v1/competitions.CompetitionApiService/DownloadDataFiles"
    status, headers, _ = plain.request("POST", path, json.dumps({"competitionName": SLUG}).encode())
    assert status == 302
    blob = "/" + headers["location"].split("/", 3)[3]
    assert blob.endswith(f"/{SLUG}.zip")
    status, headers, body = plain.request("GET", blob, headers={})
    assert (status, body) == (200, content)
    assert headers["x-goog-hash"] == f"md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"
    assert headers["last-modified"].endswith("GMT")
    right, wrong = {"Range": "bytes=100-", "If-Range": headers["etag"]}, {"Range": "bytes=100-", "If-Range": '"x"'}
    assert plain.request("GET", blob, headers=right)[::2] == (206, content[100:])
    assert plain.request("GET", blob, headers=wrong)[::2] == (200, content)
    assert plain.request("GET", blob, headers={"Range": f"bytes={len(content)}-"})[0] == 416


def test_the_unmodified_client_does_it_all(kaggle: Server, tmp_path: Path, capsys: Any) -> None:
    """The official class's own methods, one after the other, as a script of a user would call them."""
    new_api()  # imports the client with its HOME aside
    from kaggle.api.kaggle_api_extended import KaggleApi

    class Api(KaggleApi):
        args = ["--local"]  # noqa: RUF012 - the client's own way, read from the environment at import

    api = Api()
    api.authenticate()
    files = api.competition_list_files(SLUG)
    assert [file.name for file in files.files] == ["Dataset/metadata.json", "Dataset/uttr-0.pt"]
    api.competition_download_files(SLUG, path=str(tmp_path))
    assert (tmp_path / f"{SLUG}.zip").read_bytes() == kaggle.rehearsal.archive.read_bytes()
    api.competition_download_file(SLUG, "Dataset/uttr-0.pt", path=str(tmp_path))
    (single,) = tmp_path.rglob("uttr-0.pt")  # 2.2.5 keeps the folder that 2.2.4 drops
    assert single.stat().st_size == 256 * 8192
    kaggle.rehearsal.scoring_seconds = 0.0
    answer = api.competition_submit(str(write_csv(tmp_path / "s.csv", LABELS)), "by the client", SLUG, quiet=True)
    assert SLUG in answer.message
    (submission,) = api.competition_submissions(SLUG)
    assert (submission.ref, submission.public_score, submission.private_score) == (answer.ref, "1.00000", "1.00000")
    assert api.competition_get_submission_limits(SLUG).num_allowed_now == 4
    (leader,) = api.competition_leaderboard_view(SLUG)
    assert leader.score == "1.00000"
    api.competition_leaderboard_download(SLUG, str(tmp_path / "board"))
    with zipfile.ZipFile(tmp_path / "board" / f"{SLUG}.zip") as board:
        assert b"1.00000" in board.read(f"{SLUG}-publicleaderboard.csv")


# --- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["#1.csv", "a?b.csv", "50%41.csv", "my file ü.csv"])
def test_a_file_of_any_name_can_be_sent(kaggle: Server, name: str) -> None:
    client = KaggleClient(SLUG)
    ref = client.create(client.upload(name, b"Id,Category\n"), "x")
    assert [(entry.ref, entry.file_name) for entry in kaggle.rehearsal.entries] == [(ref, name)]


def test_halves_are_fixed_and_equal(competition_folder: Path) -> None:
    answers = Answers.read(competition_folder / "labels.csv")
    assert len(answers.public) == len(answers.private) == 6
    assert {**answers.public, **answers.private} == LABELS
    write_csv(competition_folder / "labels.csv", dict(reversed(LABELS.items())))
    assert Answers.read(competition_folder / "labels.csv") == answers


def test_each_half_scores_its_own(plain: Plain, kaggle: Server) -> None:
    private_only = {name: LABELS[name] if name in kaggle.rehearsal.answers.private else "id0" for name in IDS}
    _, answer = plain.submit(private_only)
    _, submission = plain.call("GetSubmission", ref=answer["ref"])
    assert (submission["status"], submission["publicScore"], submission["privateScore"]) == (
        "COMPLETE",
        "0.00000",
        "1.00000",
    )


def test_pending_first(plain: Plain, kaggle: Server) -> None:
    kaggle.rehearsal.scoring_seconds = 3600.0
    _, answer = plain.submit(LABELS)
    _, submission = plain.call("GetSubmission", ref=answer["ref"])
    assert submission["status"] == "PENDING"
    assert "publicScore" not in submission
    assert plain.call("GetLeaderboard", competitionName=SLUG)[1]["submissions"] == []


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (dict(list(LABELS.items())[1:]), "12 rows, this one has 11"),
        ({**dict(list(LABELS.items())[1:]), "other.pt": "id00001"}, f"{IDS[0]} is missing"),
    ],
)
def test_a_wrong_file_ends_as_error(plain: Plain, labels: dict[str, str], text: str) -> None:
    _, answer = plain.submit(labels)
    _, submission = plain.call("GetSubmission", ref=answer["ref"])
    assert submission["status"] == "ERROR"
    assert text in submission["errorDescription"]


def test_five_a_day(plain: Plain, kaggle: Server) -> None:
    for _ in range(5):
        assert plain.submit(LABELS)[0] == 200
    assert plain.call("GetSubmissionLimits", competitionName=SLUG)[1]["numAllowedNow"] == 0
    status, answer = plain.submit(LABELS)
    assert (status, len(kaggle.rehearsal.entries)) == (400, 5)
    assert "5 a day" in answer["message"]


def test_pages_newest_first(plain: Plain) -> None:
    refs = [plain.submit(LABELS, str(number))[1]["ref"] for number in range(3)]
    _, first = plain.call("ListSubmissions", competitionName=SLUG, pageSize=2)
    assert [item["ref"] for item in first["submissions"]] == [refs[2], refs[1]]
    _, second = plain.call("ListSubmissions", competitionName=SLUG, pageSize=2, pageToken=first["nextPageToken"])
    assert [item["ref"] for item in second["submissions"]] == [refs[0]]
    assert "nextPageToken" not in second


def test_submissions_outlive_the_server_and_yesterdays_do_not_count(
    plain: Plain, kaggle: Server, competition_folder: Path
) -> None:
    plain.submit(LABELS, "kept")
    again = Rehearsal(competition_folder)
    assert again.entries == kaggle.rehearsal.entries
    assert again.used_today() == 1
    file = competition_folder / "server.json"
    stored = json.loads(file.read_text())
    stored[0]["date"] = "2023-04-01" + stored[0]["date"][10:]
    file.write_text(json.dumps(stored))
    assert Rehearsal(competition_folder).used_today() == 0


# --- serve -------------------------------------------------------------------------------------


def test_folders_that_are_no_competition(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 zip files"):
        serve(tmp_path)
    folder = make_competition(tmp_path / "c")
    (folder / "second.zip").write_bytes(b"")
    with pytest.raises(DataError, match="2 zip files"):
        serve(folder)
    (folder / "second.zip").unlink()
    (folder / f"{SLUG}.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="no readable zip file"):
        serve(folder)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "is missing"),
        ("Id,Speaker\na,b\n", "first line"),
        ("Id,Category\na,b,c\n", "row 2"),
        ("Id,Category\na,b\na,b\n", "row 3 repeats Id a"),
        ("Id,Category\na,b\n", "has 1 rows"),
    ],
)
def test_answers_that_are_no_answers(competition_folder: Path, content: str | None, text: str) -> None:
    labels = competition_folder / "labels.csv"
    labels.unlink() if content is None else labels.write_text(content)
    with pytest.raises(DataError, match=text):
        serve(competition_folder)


@pytest.mark.parametrize("content", ["{", '[{"ref": 1}]', "3"])
def test_a_broken_list_of_submissions(competition_folder: Path, content: str) -> None:
    (competition_folder / "server.json").write_text(content)
    with pytest.raises(DataError, match=r"server\.json"):
        serve(competition_folder)


def test_a_port_that_cannot_be_had(competition_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="is in use"):
        serve(competition_folder, taken.getsockname()[1])
    with pytest.raises(UsageError, match="70000"):
        serve(competition_folder, 70000)


def test_a_folder_is_served_once_at_a_time(competition_folder: Path) -> None:
    with served(competition_folder), pytest.raises(UsageError, match="another process serves it"):
        serve(competition_folder)


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    code = (
        "import sys; from pathlib import Path; from kaggle_hw4.rehearsal.server import serve\n"
        "serve(Path(sys.argv[1]), on_ready=lambda port: print(port, flush=True)); print('done')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_it_cleanly_and_a_restart_knows_its_submissions(competition_folder: Path) -> None:
    with served(competition_folder) as (process, port):
        assert Plain(port).submit(LABELS)[0] == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "done\n", "")
    with served(competition_folder) as (_, port):
        assert Plain(port).call("GetSubmissionLimits", competitionName=SLUG)[1]["numTotal"] == 1


# --- the environment ---------------------------------------------------------------------------


def test_the_environment_for_tests_leaves_no_way_out(tmp_path: Path) -> None:
    variables = client_environment(8123, tmp_path)
    assert variables["KAGGLE_API_ENVIRONMENT"] == "LOCALHOST"
    assert variables["HTTP_PROXY"] == variables["http_proxy"] == "http://127.0.0.1:8123"
    assert variables["NO_PROXY"] == variables["no_proxy"] == ""
    assert variables["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert variables["HOME"] == str(tmp_path)


def test_export_lines_set_what_is_needed_and_leave_home_alone() -> None:
    script = "\n".join([*export_lines(8123), "env"])
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": os.environ["PATH"], "HOME": "/h"}, capture_output=True, text=True
    )
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert client_environment(8123).items() <= seen.items()
    assert seen["HOME"] == "/h"
    assert "HTTPS_PROXY" not in seen


def test_a_fault_names_a_method_that_there_is() -> None:
    assert (parse("cut").method, parse("stall@any").method, parse("stall@CreateSubmission*2").times) == ("GET", "*", 2)
    for text, said in (("cut@Nonsense", "no method 'Nonsense'"), ("sulk", "no fault 'sulk'"), ("cut@*", "no fault")):
        with pytest.raises(UsageError, match=said):
            parse(text)
