"""A tiny competition, and the rehearsal server with faults wrapped around it."""

import asyncio
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggle_hw4.rehearsal.scoring import Rehearsal
from kaggle_hw4.rehearsal.server import build_app, listen

SLUG = "ml2023springhw4"
SPEAKERS = ["id00001", "id00002", "id00003"]
IDS = [f"uttr-{number:032x}.pt" for number in range(12)]
LABELS = {name: SPEAKERS[number % 3] for number, name in enumerate(IDS)}

Fault = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]


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


class Server:
    """The rehearsal server; counts requests, and disturbs the next ones of a method on demand."""

    def __init__(self, folder: Path) -> None:
        self.rehearsal = Rehearsal(folder, scoring_seconds=0.2)
        self.requests: list[str] = []
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._app = build_app(self.rehearsal)

    def disturb(self, method: str, *faults: Fault) -> None:
        """The next requests to `method` (the last part of the path; `PUT` for an upload) meet these faults."""
        self._faults[method] += faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "PUT" if scope["method"] == "PUT" else scope["path"].rsplit("/", 1)[-1]
        self.requests.append(method)
        fault = self._faults[method].pop(0) if self._faults[method] else None
        await (fault(self._app, scope, receive, send) if fault else self._app(scope, receive, send))


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer this instead; header names with _ for -."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return fault


def json_error(status: int, body: bytes) -> Fault:
    return answer(status, body, content_type="application/json")


async def lose_answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Do what is asked, then break the connection off instead of answering."""

    async def swallow(message: Any) -> None:
        pass

    await app(scope, receive, swallow)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})


async def stall(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Say nothing for longer than any test waits."""
    await asyncio.sleep(1)


def cut_after(size: int) -> Fault:
    """Break the body off after so many bytes."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        left = size

        async def cutting(message: Any) -> None:
            nonlocal left
            if message["type"] == "http.response.body":
                if left <= 0:
                    return
                message = {**message, "body": message["body"][:left], "more_body": True}
                left -= len(message["body"])
            await send(message)

        await app(scope, receive, cutting)

    return fault


def altered(change: Callable[[bytes], bytes] = bytes, *, without: tuple[bytes, ...] = ()) -> Fault:
    """The right answer with another body of the same length, and without some of its headers."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def altering(message: Any) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": change(message["body"])}
            else:
                kept = [(name, value) for name, value in message["headers"] if name not in without]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, altering)

    return fault


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
        config = uvicorn.Config(port, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
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
