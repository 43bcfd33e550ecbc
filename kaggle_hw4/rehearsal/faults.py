"""Faults for the local server: what networks, proxies and Kaggle itself do wrong, on demand.

A fault is wrapped around the server's application. Its `method` is the last part of an API address
(`CreateSubmission`), PUT for an upload, GET for the archive, or * for any request.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kaggle_hw4.errors import UsageError
from kaggle_hw4.rehearsal.api import METHODS

Fault = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]
ALWAYS = 1 << 30
_HTML = b"<html><body>Sign in to the network</body></html>"


# --- what can happen to one request ------------------------------------------------------------


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer this instead; header names with _ for -."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):  # a client that is still sending would not listen
            pass
        await _respond(send, status, body, **headers)

    return fault


async def _respond(send: Send, status: int, body: bytes, **headers: str) -> None:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def json_answer(status: int, content: Any) -> Fault:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return answer(status, body, content_type="application/json")


def refusal(status: int, text: str) -> Fault:
    """Kaggle's usual shape of an error."""
    return json_answer(status, {"code": status, "message": text})


html = answer(200, _HTML, content_type="text/html")


async def lose_answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Do what is asked, then break the connection off instead of answering."""
    await app(scope, receive, _drop)
    await reset(app, scope, receive, send)


async def reset(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Break the connection off, nothing done."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})


async def _drop(message: Message) -> None:
    pass


def stall(seconds: float = 3600.0) -> Fault:
    """Say nothing for so long, then do what is asked, even if nobody waits for it any more."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        asked = [await receive()]
        while asked[-1].get("more_body"):
            asked.append(await receive())
        await asyncio.sleep(seconds)

        async def again() -> Message:
            return asked.pop(0) if asked else await receive()

        await app(scope, again, send)

    return fault


async def drip(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a byte a second, for ten minutes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    for _ in range(600):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(1.0)


def body(change: Callable[[bytes], bytes] = bytes, *, without: tuple[bytes, ...] = (), pause: float = 0.0) -> Fault:
    """The right answer with every piece of its body changed and delayed, and without some headers."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            if message["type"] == "http.response.body":
                await asyncio.sleep(pause)
                message = {**message, "body": change(message["body"])}
            else:
                message = {**message, "headers": [pair for pair in message["headers"] if pair[0] not in without]}
            await send(message)

        await app(scope, receive, changed)

    return fault


def cut_after(size: int, *, without: tuple[bytes, ...] = ()) -> Fault:
    """Break the body off after so many bytes; without a Content-Length that looks like its end."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        left = size

        async def cutting(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                message = {**message, "headers": [pair for pair in message["headers"] if pair[0] not in without]}
            elif left <= 0:
                return
            else:
                piece = message["body"][:left]
                left -= len(piece)
                message = {**message, "body": piece, "more_body": left > 0 or not without}
            await send(message)

        await app(scope, receive, cutting)

    return fault


def header(name: bytes, value: Callable[[], str]) -> Fault:
    """The right answer with another value of a header."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0] != name]
                message = {**message, "headers": [*kept, (name, value().encode())]}
            await send(message)

        await app(scope, receive, changed)

    return fault


def edited(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """The right answer with its JSON object changed in place."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await app(scope, receive, keep)
        content = json.loads(b"".join(message.get("body", b"") for message in messages))
        change(content)
        await _respond(send, messages[0]["status"], json.dumps(content).encode(), content_type="application/json")

    return fault


def _tomorrow() -> str:
    return formatdate(time.time() + 86400, usegmt=True)


def _each_submission(change: dict[str, Any], *without: str) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for item in content.get("submissions", [content]):
            for name in without:
                item.pop(name, None)
            item.update(change)

    return edit


# --- faults by name ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A fault of the next `times` requests to `method`; `only` of those with a header that begins so."""

    summary: str
    fault: Fault
    method: str = "*"
    times: int = 1
    only: tuple[bytes, bytes] | None = None

    def meets(self, scope: Scope) -> bool:
        name, beginning = self.only or (b"", b"")
        sent = dict(scope["headers"]).get(name, b"")
        return self.times > 0 and self.method in ("*", method_of(scope)) and sent.lower().startswith(beginning)


_SCORES = ("publicScore", "privateScore")
FAULTS = {
    "unauthorized": Planned("401 to every request", refusal(401, "Unauthenticated"), times=ALWAYS),
    "stale-token": Planned(
        "401 to every token, not to a key", refusal(401, "Unauthenticated"), "*", ALWAYS, (b"authorization", b"bearer")
    ),
    "rules": Planned("403: the rules are not accepted", refusal(403, "Forbidden"), times=ALWAYS),
    "closed": Planned(
        "400: the competition is closed", refusal(400, "The competition is closed"), "CreateSubmission", ALWAYS
    ),
    "rate-limit": Planned("429, Retry-After 1 s", answer(429, retry_after="1")),
    "unavailable": Planned("500 without a text", answer(500)),
    "bad-gateway": Planned("502 with an HTML page", answer(502, _HTML, content_type="text/html")),
    "broken-json": Planned("200 with half an object", json_answer(200, b'{"submissions": ['), times=ALWAYS),
    "html": Planned("200 with the HTML page of a proxy", html, times=ALWAYS),
    "reset": Planned("the connection breaks off unanswered", reset),
    "stall": Planned("no answer at all", stall(), times=ALWAYS),
    "drip": Planned("a byte a second, no end", drip, times=ALWAYS),
    "clock": Planned("the server's clock a day ahead", header(b"date", _tomorrow), times=ALWAYS),
    "slow": Planned("the archive at 64 kB every 0.2 s: time for Ctrl-C, a kill", body(pause=0.2), "GET", ALWAYS),
    "cut": Planned("the archive breaks off after 1.5 MB", cut_after(1_500_000), "GET"),
    "expired": Planned(
        "the archive's address has expired: 403 to a resumed download",
        answer(403, b"<Error>Expired</Error>", content_type="application/xml"), "GET", 1, (b"range", b"bytes"),
    ),
    "corrupt": Planned("the archive's bytes are wrong, its length right", body(lambda piece: bytes(len(piece))), "GET"),
    "truncated": Planned(
        "half an archive without Content-Length, as if whole",
        cut_after(1_000_000, without=(b"content-length", b"x-goog-hash")), "GET",
    ),
    "huge": Planned(
        "an archive of 1 EB: no disk has room", header(b"content-length", lambda: "1" + "0" * 18), "GET", ALWAYS
    ),
    "upload": Planned("the upload fails: 503", answer(503), "PUT"),
    "lost-answer": Planned("the submission is made, its answer lost", lose_answer, "CreateSubmission"),
    "no-list": Planned("the list of submissions fails: 500", answer(500), "ListSubmissions", ALWAYS),
    "no-slots": Planned(
        "the day's submissions are used up", edited(lambda limits: limits.update(numToday=5, numAllowedNow=0)),
        "GetSubmissionLimits", ALWAYS,
    ),
    "no-reason": Planned(
        "Kaggle's verdict on the file is an error, without a reason",
        edited(_each_submission({"status": "ERROR"}, *_SCORES, "errorDescription")), "GetSubmission", ALWAYS,
    ),
    "pending": Planned(
        "a score never comes", edited(_each_submission({"status": "PENDING"}, *_SCORES)), "GetSubmission", ALWAYS
    ),
}  # fmt: skip


def parse(text: str) -> Planned:
    """The fault written `NAME`, `NAME@METHOD`, `NAME*TIMES` or `NAME@METHOD*TIMES`. Raises UsageError."""
    found = re.fullmatch(r"([a-z-]+)(?:@(\w+))?(?:\*(\d+))?", text)
    if found is None or found[1] not in FAULTS:
        raise UsageError(f"no fault {text!r}", f"There are: {', '.join(FAULTS)}; as NAME, or NAME@METHOD*TIMES.")
    planned, methods = FAULTS[found[1]], ("GET", "PUT", *(method for _, method in METHODS))
    if found[2] not in (None, "any", *methods):
        raise UsageError(f"no method {found[2]!r}", f"There are: {', '.join(methods)}, and any.")
    return replace(
        planned, method="*" if found[2] == "any" else found[2] or planned.method, times=int(found[3] or planned.times)
    )


def listing() -> str:
    """The faults by name, a line each: name, method, how often, what happens."""
    lines = []
    for name, planned in FAULTS.items():
        times = "always" if planned.times == ALWAYS else "once"
        lines.append(f"{name:<13} {planned.method:<20} {times:<7} {planned.summary}")
    return "\n".join(lines)


@dataclass
class Disturbed:
    """An application with faults around it; each request meets the first that is left for it."""

    app: ASGIApp
    plan: list[Planned] = field(default_factory=list)
    on_fault: Callable[[str, str], None] = lambda method, summary: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for number, planned in enumerate(self.plan):
            if planned.meets(scope):
                self.plan[number] = replace(planned, times=planned.times - 1)
                self.on_fault(method_of(scope), planned.summary)
                await planned.fault(self.app, scope, receive, send)
                return
        await self.app(scope, receive, send)


def method_of(scope: Scope) -> str:
    """What a request asks for: PUT, GET or the method of Kaggle's API."""
    return scope["method"] if scope["method"] in ("PUT", "GET") else str(scope["path"]).rsplit("/", 1)[-1]
