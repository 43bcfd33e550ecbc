"""A local Kaggle-compatible server: the unmodified official client downloads from it and submits to it.

It listens on the loopback interface only and serves one folder: `<slug>.zip`, the archive, and
`labels.csv`, the answers. The submissions live in `server.json` beside them.
"""

import errno
import re
import shlex
import socket
import zipfile
from collections.abc import Callable, Sequence
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

import uvicorn
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kaggle_hw4.errors import UsageError
from kaggle_hw4.rehearsal.api import UPLOAD_LIMIT, Api, body_of
from kaggle_hw4.rehearsal.faults import Disturbed, Planned
from kaggle_hw4.rehearsal.scoring import (
    TEAM,
    Refusal,
    Rehearsal,
)

_OURS = re.compile(rb"(localhost|127\.0\.0\.1)(:[0-9]{1,5})?")


class _Front:
    """Requests sent as to a proxy (`POST http://localhost/api/…`) become ordinary ones; answers get a date.

    The official client knows no address but http://localhost; it comes to our port through
    HTTP_PROXY, hence in this form. The date is given here, where a fault can change it, not by uvicorn.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"date", formatdate(usegmt=True).encode())]
            await send(message)

        if scope["type"] == "http":
            # A page in a browser may have its own name point to this machine, and ask.
            if not _OURS.fullmatch(dict(scope["headers"]).get(b"host", b"")):
                return await _refusal(400, "this server is localhost")(scope, receive, dated)
            try:
                if not scope["path"].startswith("/"):
                    path = urlsplit(scope["raw_path"].decode("ascii")).path or "/"
                    scope = dict(scope, path=unquote(path), raw_path=path.encode("ascii"))
            except ValueError:
                return await _refusal(400, "no such address")(scope, receive, dated)
        return await self._app(scope, receive, dated)


def _refusal(code: int, text: str) -> Response:
    return JSONResponse({"code": code, "message": text}, code)


def build_app(rehearsal: Rehearsal) -> ASGIApp:
    """The server as an ASGI application. `faults.Disturbed` can be wrapped around it."""
    api = Api(rehearsal)

    async def archive(request: Request) -> Response:
        # FileResponse answers Range and If-Range, and gives Content-Length, ETag and Last-Modified.
        return FileResponse(rehearsal.archive, headers={"x-goog-hash": f"md5={rehearsal.md5}"})

    async def member(request: Request) -> Response:
        with zipfile.ZipFile(rehearsal.archive) as opened:
            try:
                return Response(opened.read(request.path_params["name"]), media_type="application/octet-stream")
            except KeyError:
                raise HTTPException(404, "Not found") from None

    async def upload(request: Request) -> Response:
        content = await body_of(request, UPLOAD_LIMIT)
        rehearsal.keep(request.path_params["token"], request.path_params["name"], content)
        return Response(status_code=201)

    async def refuse(request: Request, error: Exception) -> Response:
        code, text = (error.status_code, error.detail) if isinstance(error, HTTPException) else (400, str(error))
        return _refusal(code, text)

    routes = [
        Route("/api/v1/{service}/{method}", api.call, methods=["POST"]),
        Route(f"/blobs/{rehearsal.archive.name}", archive),
        Route("/blobs/files/{name:path}", member),
        Route("/uploads/{token}/{name}", upload, methods=["PUT"]),
    ]
    return _Front(Starlette(routes=routes, exception_handlers={HTTPException: refuse, Refusal: refuse}))


def serve(
    folder: Path,
    port: int = 0,
    *,
    faults: Sequence[Planned] = (),
    on_ready: Callable[[int], None] | None = None,
    on_fault: Callable[[str, str], None] = lambda method, summary: None,
) -> None:
    """Serve `folder` on 127.0.0.1 until Ctrl-C; port 0 takes a free one, `on_ready` is told which.

    `on_fault` is told the method and the fault of every request that one of `faults` meets.

    Raises:
        DataError: archive or answers are missing or malformed.
        UsageError: the port cannot be had, or another process serves the folder.
    """
    rehearsal = Rehearsal(folder)
    try:
        with FileLock(folder / ".server.lock", timeout=0):  # two would lose each other's submissions
            _serve(rehearsal, port, faults, on_ready, on_fault)
    except Timeout:
        raise UsageError(f"{folder}: another process serves it", "Use that one, or end it with Ctrl-C.") from None


def _serve(
    rehearsal: Rehearsal,
    port: int,
    faults: Sequence[Planned],
    on_ready: Callable[[int], None] | None,
    on_fault: Callable[[str, str], None],
) -> None:
    app = Disturbed(build_app(rehearsal), list(faults), on_fault)
    listener = listen(port)
    if on_ready:
        on_ready(listener.getsockname()[1])
    # The server's own log would tell of every fault as of a bug in the application.
    level = "critical" if faults else "warning"
    config = uvicorn.Config(app, log_level=level, lifespan="off", timeout_graceful_shutdown=1, date_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the way to end a server: uvicorn has closed everything and raises the signal again
    finally:
        listener.close()


def listen(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1. Raises UsageError when the port is taken, forbidden or none."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Restarted on the same port, a server must not wait for the former one's connections to age.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = "is in use" if getattr(error, "errno", None) == errno.EADDRINUSE else f"cannot be had: {error}"
        raise UsageError(f"port {port} {reason}", "Choose another with --port, or leave it out.") from error
    return listener


def client_environment(port: int, home: Path | None = None) -> dict[str, str]:
    """The variables that point the unmodified official client at the server on `port`.

    With `home`, a folder of its own for the client, nothing of the user's own set-up is read and
    no request can leave the machine: what demo and tests use. Without, only what is needed is set.
    Set them before the client is first imported.
    """
    proxy = f"http://127.0.0.1:{port}"
    variables = {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "HTTP_PROXY": proxy,
        "http_proxy": proxy,
        "NO_PROXY": "",
        "no_proxy": "",
        "KAGGLE_USERNAME": TEAM,
        "KAGGLE_KEY": TEAM,
        "KAGGLE_API_TOKEN": "",  # one that is set would win over the key
    }
    if home is None:
        return variables
    nowhere = "http://127.0.0.1:9"
    return variables | {
        "HOME": str(home),
        "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
        "HTTPS_PROXY": nowhere,
        "https_proxy": nowhere,
    }


def export_lines(port: int) -> list[str]:
    """`client_environment` as lines for a shell."""
    return [f"export {name}={shlex.quote(value)}" for name, value in client_environment(port).items()]
