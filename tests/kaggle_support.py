"""A tiny competition, the rehearsal server with faults wrapped around it, and a client that knows only HTTP."""

import base64
import http.client
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from kaggle_hw4.rehearsal.faults import Disturbed, Fault, Planned, method_of, parse
from kaggle_hw4.rehearsal.scoring import Rehearsal
from kaggle_hw4.rehearsal.server import build_app, client_environment, listen

SLUG = "ml2023springhw4"
SPEAKERS = ["id00001", "id00002", "id00003"]
IDS = [f"uttr-{number:032x}.pt" for number in range(12)]
LABELS = {name: SPEAKERS[number % 3] for number, name in enumerate(IDS)}
AUTH = {"Authorization": "Basic " + base64.b64encode(b"user:key").decode()}


def make_competition(folder: Path, slug: str = SLUG) -> Path:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{slug}.zip", "w") as archive:
        archive.writestr("Dataset/metadata.json", "{}")
        archive.writestr("Dataset/uttr-0.pt", bytes(range(256)) * 8192)  # 2 MiB: several pieces
    write_csv(folder / "labels.csv", LABELS)
    return folder


def write_csv(path: Path, labels: dict[str, str]) -> Path:
    rows = "".join(f"{name},{label}\n" for name, label in labels.items())
    path.write_text("Id,Category\n" + rows, encoding="utf-8")
    return path


class Server(Disturbed):
    """The rehearsal server; notes requests, and disturbs the next ones of a method on demand."""

    def __init__(self, folder: Path) -> None:
        self.rehearsal = Rehearsal(folder, scoring_seconds=0.2)
        self.requests: list[str] = []
        super().__init__(build_app(self.rehearsal))

    def disturb(self, method: str, *faults: Fault) -> None:
        """The next requests to `method` (PUT: an upload, GET: the archive) meet these faults."""
        self.plan += [Planned("", fault, method) for fault in faults]

    def rehearse(self, *names: str) -> None:
        """Faults as `rehearsal serve --fault` takes them."""
        self.plan += [parse(name) for name in names]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests.append(method_of(scope))
        await super().__call__(scope, receive, send)


class Port:
    """One port for all tests, since starting and stopping a listener takes longer than most of them."""

    server: Server

    def __init__(self, number: int) -> None:
        self.number = number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.server(scope, receive, send)


@contextmanager
def running() -> Iterator[Port]:
    with listen(0) as listener:
        port = Port(listener.getsockname()[1])
        options: dict[str, Any] = {"lifespan": "off", "timeout_graceful_shutdown": 1, "date_header": False}
        config = uvicorn.Config(port, log_level="critical", **options)
        runner = uvicorn.Server(config)
        thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not runner.started:
            time.sleep(0.01)
        try:
            yield port
        finally:
            runner.should_exit = True
            thread.join()


def serve(port: Port, competition: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server for one test alone, which the unmodified client in this process, at home in `home`, is pointed at."""
    port.server = Server(competition)
    home.mkdir()
    for name, value in client_environment(port.number, home).items():
        monkeypatch.setenv(name, value)
    return port.server


class Plain:
    """A client that knows nothing but HTTP: requests in origin form or, with a prefix, in absolute form."""

    def __init__(self, port: int, prefix: str = "") -> None:
        self.port = port
        self.prefix = prefix

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, self.prefix + path, body, AUTH if headers is None else headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def call(self, method: str, headers: dict[str, str] | None = None, **message: Any) -> tuple[int, Any]:
        path = f"/api/v1/competitions.CompetitionApiService/{method}"
        status, _, content = self.request("POST", path, json.dumps(message).encode(), headers)
        return status, json.loads(content)

    def submit(self, labels: dict[str, str], description: str = "") -> tuple[int, Any]:
        content = ("Id,Category\n" + "".join(f"{name},{label}\n" for name, label in labels.items())).encode()
        _, started = self.call("StartSubmissionUpload", fileName="s.csv", contentLength=len(content))
        path = started["createUrl"].split("/", 3)[3]
        assert self.request("PUT", f"/{path}", content, {})[0] == 201
        return self.call(
            "CreateSubmission",
            competitionName=SLUG,
            blobFileTokens=started["token"],
            submissionDescription=description,
        )
