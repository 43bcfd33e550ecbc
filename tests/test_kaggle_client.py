"""The adapter, driving the unmodified official client against the rehearsal server and its faults."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from kaggle_support import LABELS, SLUG, Server, write_csv
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggle_hw4 import archive_download, archive_file, kaggle_client
from kaggle_hw4.credentials import find_credential, kaggle_json_problem
from kaggle_hw4.errors import DataError, HW4Error, RefusedError, UnavailableError, UsageError
from kaggle_hw4.kaggle_client import KaggleClient, Limits, MaybeSentError
from kaggle_hw4.rehearsal.faults import answer, body, cut_after, json_answer, stall


def no_progress(done: int, total: int) -> None:
    pass


def submit(client: KaggleClient, path: Path, description: str) -> int:
    return client.create(client.upload(path.name, path.read_bytes()), description)


def archive_of(server: Server) -> bytes:
    return server.rehearsal.archive.read_bytes()


# --- import and credentials -------------------------------------------------------------------


def test_importing_the_module_imports_no_client() -> None:
    code = "import kaggle_hw4.kaggle_client, sys; sys.exit(bool({'kaggle', 'requests'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_client_that_cannot_be_imported_is_named(kaggle: Server) -> None:
    """Its package lacks six among its dependencies, so it may be missing."""
    code = (
        "import sys\n"
        "sys.modules['six'] = None\n"
        "from kaggle_hw4.errors import UsageError\n"
        "from kaggle_hw4.kaggle_client import KaggleClient\n"
        "client = KaggleClient('ml2023springhw4')\n"
        "for ask in (client.check_access, client.submissions):\n"
        "    try:\n"
        "        ask()\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("six") >= 2
    assert done.stdout.count("pip install") == 2
    assert kaggle.requests == []


def test_no_credentials_names_every_place() -> None:
    with pytest.raises(RefusedError) as caught:
        KaggleClient(SLUG)
    for place in ("KAGGLE_API_TOKEN", "access_token", "KAGGLE_USERNAME", "kaggle.json", "credentials.json"):
        assert place in str(caught.value)


@pytest.fixture
def kaggle_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".kaggle"
    folder.mkdir()
    return folder


def test_credentials_in_the_order_of_the_client(kaggle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kaggle_folder / "credentials.json").write_text('{"refresh_token": "r"}')
    assert str(find_credential()) == "OAuth from ~/.kaggle/credentials.json"
    (kaggle_folder / "kaggle.json").write_text('{"username": "u", "key": "k"}')
    assert str(find_credential()) == f"key from {kaggle_folder / 'kaggle.json'}"
    monkeypatch.setenv("KAGGLE_USERNAME", "u")
    monkeypatch.setenv("KAGGLE_KEY", "k")
    assert str(find_credential()) == "key from KAGGLE_USERNAME and KAGGLE_KEY"
    (kaggle_folder / "access_token").write_text("t")
    assert str(find_credential()) == "token from ~/.kaggle/access_token"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t")
    assert str(find_credential()) == "token from KAGGLE_API_TOKEN"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "not valid JSON"),
        ('{"username": "u"}', "has no key"),
        ("{}", "has no username and no key"),
    ],
)
def test_a_broken_kaggle_json_is_named(
    content: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "kaggle.json").write_text(content)
    with pytest.raises(RefusedError) as caught:
        find_credential()
    assert caught.value.cause == kaggle_json_problem() == f"{tmp_path / 'kaggle.json'}: {problem}"


def test_what_takes_a_credential_away_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my keys"
    folder.mkdir()
    (folder / "kaggle.json").write_text('{"username": "somebody", "key": "0123456789abcdef"}')
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(folder))
    assert shlex.split(find_credential().removal) == ["rm", str(folder / "kaggle.json")]


def test_what_no_token_holds_is_refused_before_it_is_sent(kaggle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("KGAT_0123\n", "KGAT 0123", "KGAT_0123\N{NO-BREAK SPACE}"):
        with monkeypatch.context() as patch:
            patch.setenv("KAGGLE_API_TOKEN", value)
            with pytest.raises(RefusedError, match="the token from KAGGLE_API_TOKEN holds a character that no token"):
                find_credential()
    (kaggle_folder / "kaggle.json").write_text('{"username": "u", "key": "k\\n"}')
    with pytest.raises(RefusedError, match=r"the key from .*kaggle\.json holds a character that no key"):
        find_credential()
    (kaggle_folder / "access_token").write_text("KGAT_0123\n")  # the client strips files
    assert str(find_credential()) == "token from ~/.kaggle/access_token"


@pytest.mark.parametrize(
    ("name", "value", "kind", "text"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", UnavailableError, "pip install pysocks, or unset ALL_PROXY"),
        ("HTTP_PROXY", "http://:9", UsageError, "HTTP_PROXY"),
        ("KAGGLE_API_ENVIRONMENT", "PRODUCTION", UsageError, "unset KAGGLE_API_ENVIRONMENT"),
    ],
)
def test_settings_that_lead_nowhere_are_named(
    kaggle: Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str, kind: type[HW4Error], text: str
) -> None:
    if name.endswith("_PROXY"):
        monkeypatch.delenv("HTTP_PROXY")
        monkeypatch.delenv("http_proxy")
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(kind) as caught:
        KaggleClient(SLUG).check_access()
    assert text in str(caught.value)
    assert kaggle.requests == []


def test_an_upload_that_is_sent_elsewhere_is_told_at_once(kaggle: Server, tmp_path: Path) -> None:
    async def elsewhere(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 307, "headers": [(b"location", b"http://localhost/x")]}
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    kaggle.disturb("PUT", elsewhere)
    with pytest.raises(UnavailableError, match=r"unexpected answer from the server \(307\)"):
        KaggleClient(SLUG).upload("s.csv", b"x")
    assert kaggle.requests.count("PUT") == 1


def test_a_stale_token_is_named_with_its_source(kaggle: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "stale-secret")
    kaggle.disturb("IntrospectToken", json_answer(401, b'{"code": 401, "message": "Unauthenticated"}'))
    with pytest.raises(RefusedError) as caught:
        KaggleClient(SLUG).limits()
    assert "token from KAGGLE_API_TOKEN" in str(caught.value)
    assert "unset KAGGLE_API_TOKEN" in str(caught.value)
    assert "stale-secret" not in str(caught.value)


def test_a_good_token_works(kaggle: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "good")
    assert KaggleClient(SLUG).submissions() == []
    assert kaggle.requests == ["IntrospectToken", "ListSubmissions"]


# --- what Kaggle refuses, and what goes wrong --------------------------------------------------

FAILURES = [
    (401, b'{"code": 401, "message": "Unauthenticated"}', RefusedError, "key from KAGGLE_USERNAME and"),
    (403, b'{"code": 403, "message": "Forbidden"}', RefusedError, f"competitions/{SLUG}/rules"),
    (403, b'{"error": {"code": 403, "message": "Accept first"}}', RefusedError, "Accept first"),
    (404, b'{"code": 404, "message": "Not found"}', RefusedError, f"no competition {SLUG}"),
    (400, b'{"code": 400, "message": "The competition is closed"}', RefusedError, "competition is closed"),
    (200, b'{"submissions": [', UnavailableError, "unexpected answer"),
    (200, b'{"submissions": [{"ref": "none"}]}', UnavailableError, "unexpected answer"),
    (200, b'{"submissions": 3}', UnavailableError, "unexpected answer"),
    (501, b"{}", UnavailableError, "501"),
]


@pytest.mark.parametrize(("status", "body", "kind", "text"), FAILURES)
def test_answers_that_are_not_tried_again(
    kaggle: Server, status: int, body: bytes, kind: type[HW4Error], text: str
) -> None:
    kaggle.disturb("ListSubmissions", json_answer(status, body))
    with pytest.raises(kind) as caught:
        KaggleClient(SLUG).submissions()
    assert text in str(caught.value)
    assert kaggle.requests == ["ListSubmissions"]


def test_a_proxy_that_answers_html(kaggle: Server) -> None:
    kaggle.disturb("ListSubmissions", answer(200, b"<html>Sign in</html>", content_type="text/html"))
    with pytest.raises(UnavailableError, match="unexpected answer"):
        KaggleClient(SLUG).submissions()


def test_passing_failures_of_reads_are_tried_again(kaggle: Server) -> None:
    kaggle.disturb("ListSubmissions", answer(502, b"<html>Bad gateway</html>"), answer(429, retry_after="1"))
    assert KaggleClient(SLUG).submissions() == []
    assert kaggle.requests == ["ListSubmissions"] * 3


def test_a_long_retry_after_is_told_not_waited_for(kaggle: Server) -> None:
    kaggle.disturb("ListSubmissions", answer(429, retry_after="3600"))
    with pytest.raises(UnavailableError, match="3600 seconds"):
        KaggleClient(SLUG).submissions()


def test_retry_after_of_the_file_store_is_the_least_wait(
    kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("kaggle_hw4.kaggle_calls.time.sleep", waits.append)
    kaggle.disturb("PUT", answer(503, retry_after="7"), answer(429, retry_after="3600"))
    with pytest.raises(UnavailableError, match=r"429(.|\n)*3600 seconds"):
        KaggleClient(SLUG).upload("s.csv", b"Id,Category\n")
    assert waits == [7.0]


def test_a_server_that_stalls(kaggle: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._PATIENCE_SECONDS", 1.0)
    kaggle.disturb("ListSubmissions", stall(), stall())
    with pytest.raises(UnavailableError, match="did not answer in time"):
        KaggleClient(SLUG).submissions()


def test_nothing_listens(kaggle: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_hw4.kaggle_calls._PATIENCE_SECONDS", 0.1)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        KaggleClient(SLUG).submissions()


# --- the archive -------------------------------------------------------------------------------


def test_download_verifies_and_is_not_repeated(
    kaggle: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int]] = []
    client = KaggleClient(SLUG)
    path = client.download_archive(tmp_path / "data", lambda done, total: seen.append((done, total)))
    size = len(archive_of(kaggle))
    assert path == tmp_path / "data" / f"{SLUG}.zip"
    assert path.read_bytes() == archive_of(kaggle)
    assert seen[-1] == (size, size)
    assert kaggle.requests == ["DownloadDataFiles", "GET"]
    assert client.download_archive(tmp_path / "data", no_progress) == path
    assert len(kaggle.requests) == 2
    assert capsys.readouterr().out == ""


def test_a_changed_archive_is_fetched_again(kaggle: Server, tmp_path: Path) -> None:
    client = KaggleClient(SLUG)
    path = client.download_archive(tmp_path, no_progress)
    path.write_bytes(bytes(len(archive_of(kaggle))))
    assert client.download_archive(tmp_path, no_progress).read_bytes() == archive_of(kaggle)


def test_an_archive_put_there_by_hand_is_verified_not_fetched(kaggle: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SLUG}.zip").write_bytes(archive_of(kaggle))
    path = KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert path.read_bytes() == archive_of(kaggle)
    assert archive_file.is_recorded(path)


def test_another_archive_put_there_is_set_aside_unharmed(
    kaggle: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "elsewhere" / "own.zip"
    own.parent.mkdir()
    own.write_bytes(b"the user's")
    final = tmp_path / f"{SLUG}.zip"
    for aside in ("aside-1", "aside-2"):
        final.unlink(missing_ok=True)
        final.symlink_to(own)
        assert KaggleClient(SLUG).download_archive(tmp_path, no_progress).read_bytes() == archive_of(kaggle)
        assert f"kept as {final.name}.{aside}" in capsys.readouterr().err
        assert own.read_bytes() == final.with_name(f"{final.name}.{aside}").read_bytes() == b"the user's"


def test_an_archive_put_there_stays_when_kaggle_does_not_answer(kaggle: Server, tmp_path: Path) -> None:
    final = tmp_path / f"{SLUG}.zip"
    final.write_bytes(b"the user's")
    kaggle.disturb("DownloadDataFiles", json_answer(403, b'{"code": 403, "message": "Permission denied"}'))
    with pytest.raises(RefusedError):
        KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert final.read_bytes() == b"the user's"


def test_a_cut_download_goes_on_where_it_stopped(kaggle: Server, tmp_path: Path) -> None:
    kaggle.disturb("GET", cut_after(1_500_000))
    path = KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert path.read_bytes() == archive_of(kaggle)
    assert sorted(file.name for file in tmp_path.iterdir() if SLUG in file.name) == [
        f".{SLUG}.zip.lock",
        f"{SLUG}.zip",
        f"{SLUG}.zip.json",
    ]


def test_an_interrupted_download_keeps_its_part_and_resumes(
    kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle.disturb("GET", cut_after(1_500_000))
    with monkeypatch.context() as patch:
        patch.setattr("kaggle_hw4.archive_download.time.sleep", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    part = tmp_path / f"{SLUG}.zip.part"
    assert 1_000_000 <= part.stat().st_size <= 1_500_000
    assert not (tmp_path / f"{SLUG}.zip").exists()
    ranges: list[bytes] = []

    async def noting(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        ranges.extend(value for name, value in scope["headers"] if name == b"range")
        await app(scope, receive, send)

    kaggle.disturb("GET", noting, noting)
    resumed_from = part.stat().st_size
    path = KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert path.read_bytes() == archive_of(kaggle)
    assert ranges == [f"bytes={resumed_from}-".encode()]


def _interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_a_server_that_tells_nothing_of_the_file(kaggle: Server, tmp_path: Path) -> None:
    told = (b"content-length", b"etag", b"last-modified", b"accept-ranges", b"x-goog-hash")
    kaggle.disturb("GET", body(without=told))
    seen: list[tuple[int, int]] = []
    path = KaggleClient(SLUG).download_archive(tmp_path, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == archive_of(kaggle)
    assert seen[-1] == (len(archive_of(kaggle)), 0)


def test_a_body_without_end_stops_before_the_disk_is_full(
    kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle.disturb("GET", body(without=(b"content-length",)))
    monkeypatch.setattr(archive_download, "_LOOK_BYTES", 2**20)
    free = iter([2**30, 2**19])
    monkeypatch.setattr(archive_file.shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(free)))
    with pytest.raises(DataError, match="GiB are free"):
        KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert (tmp_path / f"{SLUG}.zip.part").stat().st_size < len(archive_of(kaggle))


@pytest.mark.parametrize("without", [(), (b"x-goog-hash",)], ids=["hash", "no hash"])
def test_a_corrupt_body_of_the_right_length_is_fetched_again(
    kaggle: Server, tmp_path: Path, without: tuple[bytes, ...]
) -> None:
    kaggle.disturb("GET", body(lambda body: bytes(len(body)), without=without))
    path = KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert path.read_bytes() == archive_of(kaggle)
    assert kaggle.requests.count("DownloadDataFiles") == 2


def test_twice_corrupt_leaves_nothing(kaggle: Server, tmp_path: Path) -> None:
    zeros = body(lambda body: bytes(len(body)))
    kaggle.disturb("GET", zeros, zeros)
    with pytest.raises(UnavailableError, match="damaged twice"):
        KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock" and file.is_file()] == []


def test_a_wrong_part_of_full_size_is_thrown_away(kaggle: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SLUG}.zip.part").write_bytes(b"x" * len(archive_of(kaggle)))
    assert KaggleClient(SLUG).download_archive(tmp_path, no_progress).read_bytes() == archive_of(kaggle)


def test_an_expired_address_is_asked_for_anew(kaggle: Server, tmp_path: Path) -> None:
    kaggle.disturb("GET", answer(403, b"<Error>Expired</Error>", content_type="application/xml"))
    assert KaggleClient(SLUG).download_archive(tmp_path, no_progress).read_bytes() == archive_of(kaggle)
    assert kaggle.requests.count("DownloadDataFiles") == 2


def test_too_little_space_is_said_at_once(kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(archive_file.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(DataError, match="GiB are free"):
        KaggleClient(SLUG).download_archive(tmp_path, no_progress)
    assert not (tmp_path / f"{SLUG}.zip").exists()


# --- submissions -------------------------------------------------------------------------------


def test_slots_are_known_or_said_to_be_unknown(kaggle: Server, tmp_path: Path) -> None:
    client = KaggleClient(SLUG)
    assert client.limits() == Limits(used_today=0, allowed_now=5, limited_by_total=False)
    kaggle.disturb("GetSubmissionLimits", json_answer(404, b'{"code": 404, "message": "Not found"}'))
    assert client.limits() is None
    kaggle.disturb("GetSubmissionLimits", json_answer(200, b"{}"))
    assert client.limits() is None


def test_submission_and_its_score(kaggle: Server, tmp_path: Path) -> None:
    client = KaggleClient(SLUG)
    path = write_csv(tmp_path / "right.csv", LABELS)
    ref = submit(client, path, "all right")
    assert ref is not None
    pending = client.submission(ref)
    assert pending is not None
    assert (pending.status, pending.public, pending.description) == ("PENDING", None, "all right")
    kaggle.rehearsal.entries = [replace(entry, due=0.0) for entry in kaggle.rehearsal.entries]
    done = client.submission(ref)
    assert done is not None
    assert (done.status, done.public, done.private) == ("COMPLETE", "1.00000", "1.00000")


def test_all_pages_are_read(kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_client, "_PAGE", 2)
    client = KaggleClient(SLUG)
    path = write_csv(tmp_path / "s.csv", LABELS)
    refs = [submit(client, path, f"number {number}") for number in range(5)]
    assert [item.ref for item in client.submissions()] == refs[::-1]
    assert kaggle.requests.count("ListSubmissions") == 3


def test_a_server_without_single_submissions_or_paging(kaggle: Server) -> None:
    """Somebody else's server: scores as numbers, fields left out, a next page that is the same page."""
    listing = b'{"submissions": [{"ref": 7, "status": "COMPLETE", "publicScore": 0.5}], "nextPageToken": "again"}'
    kaggle.disturb("GetSubmission", json_answer(404, b'{"code": 404, "message": "Not found"}'))
    kaggle.disturb("ListSubmissions", *[json_answer(200, listing)] * 2)
    found = KaggleClient(SLUG).submission(7)
    assert found is not None
    assert (found.public, found.private, found.date, found.description) == ("0.5", None, None, "")


def test_the_upload_is_tried_again_but_not_the_submission(kaggle: Server, tmp_path: Path) -> None:
    kaggle.disturb("PUT", answer(503))
    path = write_csv(tmp_path / "s.csv", LABELS)
    assert submit(KaggleClient(SLUG), path, "x")
    assert kaggle.requests.count("CreateSubmission") == 1
    kaggle.disturb("CreateSubmission", answer(500), answer(500))
    with pytest.raises(MaybeSentError):
        submit(KaggleClient(SLUG), path, "y")
    assert kaggle.requests.count("CreateSubmission") == 2


def test_a_refused_submission_was_surely_not_made(kaggle: Server, tmp_path: Path) -> None:
    client = KaggleClient(SLUG)
    path = write_csv(tmp_path / "s.csv", LABELS)
    for _ in range(5):
        submit(client, path, "x")
    with pytest.raises(RefusedError, match="5 a day") as caught:
        submit(client, path, "one too many")
    assert not isinstance(caught.value, MaybeSentError)
    assert len(client.submissions()) == 5
