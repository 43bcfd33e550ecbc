"""The methods of Kaggle's API that the local server knows."""

import csv
import io
import json
import secrets
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from kaggle_hw4.competition import DAILY_SLOTS
from kaggle_hw4.rehearsal.scoring import TEAM, Rehearsal
from kaggle_hw4.workspace import parse_json

UPLOAD_LIMIT = 8 << 20  # bytes; the real competition's submission has 0.4 MB
_MESSAGE_LIMIT = 1 << 20  # bytes


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request. Raises HTTPException as soon as it is longer than `most` bytes."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise HTTPException(413, f"more than {most} bytes")
    return bytes(content)


class Api:
    """The methods of Kaggle's API; each takes the request's JSON object and gives the answer's."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal

    async def call(self, request: Request) -> Response:
        """Answer a request by the method that its path names. Raises HTTPException as Kaggle refuses."""
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        asks_for_token = request.path_params["method"] == "GenerateAccessToken"  # and has none yet
        if not asks_for_token and (scheme.lower() not in ("basic", "bearer") or not credential.strip()):
            raise HTTPException(401, "Unauthenticated")
        try:
            message = parse_json(await body_of(request, _MESSAGE_LIMIT) or b"{}")
            json.dumps(message, ensure_ascii=False).encode()  # halves of a character could not be answered
        except ValueError:
            raise HTTPException(400, "the request is not JSON") from None
        if not isinstance(message, dict):
            raise HTTPException(400, "the request is not a JSON object")
        method = METHODS.get((request.path_params["service"], request.path_params["method"]))
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
        if not message.get("refreshToken"):
            raise HTTPException(401, "Unauthenticated")
        return {"token": secrets.token_urlsafe(16), "expiresIn": 43200, "userName": TEAM}

    def list_data_files(self, message: dict[str, Any], base: str) -> Any:
        """The members of the archive, on one page."""
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
        """Redirects to one member of the archive."""
        name = str(message.get("fileName"))
        if name not in {info.filename for info in self._rehearsal.members}:
            raise HTTPException(404, f"File not found: {name}")
        return RedirectResponse(f"{base}/blobs/files/{name}", 302)

    def start_submission_upload(self, message: dict[str, Any], base: str) -> Any:
        """A token, and the address that takes the file."""
        if _number(message, "contentLength", 0) > UPLOAD_LIMIT:
            raise HTTPException(400, f"the file is larger than {UPLOAD_LIMIT} bytes")
        name = Path(str(message.get("fileName", "submission.csv"))).name
        token = secrets.token_urlsafe(16)
        return {"token": token, "createUrl": f"{base}/uploads/{token}/{quote(name)}"}

    def create_submission(self, message: dict[str, Any], base: str) -> Any:
        """Makes a submission of an uploaded file."""
        entry = self._rehearsal.submit(
            str(message.get("blobFileTokens", "")), str(message.get("submissionDescription", ""))
        )
        return {"message": f"Successfully submitted to {self._rehearsal.slug}", "ref": entry.ref}

    def get_submission_limits(self, message: dict[str, Any], base: str) -> Any:
        """How many submissions were made and are left today."""
        used = self._rehearsal.used_today()
        return {
            "numToday": used,
            "numTotal": len(self._rehearsal.entries),
            "numAllowedNow": max(0, DAILY_SLOTS - used),
            "limitedByTotal": False,
        }

    def list_submissions(self, message: dict[str, Any], base: str) -> Any:
        newest_first = [entry.answer() for entry in reversed(self._rehearsal.entries)]
        return _page(newest_first, message, "submissions")

    def get_submission(self, message: dict[str, Any], base: str) -> Any:
        """One submission by its reference."""
        for entry in self._rehearsal.entries:
            if entry.ref == message.get("ref"):
                return entry.answer()
        raise HTTPException(404, f"Submission not found: {message.get('ref')}")

    def get_leaderboard(self, message: dict[str, Any], base: str) -> Any:
        """The private leaderboard unless told otherwise, as of every competition that is over."""
        return _page(self._rehearsal.leaderboard(message.get("overridePublic") is True), message, "submissions")

    def download_leaderboard(self, message: dict[str, Any], base: str) -> Any:
        """The leaderboard as a zip that holds a CSV."""
        table = io.StringIO()
        columns = ["teamId", "teamName", "submissionDate", "score"]
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(self._rehearsal.leaderboard(public=True))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{self._rehearsal.slug}-publicleaderboard.csv", table.getvalue())
        return Response(packed.getvalue(), media_type="application/zip")


_COMPETITIONS = "competitions.CompetitionApiService"
METHODS: dict[tuple[str, str], Callable[[Api, dict[str, Any], str], Any]] = {
    ("security.OAuthService", "IntrospectToken"): Api.introspect_token,
    ("users.AccountService", "GenerateAccessToken"): Api.generate_access_token,
    (_COMPETITIONS, "ListDataFiles"): Api.list_data_files,
    (_COMPETITIONS, "DownloadDataFiles"): Api.download_data_files,
    (_COMPETITIONS, "DownloadDataFile"): Api.download_data_file,
    (_COMPETITIONS, "StartSubmissionUpload"): Api.start_submission_upload,
    (_COMPETITIONS, "CreateSubmission"): Api.create_submission,
    (_COMPETITIONS, "GetSubmissionLimits"): Api.get_submission_limits,
    (_COMPETITIONS, "ListSubmissions"): Api.list_submissions,
    (_COMPETITIONS, "GetSubmission"): Api.get_submission,
    (_COMPETITIONS, "GetLeaderboard"): Api.get_leaderboard,
    (_COMPETITIONS, "DownloadLeaderboard"): Api.download_leaderboard,
}


def _number(message: dict[str, Any], field: str, default: int) -> int:
    try:
        return int(message.get(field) or default)
    except (ValueError, TypeError, OverflowError):
        raise HTTPException(400, f"{field} is no number") from None


def _page(items: list[dict[str, Any]], message: dict[str, Any], field: str) -> dict[str, Any]:
    size = max(1, _number(message, "pageSize", 20))
    start = max(0, _number(message, "pageToken", (_number(message, "page", 1) - 1) * size))
    page: dict[str, Any] = {field: items[start : start + size]}
    if start + size < len(items):
        page["nextPageToken"] = str(start + size)
    return page
