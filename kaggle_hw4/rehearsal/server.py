"""A local Kaggle-compatible server: the unmodified official client downloads from it and submits to it.

It listens on the loopback interface only and serves one folder: `<slug>.zip`, the archive, and
`labels.csv`, the answers. The submissions live in `server.json` beside them.
"""

import csv
import errno
import io
import json
import secrets
import shlex
import socket
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kaggle_hw4.errors import UsageError
from kaggle_hw4.rehearsal.faults import Disturbed, Planned
from kaggle_hw4.rehearsal.scoring import (
    SUBMISSIONS_PER_DAY,
    TEAM,
    Refusal,
    Rehearsal,
)

_UPLOAD_LIMIT = 64 * 2**20  # bytes; the real competition's submission has 0.4 MB


class _Api:
    """The methods of Kaggle's API; each takes the request's JSON object and gives the answer's."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal

    async def call(self, request: Request) -> Response:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("basic", "bearer") or not credential.strip():
            raise HTTPException(401, "Unauthenticated")
        try:
            message = json.loads(await request.body() or b"{}")
        except ValueError:
            raise HTTPException(400, "the request is not JSON") from None
        if not isinstance(message, dict):
            raise HTTPException(400, "the request is not a JSON object")
        method = _METHODS.get((request.path_params["service"], request.path_params["method"]))
        if method is None:
            raise HTTPException(404, "Not found")
        asked_for = message.get("competitionName", self._rehearsal.slug)
        if asked_for != self._rehearsal.slug:
            raise HTTPException(404, f"Competition not found: {asked_for}")
        answer = method(self, message, f"http://{request.headers.get('host', 'localhost')}")
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    def introspect_token(self, message: dict[str, Any], base: str) -> Any:
        return {"active": True, "username": TEAM}

    def generate_access_token(self, message: dict[str, Any], base: str) -> Any:
        return {"token": secrets.token_urlsafe(16), "expiresIn": 43200, "userName": TEAM}

    def list_data_files(self, message: dict[str, Any], base: str) -> Any:
        files = [
            {
                "ref": info.filename,
                "name": info.filename,
                "totalBytes": info.file_size,
                "creationDate": datetime(*info.date_time).isoformat() + "Z",
            }
            for info in self._rehearsal.members
        ]
        return _page(files, message, "files")

    def download_data_files(self, message: dict[str, Any], base: str) -> Any:
        return RedirectResponse(f"{base}/blobs/{self._rehearsal.archive.name}", 302)

    def download_data_file(self, message: dict[str, Any], base: str) -> Any:
        name = message.get("fileName")
        if name not in {info.filename for info in self._rehearsal.members}:
            raise HTTPException(404, f"File not found: {name}")
        return RedirectResponse(f"{base}/blobs/files/{name}", 302)

    def start_submission_upload(self, message: dict[str, Any], base: str) -> Any:
        if int(message.get("contentLength", 0)) > _UPLOAD_LIMIT:
            raise HTTPException(400, f"the file is larger than {_UPLOAD_LIMIT} bytes")
        name = Path(str(message.get("fileName", "submission.csv"))).name
        token = secrets.token_urlsafe(16)
        return {"token": token, "createUrl": f"{base}/uploads/{token}/{name}"}

    def create_submission(self, message: dict[str, Any], base: str) -> Any:
        entry = self._rehearsal.submit(
            str(message.get("blobFileTokens", "")), str(message.get("submissionDescription", ""))
        )
        return {"message": f"Successfully submitted to {self._rehearsal.slug}", "ref": entry.ref}

    def get_submission_limits(self, message: dict[str, Any], base: str) -> Any:
        used = self._rehearsal.used_today()
        return {
            "numToday": used,
            "numTotal": len(self._rehearsal.entries),
            "numAllowedNow": max(0, SUBMISSIONS_PER_DAY - used),
            "limitedByTotal": False,
        }

    def list_submissions(self, message: dict[str, Any], base: str) -> Any:
        newest_first = [entry.answer() for entry in reversed(self._rehearsal.entries)]
        return _page(newest_first, message, "submissions")

    def get_submission(self, message: dict[str, Any], base: str) -> Any:
        for entry in self._rehearsal.entries:
            if entry.ref == message.get("ref"):
                return entry.answer()
        raise HTTPException(404, f"Submission not found: {message.get('ref')}")

    def get_leaderboard(self, message: dict[str, Any], base: str) -> Any:
        return _page(self._rehearsal.leaderboard(), message, "submissions")

    def download_leaderboard(self, message: dict[str, Any], base: str) -> Any:
        table = io.StringIO()
        columns = ["teamId", "teamName", "submissionDate", "score"]
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(self._rehearsal.leaderboard())
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{self._rehearsal.slug}-publicleaderboard.csv", table.getvalue())
        return Response(packed.getvalue(), media_type="application/zip")


_COMPETITIONS = "competitions.CompetitionApiService"
_METHODS: dict[tuple[str, str], Callable[[_Api, dict[str, Any], str], Any]] = {
    ("security.OAuthService", "IntrospectToken"): _Api.introspect_token,
    ("users.AccountService", "GenerateAccessToken"): _Api.generate_access_token,
    (_COMPETITIONS, "ListDataFiles"): _Api.list_data_files,
    (_COMPETITIONS, "DownloadDataFiles"): _Api.download_data_files,
    (_COMPETITIONS, "DownloadDataFile"): _Api.download_data_file,
    (_COMPETITIONS, "StartSubmissionUpload"): _Api.start_submission_upload,
    (_COMPETITIONS, "CreateSubmission"): _Api.create_submission,
    (_COMPETITIONS, "GetSubmissionLimits"): _Api.get_submission_limits,
    (_COMPETITIONS, "ListSubmissions"): _Api.list_submissions,
    (_COMPETITIONS, "GetSubmission"): _Api.get_submission,
    (_COMPETITIONS, "GetLeaderboard"): _Api.get_leaderboard,
    (_COMPETITIONS, "DownloadLeaderboard"): _Api.download_leaderboard,
}


def _page(items: list[dict[str, Any]], message: dict[str, Any], field: str) -> dict[str, Any]:
    try:
        size = max(1, int(message.get("pageSize") or 20))
        start = int(message.get("pageToken") or (int(message.get("page") or 1) - 1) * size)
    except ValueError:
        raise HTTPException(400, "no such page") from None
    page: dict[str, Any] = {field: items[start : start + size]}
    if start + size < len(items):
        page["nextPageToken"] = str(start + size)
    return page


class _AbsoluteForm:
    """Requests sent as to a proxy (`POST http://localhost/api/…`) become ordinary ones.

    The official client knows no address but http://localhost; it comes to our port through
    HTTP_PROXY, hence in this form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            path = urlsplit(scope["raw_path"].decode("ascii")).path or "/"
            scope = dict(scope, path=unquote(path), raw_path=path.encode("ascii"))
        await self._app(scope, receive, send)


def build_app(rehearsal: Rehearsal) -> ASGIApp:
    """The server as an ASGI application. `faults.Disturbed` can be wrapped around it."""
    api = _Api(rehearsal)

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
        content = await request.body()
        if len(content) > _UPLOAD_LIMIT:
            raise HTTPException(413, f"the file is larger than {_UPLOAD_LIMIT} bytes")
        rehearsal.uploads[request.path_params["token"]] = (request.path_params["name"], content)
        return Response(status_code=201)

    async def refuse(request: Request, error: Exception) -> Response:
        code, text = (error.status_code, error.detail) if isinstance(error, HTTPException) else (400, str(error))
        return JSONResponse({"code": code, "message": text}, code)

    routes = [
        Route("/api/v1/{service}/{method}", api.call, methods=["POST"]),
        Route(f"/blobs/{rehearsal.archive.name}", archive),
        Route("/blobs/files/{name:path}", member),
        Route("/uploads/{token}/{name}", upload, methods=["PUT"]),
    ]
    return _AbsoluteForm(Starlette(routes=routes, exception_handlers={HTTPException: refuse, Refusal: refuse}))


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
        UsageError: the port cannot be had.
    """
    app = Disturbed(build_app(Rehearsal(folder)), list(faults), on_fault)
    listener = listen(port)
    if on_ready:
        on_ready(listener.getsockname()[1])
    # The server's own log would tell of every fault as of a bug in the application.
    config = uvicorn.Config(
        app, log_level="critical" if faults else "warning", lifespan="off", timeout_graceful_shutdown=1
    )
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
