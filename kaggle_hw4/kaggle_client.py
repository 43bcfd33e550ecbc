"""The one module that imports Kaggle's official client, and hides its quirks.

The client prints on stdout, exits on its own, waits for ever, takes a corrupt file for a download
and a lost answer for a failure. Here every call has a time-out, reads are tried again for a bounded
time, and what goes wrong is one of `kaggle_hw4.errors`. Importing this module imports nothing of
Kaggle's.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from kaggle_hw4 import archive_file, kaggle_calls
from kaggle_hw4.competition import competition
from kaggle_hw4.credentials import config_dir, find_credential
from kaggle_hw4.errors import HW4Error, UnavailableError, UsageError
from kaggle_hw4.workspace import storage_errors

T = TypeVar("T")

# How long to wait for a connection, and for each piece of an answer: together with the bounded
# retries, a server that stalls or refuses ends every call within a minute.
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 15.0
_PAGE = 100
_NOT_OFFERED = (400, 404, 405, 501)  # how a server says that it does not know a method


@dataclass(frozen=True)
class Submission:
    """A submission as Kaggle shows it; the scores are its strings, None when not (yet) given."""

    ref: int
    date: str | None
    description: str
    file_name: str
    status: str
    public: str | None
    private: str | None
    error: str | None


@dataclass(frozen=True)
class Limits:
    """How many submissions were made today and how many more are allowed now."""

    used_today: int
    allowed_now: int
    limited_by_total: bool


class MaybeSentError(UnavailableError):
    """The submission was asked for, but whether Kaggle made it is not known."""


class KaggleClient:
    """One competition, through the official client.

    Every method raises RefusedError when Kaggle says no (credentials, rules, no such competition)
    and UnavailableError when it cannot be reached, stalls, or answers what makes no sense.
    """

    def __init__(self, slug: str) -> None:
        """Makes no request yet. Raises RefusedError when there are no credentials."""
        self.slug = slug
        self.credential = find_credential()
        self._context = kaggle_calls.Context(slug, competition(slug).rules_url, self.credential)
        self._authenticated: Any = None

    def check_access(self) -> None:
        """Raises as a download would, but fetches nothing: are credentials, rules and name all right?"""
        with self._api().build_kaggle_client() as kaggle:
            self._ask_for_archive(kaggle).close()

    def download_archive(self, folder: Path, progress: archive_file.Progress) -> Path:
        """Fetch `<slug>.zip` into `folder`, going on where an earlier attempt stopped, and verify it.

        `progress` is called with the bytes that have arrived and those expected (0: not known),
        from another thread. A file verified before is not fetched again. Nothing unverified ever
        has the final name.

        Raises:
            DataError: not enough space, or the folder cannot be written.
            UsageError: another process is downloading to the same folder.
            UnavailableError: also when the archive arrived damaged twice.
        """
        final = folder / f"{self.slug}.zip"
        part = folder / f"{self.slug}.zip.part"
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(folder / f".{self.slug}.zip.lock", timeout=0):
                    return self._download(final, part, progress)
            except Timeout:
                raise UsageError(f"{folder}: another process is downloading to it", "Let it finish.") from None

    def _download(self, final: Path, part: Path, progress: archive_file.Progress) -> Path:
        if archive_file.is_recorded(final):
            return final
        if final.exists():
            os.replace(final, part)  # put there by hand or changed since: believed only once verified
        problem = ""
        for _ in range(2):
            expected = self._fetch(part, progress)
            problem = archive_file.problem(part, expected)
            if not problem:
                os.replace(part, final)
                archive_file.record(final, expected)
                return final
            part.unlink()
            part.with_name(f"{part.name}.kaggle-partial").unlink(missing_ok=True)
        raise UnavailableError(
            f"the archive arrived damaged twice: {problem}", "Try again later; nothing of it was kept."
        )

    def _fetch(self, part: Path, progress: archive_file.Progress) -> archive_file.Expected:
        """Bring `part` to its full length. As long as something arrives, it is tried again."""
        stalled = 0
        while True:
            before = archive_file.size_of(part)
            with (
                self._api().build_kaggle_client() as kaggle,
                closing(self._ask_for_archive(kaggle)) as answer,
            ):
                expected = archive_file.Expected.of(answer.headers)
                if expected.size is not None and archive_file.size_of(part) == expected.size:
                    return expected
                archive_file.check_space(part.parent, (expected.size or 0) - archive_file.size_of(part))
                try:
                    with archive_file.watching(part, expected.size or 0, progress):
                        self._receive(answer, part, kaggle)
                    return expected
                except UnavailableError:
                    stalled = 0 if archive_file.size_of(part) > before else stalled + 1
                    if stalled == 2:
                        raise
            time.sleep(1.0)

    def _ask_for_archive(self, kaggle: Any) -> Any:
        # A fresh address each time: the former one may have expired, and the client would then
        # write the server's error message over the file.
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        request = ApiDownloadDataFilesRequest()
        request.competition_name = self.slug
        return self._call(lambda: kaggle.competitions.competition_api_client.download_data_files(request))

    def _receive(self, answer: Any, part: Path, kaggle: Any) -> None:
        # No tries of the client's own (max_retries): they would use the same address again.
        api = self._api()
        options = {"quiet": True, "resume": True, "max_retries": 0, "timeout": _READ_SECONDS}
        self._call(lambda: api.download_file(answer, str(part), kaggle.http_client(), **options), attempts=1)

    def limits(self) -> Limits | None:
        """How many submissions are left; None when the server does not tell."""
        api = self._api()
        try:
            answer = self._call(lambda: api.competition_get_submission_limits(self.slug))
        except HW4Error as error:
            if kaggle_calls.status_of(error) in _NOT_OFFERED:
                return None
            raise
        if not (answer.num_today or answer.num_total or answer.num_allowed_now):
            return None  # what Kaggle answers before the first submission
        return Limits(answer.num_today, answer.num_allowed_now, answer.limited_by_total)

    def submissions(self) -> list[Submission]:
        """All submissions, all pages, as the server orders them (newest first)."""
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        api = self._api()
        found: dict[int, Submission] = {}
        request = ApiListSubmissionsRequest()
        request.competition_name = self.slug
        request.page_size = _PAGE
        with api.build_kaggle_client() as kaggle:
            while True:
                page, token = self._call(lambda: _page(kaggle, request))
                new = {item.ref: item for item in page if item.ref not in found}
                found |= new
                # A server that does not know paging gives the same page again.
                if not token or not new:
                    return list(found.values())
                request.page_token = token

    def submission(self, ref: int) -> Submission | None:
        """One submission; None when Kaggle does not know it."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

        api = self._api()
        request = ApiGetSubmissionRequest()
        request.ref = ref
        try:
            with api.build_kaggle_client() as kaggle:
                return self._call(
                    lambda: _submission(kaggle.competitions.competition_api_client.get_submission(request))
                )
        except HW4Error as error:
            if kaggle_calls.status_of(error) not in _NOT_OFFERED:
                raise
        return next((item for item in self.submissions() if item.ref == ref), None)

    def submit(self, path: Path, description: str) -> int | None:
        """Upload `path` and submit it once; gives the reference if the server tells it.

        The upload is tried again, the submission itself never.

        Raises:
            MaybeSentError: no clear answer came: look for `description` in the list.
        """
        api = self._api()

        def attempt() -> int | None:
            return int(api.competition_submit(str(path), description, self.slug, quiet=True).ref) or None

        try:
            return self._call(attempt, may_retry=lambda: not api.uploaded)
        except HW4Error as error:
            status = kaggle_calls.status_of(error)
            refused = status is not None and 400 <= status < 500 and status not in (408, 429)
            if not api.uploaded or refused:
                raise
            raise MaybeSentError(error.cause, error.remedy) from error
        finally:
            api.uploaded = False

    def _api(self) -> Any:
        """The official client's object, authenticated."""
        if self._authenticated is None:
            api = _api_class()()
            # It exits when it finds no credential that works. There is one, so the first call will
            # be answered by 401, which says more.
            with suppress(SystemExit):
                self._call(api.authenticate)
            self._authenticated = api
        return self._authenticated

    def _call(self, action: Callable[[], T], **options: Any) -> T:
        return kaggle_calls.patiently(action, self._context, **options)


@contextmanager
def _bare_environment() -> Iterator[None]:
    """A HOME without credentials, for as long as the client is being imported.

    The import signs in: with a token that would be a network call without a time-out, with none a
    page of help on stdout. It also makes its folder in HOME, and with VERBOSE set it would print
    requests with the credentials in them.
    """
    saved = dict(os.environ)
    with tempfile.TemporaryDirectory() as nowhere:
        for name in saved:
            if name.startswith(("KAGGLE_", "VERBOSE")):
                del os.environ[name]
        os.environ.update(HOME=nowhere, USERPROFILE=nowhere, KAGGLE_CONFIG_DIR=nowhere)
        try:
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            os.environ.clear()
            os.environ.update(saved)


@cache
def _api_class() -> Any:
    """The client's class, with time-outs, and configured by the environment at construction, not import."""
    with _bare_environment():
        import requests
        from kaggle.api.kaggle_api_extended import KaggleApi
        from kaggle.models.kaggle_models_extended import ResumableUploadResult

    class TimedAdapter(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> Any:
            options["timeout"] = (_CONNECT_SECONDS, _READ_SECONDS)
            return super().send(*args, **options)

    def timed(session: Any) -> None:
        session.mount("http://", TimedAdapter())
        session.mount("https://", TimedAdapter())

    class TimedApi(KaggleApi):
        uploaded = False

        def __init__(self) -> None:
            super().__init__()
            self.args = ["--local"] if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else []
            self.config_dir = str(config_dir())
            self.config = str(config_dir() / self.config_file)

        def build_kaggle_client(self) -> Any:
            client = super().build_kaggle_client()
            client.__enter__()  # makes the session
            timed(client.http_client()._session)
            return client

        def upload_complete(self, path: str, url: str, quiet: bool, resume: bool = False) -> Any:
            # The client's own waits for ever and tells of a failure by returning normally.
            with requests.Session() as session, open(path, "rb") as file:
                timed(session)
                session.put(url, data=file).raise_for_status()
            self.uploaded = True
            return ResumableUploadResult.COMPLETE

    return TimedApi


def _page(kaggle: Any, request: Any) -> tuple[list[Submission], str]:
    listing = kaggle.competitions.competition_api_client.list_submissions(request)
    return [_submission(item) for item in listing.submissions], listing.next_page_token


def _submission(item: Any) -> Submission:
    date = item.date
    return Submission(
        ref=int(item.ref),
        date=date.isoformat() + "Z" if date else None,
        description=item.description or "",
        file_name=item.file_name or "",
        status=item.status.name,
        public=_score(item.public_score),
        private=_score(item.private_score),
        error=item.error_description or None,
    )


def _score(value: Any) -> str | None:
    return None if value in (None, "") else str(value)
