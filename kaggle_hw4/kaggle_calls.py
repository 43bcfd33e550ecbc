"""Calls of the official client: silent, limited in time, tried again where that helps, failures in our words."""

import io
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import redirect_stdout
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from threading import Thread
from typing import Any, TypeVar

from kaggle_hw4.competition import Competition
from kaggle_hw4.credentials import Credential, redacted
from kaggle_hw4.errors import HW4Error, RefusedError, UnavailableError, UsageError
from kaggle_hw4.workspace import utf8

T = TypeVar("T")

_ATTEMPTS = 4
_ANSWER_SECONDS = 15.0  # for a call and its whole answer
# How long a command bears with a server that stalls, refuses or fails, from the first failure after the
# last success: with one pause between looks at a score (10 s), a command ends within a minute.
_PATIENCE_SECONDS = 45.0
_PROXIES = "Look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY: HTTPS_PROXY=http://HOST:PORT, or unset them."
_LATER = "Check the connection and run the same command again; what is done is kept."


@dataclass(frozen=True)
class Failure:
    """`retry_after`: the least number of seconds to wait before another try; None when that is no use."""

    error: HW4Error
    retry_after: float | None


class Calls:
    """The calls of one command. They share one patience, so that many calls do not wait many times."""

    def __init__(self, competition: Competition, credential: Credential) -> None:
        self._competition = competition
        self._credential = credential
        self._failing_since: float | None = None

    def run(
        self, action: Callable[[], T], *, attempts: int = _ATTEMPTS, seconds: float | None = None, heals: bool = True
    ) -> T:
        """Run a call in at most `seconds`, again after a failure that may pass.

        `heals`: whether success means that the server works again.

        Raises:
            RefusedError, UnavailableError, UsageError: with the client's exception as its cause. Errors of this
                project and of the disk pass through.
        """
        attempt = 1
        while True:
            began = time.monotonic()
            limit = max(1.0, min(seconds or _ANSWER_SECONDS, self._left()))
            try:
                result = _within(limit, action)
            except Exception as error:
                failure = self._translate(error)
                if failure is None:
                    raise
                self.failed(began)
                pause = max(0.5 * 2 ** (attempt - 1), failure.retry_after or 0.0)
                if failure.retry_after is None or attempt == attempts or pause >= self._left():
                    raise failure.error from error
            else:
                if heals:
                    self.succeeded()
                return result
            time.sleep(pause)
            attempt += 1

    def directly(self, action: Callable[[], T]) -> T:
        """Run an action that may last, once, with its failures translated as by `run`."""
        began = time.monotonic()
        try:
            return action()
        except Exception as error:
            failure = self._translate(error)
            if failure is None:
                raise
            self.failed(began)
            raise failure.error from error

    def failed(self, began: float) -> None:
        """Note that what began then (`time.monotonic`) failed."""
        if self._failing_since is None:
            self._failing_since = began

    def succeeded(self) -> None:
        """Note that the server works."""
        self._failing_since = None

    def bears(self, pause: float) -> bool:
        """Whether patience is left for another try after `pause` seconds."""
        return pause < self._left()

    def _left(self) -> float:
        since = self._failing_since
        return _PATIENCE_SECONDS - (0.0 if since is None else time.monotonic() - since)

    def _translate(self, error: Exception) -> Failure | None:
        """The failure behind an exception of the client; None when it is none of Kaggle's doing."""
        import requests

        if isinstance(error, HW4Error):
            return None
        response = getattr(error, "response", None)
        if response is not None:  # by identity: an error response is falsy
            return _answered(response, self._competition, self._credential)
        if isinstance(error, requests.exceptions.JSONDecodeError):
            return _senseless()
        if isinstance(error, _TooSlow | requests.exceptions.Timeout) or "timed out" in str(error).lower():
            return Failure(UnavailableError("Kaggle did not answer in time", _LATER), 0.0)
        if isinstance(error, requests.exceptions.SSLError):
            return Failure(
                UnavailableError(
                    "the connection to Kaggle cannot be trusted (TLS)",
                    "Set this machine's clock and date; or else a proxy in between shows a certificate of its own.",
                ),
                None,
            )
        if isinstance(error, requests.exceptions.InvalidProxyURL):
            return Failure(UsageError("the proxy that the environment names has no valid address", _PROXIES), None)
        if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
            remedy = "Run: pip install pysocks, or unset ALL_PROXY (all_proxy, HTTPS_PROXY)."
            return Failure(UnavailableError("the proxy is a SOCKS proxy, for which a package is missing", remedy), None)
        if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
            return Failure(UnavailableError("Kaggle cannot be reached, or broke the connection off", _LATER), 0.0)
        if isinstance(error, OSError) and not isinstance(error, requests.exceptions.RequestException):
            if error.errno is None:  # requests', of certificates that are not where they should be
                said = redacted(" ".join(str(error).split()))
                return Failure(UnavailableError(said, "See REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE."), None)
            return None  # the disk's
        return _senseless()


class _TooSlow(Exception):
    """The time of a call is over."""


def _within(seconds: float, action: Callable[[], T]) -> T:
    """The result of `action`, whose prints on stdout are dropped.

    In a thread of its own, since a server that sends a byte now and then never lets a time-out of
    its socket pass. A thread left behind ends with its one call.
    """
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(action())
        except BaseException as error:  # SystemExit among them
            result.set_exception(error)

    with redirect_stdout(io.StringIO()):
        Thread(target=work, daemon=True).start()
        try:
            return result.result(timeout=seconds)
        except TimeoutError:
            if result.done():
                raise
            raise _TooSlow from None


def status_of(error: HW4Error) -> int | None:
    """The HTTP status behind an error of `Calls`, if an answer came at all."""
    response = getattr(error.__cause__, "response", None)
    return None if response is None else int(response.status_code)


def check_no_page(response: Any) -> None:
    """Raises UnavailableError when `response` is an HTML page, which Kaggle's API and file store never send."""
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _senseless().error


def check_no_redirect(response: Any) -> None:
    """Raises UnavailableError when `response` sends elsewhere, as an upload is never sent."""
    if 300 <= response.status_code < 400:
        raise _senseless(response.status_code).error


def _senseless(status: int = 200) -> Failure:
    shown = f" ({status})" if status != 200 else ""
    return Failure(
        UnavailableError(
            f"unexpected answer from the server{shown}",
            "It was not Kaggle's format; a proxy or a sign-in page of the network may have answered.",
        ),
        None,
    )


def _answered(response: Any, competition: Competition, credential: Credential) -> Failure:
    status = int(response.status_code)
    text = _message(response)
    said = f": {text}" if text else ""
    wait = _retry_after(response)
    if response.request.method != "POST":
        # Not the API but a file's address, which it gives out for a short time: a new one may work.
        remedy = f"Try again in {wait:.0f} seconds; what is done is kept." if wait else _LATER
        return Failure(UnavailableError(f"Kaggle's file store answered with error {status}", remedy), wait or 0.0)
    if status == 429:
        remedy = f"Try again in {wait:.0f} seconds." if wait else "Try again in a minute."
        return Failure(UnavailableError(f"Kaggle asks for fewer requests (429){said}", remedy), wait or 0.0)
    if status >= 500:
        # 501: not implemented will be as true in a second.
        retry = None if status == 501 else (wait or 0.0)
        return Failure(UnavailableError(f"Kaggle answered with error {status}{said}", _LATER), retry)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        return _senseless(status)
    return Failure(_refusal(status, said, competition, credential), None)


def _refusal(status: int, said: str, competition: Competition, credential: Credential) -> RefusedError:
    slug = competition.slug
    if status == 401:
        return RefusedError(
            f"Kaggle does not accept the {credential} (401)",
            f"If it is out of date, take it away ({credential.removal}): any other credential is "
            "hidden by it. New ones: https://www.kaggle.com/settings/api",
        )
    if any(word in said.lower() for word in ("closed", "has ended", "deadline", "no longer accept")):
        return RefusedError(f"{slug} is closed ({status}){said}", f"See {competition.url}")
    if status == 403:
        return RefusedError(
            f"Kaggle refuses access to {slug} (403){said}",
            f"Accept the rules in a browser, there is no other way: {competition.rules_url}",
        )
    if status == 404:
        return RefusedError(f"no competition {slug}{said}", "Name it as in its address, with --competition SLUG.")
    return RefusedError(f"Kaggle refuses the request ({status}){said}")


def _message(response: Any) -> str:
    """The server's own words, without secrets; of its two shapes of errors the client shows only one."""
    try:
        content = response.json()
        inner = content.get("error")
        text = inner.get("message") if isinstance(inner, dict) else content.get("message")
    except (ValueError, AttributeError, RecursionError):  # HTML, or no object
        return ""
    return redacted(" ".join(utf8(str(text or "")).split()))[:300]


def _retry_after(response: Any) -> float | None:
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        # By the server's clock if it tells: this machine's may be wrong.
        now = response.headers.get("Date") or formatdate(usegmt=True)
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(now)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
