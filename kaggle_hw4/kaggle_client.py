"""One competition on Kaggle, through the official client, without the quirks of that.

The client prints on stdout, exits on its own, waits for ever, takes a corrupt file for a download
and a lost answer for a failure. Here every call has a time-out, reads are tried again for a bounded
time, and what goes wrong is one of `kaggle_hw4.errors`. Importing this module imports nothing of
Kaggle's.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from kaggle_hw4 import archive_download, kaggle_calls, official_client
from kaggle_hw4.archive_file import Progress
from kaggle_hw4.competition import competition
from kaggle_hw4.credentials import find_credential, redacted
from kaggle_hw4.errors import HW4Error, RefusedError, UnavailableError
from kaggle_hw4.terminal import plain
from kaggle_hw4.workspace import utf8

T = TypeVar("T")

_PAGE = 100
_UPLOAD_SECONDS = 40.0
# Kaggle may be slow to make a submission, and giving up early leaves a doubt; the rest of the patience
# is for looking it up.
_CREATE_SECONDS = 30.0
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
    """One competition, for one command.

    Every method raises RefusedError when Kaggle says no (credentials, rules, no such competition)
    and UnavailableError when it cannot be reached, stalls, or answers what makes no sense.
    """

    def __init__(self, slug: str) -> None:
        """Makes no request yet. Raises RefusedError when there are no credentials."""
        self._competition = competition(slug)
        self.slug = self._competition.slug
        self.credential = find_credential()
        self._calls = kaggle_calls.Calls(self._competition, self.credential)
        self._authenticated: Any = None

    def check_access(self) -> float | None:
        """Raises as a download would, but fetches nothing: are credentials, rules and name all right?

        Gives how many seconds this machine's clock is ahead of the server's, None when that is not told.
        """
        answer = self._ask_for_archive()
        answer.close()
        try:
            return time.time() - parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except (ValueError, TypeError):
            return None

    def download_archive(self, folder: Path, progress: Progress) -> Path:
        """Fetch `<slug>.zip` into `folder`, as `archive_download.download` does."""
        return archive_download.download(folder / f"{self.slug}.zip", self._ask_for_archive, self._calls, progress)

    def _ask_for_archive(self) -> Any:
        """The answer with the archive, not read yet."""
        api = self._api()
        request = official_client.message("ApiDownloadDataFilesRequest", competition_name=self.slug)

        def action() -> Any:
            # Its session stays open: the answer is still to be read.
            answer = api.build_kaggle_client().competitions.competition_api_client.download_data_files(request)
            kaggle_calls.check_no_page(answer)
            return answer

        # The address alone shows nothing: it is the bytes behind it that heal.
        return self._calls.run(action, heals=False)

    def limits(self) -> Limits | None:
        """How many submissions are left; None when the server does not tell."""
        request = official_client.message("ApiGetSubmissionLimitsRequest", competition_name=self.slug)
        try:
            return self._ask("get_submission_limits", request, _limits)
        except HW4Error as error:
            if kaggle_calls.status_of(error) in _NOT_OFFERED:
                return None
            raise

    def submissions(self) -> list[Submission]:
        """All submissions, all pages, as the server orders them (newest first)."""
        found: dict[int, Submission] = {}
        request = official_client.message("ApiListSubmissionsRequest", competition_name=self.slug, page_size=_PAGE)
        while True:
            page, token = self._ask("list_submissions", request, _page)
            new = {item.ref: item for item in page if item.ref not in found}
            found |= new
            # A server that does not know paging gives the same page again.
            if not token or not new:
                return list(found.values())
            request.page_token = token

    def submission(self, ref: int) -> Submission | None:
        """One submission; None when Kaggle does not know it."""
        try:
            return self._ask("get_submission", official_client.message("ApiGetSubmissionRequest", ref=ref), _submission)
        except HW4Error as error:
            if kaggle_calls.status_of(error) not in _NOT_OFFERED:
                raise
        return next((item for item in self.submissions() if item.ref == ref), None)

    def leaderboard(self) -> list[float]:
        """The public score of every team, best first."""
        # Once a competition is over Kaggle gives the private scores, unless it is told not to.
        request = official_client.message(
            "ApiGetLeaderboardRequest", competition_name=self.slug, page_size=_PAGE, override_public=True
        )
        teams: dict[int, float] = {}
        while True:
            page, token = self._ask("get_leaderboard", request, _standings)
            new = page.keys() - teams.keys()
            teams |= page
            if not token or not new:
                return sorted(teams.values(), reverse=True)
            request.page_token = token

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file, from the start again after a failure; gives the token to submit it by.

        No submission comes of it alone.
        """
        request = official_client.message(
            "ApiStartSubmissionUploadRequest",
            competition_name=self.slug,
            file_name=name,
            content_length=len(content),
            last_modified_epoch_seconds=int(time.time()),
        )

        def put(started: Any) -> str:
            # The client's own way to do this waits for ever, and tells of a failure by returning normally.
            with official_client.new_session() as session:
                answer = session.put(started.create_url, data=content, allow_redirects=False)
                answer.raise_for_status()
                kaggle_calls.check_no_redirect(answer)
                kaggle_calls.check_no_page(answer)
            return str(started.token)

        try:
            return self._ask("start_submission_upload", request, put, seconds=_UPLOAD_SECONDS)
        except HW4Error as error:
            raise self._maybe_closed(error) from error.__cause__

    def create(self, token: str, description: str) -> int:
        """Submit what was uploaded, asking once; gives the reference.

        Raises:
            MaybeSentError: no clear answer came: look for `description` in the list.
        """
        request = official_client.message(
            "ApiCreateSubmissionRequest",
            competition_name=self.slug,
            blob_file_tokens=token,
            submission_description=description,
        )
        self._api().read_seconds = _CREATE_SECONDS
        try:
            ref, said = self._ask("create_submission", request, _created, attempts=1, seconds=_CREATE_SECONDS)
        except HW4Error as error:
            status = kaggle_calls.status_of(error)
            if status is not None and 400 <= status < 500 and status not in (408, 429):
                raise self._maybe_closed(error) from error.__cause__
            raise MaybeSentError(error.cause, error.remedy) from error
        if not ref:
            raise MaybeSentError(f"Kaggle gave no reference of the submission{said and ': ' + redacted(said)}")
        return ref

    def _maybe_closed(self, error: HW4Error) -> HW4Error:
        """What a 404 to a submission may mean as well."""
        if kaggle_calls.status_of(error) != 404 or not isinstance(error, RefusedError):  # the file store's, say
            return error
        return RefusedError(f"{error.cause} (404), or it is closed", f"See {self._competition.url}")

    def _ask(self, method: str, request: Any, read: Callable[[Any], T], **options: Any) -> T:
        """Call a method of Kaggle's API; an answer that `read` cannot take in makes no sense."""
        api = self._api()

        def action() -> T:
            with api.build_kaggle_client() as kaggle:
                return read(getattr(kaggle.competitions.competition_api_client, method)(request))

        return self._calls.run(action, **options)

    def _api(self) -> Any:
        """The official client's object, signed in."""
        if self._authenticated is None:
            api = official_client.new_api()
            # It exits when it finds no credential that works. There is one, so the first call will
            # be answered by 401, which says more.
            with suppress(SystemExit):
                self._calls.run(api.authenticate)
            self._authenticated = api
        return self._authenticated


def _limits(answer: Any) -> Limits | None:
    if not (answer.num_today or answer.num_total or answer.num_allowed_now):
        return None  # what Kaggle answers before the first submission
    return Limits(answer.num_today, answer.num_allowed_now, answer.limited_by_total)


def _created(answer: Any) -> tuple[int, str]:
    return _reference(answer.ref or 0), str(answer.message or "")


def _page(listing: Any) -> tuple[list[Submission], str]:
    return [_submission(item) for item in listing.submissions], listing.next_page_token


def _standings(listing: Any) -> tuple[dict[int, float], str]:
    return {int(team.team_id): float(team.score) for team in listing.submissions if team.score}, listing.next_page_token


def _submission(item: Any) -> Submission:
    date = item.date
    return Submission(
        ref=_reference(item.ref),
        date=date.isoformat(timespec="milliseconds") + "Z" if date else None,
        description=_text(item.description),
        file_name=_text(item.file_name),
        status=item.status.name,
        public=_score(item.public_score),
        private=_score(item.private_score),
        error=redacted(_text(item.error_description)) or None,
    )


def _score(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def _reference(value: Any) -> int:
    if not 0 <= int(value) < 2**63:
        raise ValueError("a reference that the ledger cannot hold")
    return int(value)


def _text(value: Any) -> str:
    """Without what moves a terminal's cursor, or half a character, as where a text was cut off."""
    return plain(utf8(str(value or "")))
