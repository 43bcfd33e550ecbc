"""Calls of the official client: silent, tried again where that helps, failures in this project's words."""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from kaggle_hw4.credentials import Credential, kaggle_json_problem
from kaggle_hw4.errors import HW4Error, RefusedError, UnavailableError

T = TypeVar("T")

_ATTEMPTS = 4
_RETRY_SECONDS = 30.0  # no attempt starts later than this after the first
_LATER = "Check the connection and run the same command again; what is done is kept."


@dataclass(frozen=True)
class Context:
    """What a message may need to name."""

    slug: str
    rules_url: str
    credential: Credential


@dataclass(frozen=True)
class Failure:
    """`retry_after`: the least number of seconds to wait before another try; None when that is no use."""

    error: HW4Error
    retry_after: float | None


def patiently(
    action: Callable[[], T],
    context: Context,
    *,
    attempts: int = _ATTEMPTS,
    may_retry: Callable[[], bool] = lambda: True,
) -> T:
    """Run one call of the client, again after a failure that may pass, as long as `may_retry`.

    Raises RefusedError or UnavailableError with the client's exception as its cause; errors of
    this project and of the disk pass through.
    """
    started = time.monotonic()
    attempt = 1
    while True:
        try:
            with redirect_stdout(io.StringIO()):
                return action()
        except Exception as error:
            failure = translate(error, context)
            if failure is None:
                raise
            pause = max(0.5 * 2 ** (attempt - 1), failure.retry_after or 0.0)
            late = time.monotonic() - started + pause > _RETRY_SECONDS
            if failure.retry_after is None or attempt == attempts or late or not may_retry():
                raise failure.error from error
        time.sleep(pause)
        attempt += 1


def translate(error: Exception, context: Context) -> Failure | None:
    """The failure behind an exception of the client; None when it is none of Kaggle's doing."""
    import requests

    if isinstance(error, HW4Error):
        return None
    response = getattr(error, "response", None)
    if response is not None:  # by identity: an error response is falsy
        return _answered(response, context)
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return _senseless()
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error).lower():
        return Failure(UnavailableError("Kaggle did not answer in time", _LATER), 0.0)
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return Failure(UnavailableError("Kaggle cannot be reached, or broke the connection off", _LATER), 0.0)
    if isinstance(error, requests.exceptions.RequestException):
        return _senseless()
    if isinstance(error, OSError):
        return None  # the disk's: requests' own errors are above
    if problem := kaggle_json_problem():
        return Failure(RefusedError(problem, "Mend the file or move it away."), None)
    return _senseless()


def status_of(error: HW4Error) -> int | None:
    """The HTTP status behind an error made by `translate`, if an answer came at all."""
    response = getattr(error.__cause__, "response", None)
    return None if response is None else int(response.status_code)


def _senseless() -> Failure:
    return Failure(
        UnavailableError(
            "unexpected answer from the server",
            "It was not Kaggle's format; a proxy or a sign-in page of the network may have answered.",
        ),
        None,
    )


def _answered(response: Any, context: Context) -> Failure:
    status = int(response.status_code)
    text = _message(response)
    said = f": {text}" if text else ""
    if response.request.method != "POST":
        # Not the API but a file's address, which it gives out for a short time: a new one may work.
        return Failure(UnavailableError(f"Kaggle's file store answered with error {status}", _LATER), 0.0)
    if status == 401:
        credential = context.credential
        return Failure(
            RefusedError(
                f"Kaggle does not accept the {credential} (401)",
                f"If it is out of date, take it away ({credential.removal}): any other credential is "
                "hidden by it. New ones: https://www.kaggle.com/settings/api",
            ),
            None,
        )
    if status == 403:
        return Failure(
            RefusedError(
                f"Kaggle refuses access to {context.slug} (403){said}",
                f"Accept the rules in a browser, there is no other way: {context.rules_url}",
            ),
            None,
        )
    if status == 404:
        return Failure(
            RefusedError(f"no competition {context.slug}{said}", "Name it as in its address, with --competition SLUG."),
            None,
        )
    if status == 429:
        wait = _retry_after(response)
        remedy = f"Try again in {wait:.0f} seconds." if wait else "Try again in a minute."
        return Failure(UnavailableError(f"Kaggle asks for fewer requests (429){said}", remedy), wait or 0.0)
    if status >= 500:
        # 501: not implemented will be as true in a second.
        retry = None if status == 501 else (_retry_after(response) or 0.0)
        return Failure(UnavailableError(f"Kaggle answered with error {status}{said}", _LATER), retry)
    return Failure(RefusedError(f"Kaggle refuses the request ({status}){said}"), None)


def _message(response: Any) -> str:
    """The server's own words; of its two shapes of errors the client shows only one."""
    try:
        content = response.json()
        inner = content.get("error")
        text = inner.get("message") if isinstance(inner, dict) else content.get("message")
    except (ValueError, AttributeError):  # HTML, or no object
        return ""
    return " ".join(str(text or "").split())[:300]


def _retry_after(response: Any) -> float | None:
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
