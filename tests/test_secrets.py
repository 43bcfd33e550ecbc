"""No secret in an output, a log, the ledger or any other file; nothing of the client's in HOME; no way out."""

import base64
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tiny
from desk import Desk, make_desk, without_credentials
from kaggle_support import Port
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggle_hw4 import doctor
from kaggle_hw4.rehearsal.faults import refusal

CONTENT = tiny.files()
TOKEN, KEY, REFRESH = "KGAT_fedcba9876543210", "0123456789abcdef0123456789abcdef", "refresh-5566778899"


@pytest.fixture
def desk(tmp_path: Path, port: Port, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(doctor, "_imports", list)  # 5 s, and not what this is about
    return make_desk(tmp_path, port, monkeypatch, CONTENT)


def oauth(folder: Path, expires: timedelta) -> None:
    content = {
        "refresh_token": REFRESH,
        "access_token": TOKEN,
        "access_token_expiration": (datetime.now(UTC) + expires).isoformat(),
        "username": "somebody",
    }
    (folder / "credentials.json").write_text(json.dumps(content))


def token_file_of_the_environment(folder: Path, setenv: Callable[[str, str], None]) -> None:
    (folder / "my_token").write_text(TOKEN)
    setenv("KAGGLE_API_TOKEN", str(folder / "my_token"))


def key_of_the_environment(folder: Path, setenv: Callable[[str, str], None]) -> None:
    setenv("KAGGLE_USERNAME", "somebody")
    setenv("KAGGLE_KEY", KEY)


KINDS = {
    "token from KAGGLE_API_TOKEN": lambda folder, setenv: setenv("KAGGLE_API_TOKEN", TOKEN),
    "token from KAGGLE_API_TOKEN ": token_file_of_the_environment,
    "token from ~/.kaggle/access_token": lambda folder, setenv: (folder / "access_token").write_text(TOKEN + "\n"),
    "key from KAGGLE_USERNAME and KAGGLE_KEY": key_of_the_environment,
    "key from ": lambda folder, setenv: (folder / "kaggle.json").write_text(
        json.dumps({"username": "somebody", "key": KEY})
    ),
    "OAuth from ~/.kaggle/credentials.json": lambda folder, setenv: oauth(folder, timedelta(days=1)),
    "OAuth from ~/.kaggle/credentials.json ": lambda folder, setenv: oauth(folder, -timedelta(days=1)),
}


async def telltale(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A server that repeats the credentials it was sent."""
    sent = dict(scope["headers"]).get(b"authorization", b"").decode()
    await refusal(403, f"Denied to {sent}, {TOKEN}, {KEY} or {REFRESH}")(app, scope, receive, send)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_credential_works_and_is_never_shown(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.DEBUG)
    KINDS[kind](without_credentials(monkeypatch), monkeypatch.setenv)
    commands = (["doctor"], ["data"], ["submit", str(desk.csv)], ["board", "--sync"], ["board", "--csv"])
    shown = []
    for command in commands:
        result = desk.run(*command)
        assert result.exit_code == 0 or "disk" in result.output, result.output
        shown.append(result.output)
    assert kind.strip() in " ".join(shown[0].split())
    for method in ("DownloadDataFiles", "CreateSubmission", "ListSubmissions"):
        desk.server.disturb(method, telltale)
    for command in (["doctor", "--json"], ["submit", str(desk.csv), "--force"], ["board", "--sync"]):
        result = desk.run(*command)
        assert result.exit_code in (3, 4)
        assert "Denied to" in result.output
        shown.append(result.output)
    desk.server.rehearse("unauthorized")
    shown.append(desk.run("board", "--sync").output)
    assert "401" in shown[-1]
    files = [path for path in desk.root.rglob("*") if path.is_file()]
    assert {"ledger.sqlite", "store.json"} <= {path.name for path in files}
    everything = "".join([*shown, caplog.text]).encode() + b"".join(path.read_bytes() for path in files)
    for secret in _secrets_of(kind):
        assert secret.encode() not in everything


def _secrets_of(kind: str) -> set[str]:
    if kind.startswith("key"):
        return {KEY, base64.b64encode(f"somebody:{KEY}".encode()).decode()}
    if kind.startswith("token"):
        return {TOKEN}
    stored = json.loads((Path(os.environ["HOME"]) / ".kaggle" / "credentials.json").read_text())
    return {REFRESH, stored["access_token"]}  # the one in use: the client may have renewed it


def test_a_token_of_a_hosted_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kaggle_hw4.credentials import find_credential, redacted

    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("KAGGLE_DATA_PROXY_URL", "http://localhost")
    monkeypatch.setenv("KAGGLE_API_V1_TOKEN", str(tmp_path / "token"))
    assert str(find_credential()) == "token from KAGGLE_API_V1_TOKEN"
    assert redacted(f"Bearer {TOKEN}!") == "Bearer …!"


# --- the client's import -----------------------------------------------------------------------


def test_only_one_module_imports_the_client() -> None:
    found = set()
    for path in Path("kaggle_hw4").rglob("*.py"):
        lines = [line.split() for line in path.read_text().splitlines()]
        words = [line[1].split(".")[0] for line in lines if len(line) > 1 and line[0] in ("import", "from")]
        if {"kaggle", "kagglesdk"} & set(words):
            found.add(path.name)
    assert found == {"official_client.py"}


@pytest.mark.parametrize("home", ["with a token", "empty", "not writable"])
def test_the_import_prints_nothing_writes_nothing_and_asks_nobody(tmp_path: Path, home: str) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    if home == "with a token":
        (folder / ".kaggle").mkdir()
        (folder / ".kaggle" / "access_token").write_text(TOKEN)
    before = sorted(folder.rglob("*"))
    code = (
        "import os, sys\n"
        "def hook(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): os._exit(7)\n"
        "sys.addaudithook(hook)\n"
        "before = dict(os.environ)\n"
        "from kaggle_hw4 import official_client\n"
        "official_client.new_api()\n"
        "assert 'kaggle' in sys.modules and dict(os.environ) == before\n"
    )
    where = "/proc/no/home" if home == "not writable" else str(folder)
    environment = os.environ | {"HOME": where, "VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(folder.rglob("*")) == before


# --- the tests themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('192.0.2.1', 80), 1)",
        "socket.getaddrinfo('api.kaggle.com', 443)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
        "socket.gethostbyname('api.kaggle.com')",
        "socket.gethostbyname_ex('api.kaggle.com')",
        "socket.gethostbyaddr('192.0.2.1')",
        "socket.getnameinfo(('192.0.2.1', 80), 0)",
    ],
)
def test_no_test_can_leave_the_machine(attempt: str) -> None:
    with pytest.raises(PermissionError, match="tried to reach"):
        eval(attempt, {"socket": socket})
    done = subprocess.run([sys.executable, "-c", f"import socket; {attempt}"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "PermissionError: a test tried to reach" in done.stderr
