"""The one module that imports Kaggle's official client, and takes the side effects of that away.

The import signs in: with a token that is a network call without a time-out, with no credential a page
of help on stdout, and it makes a folder in HOME. Here it happens in an environment without
credentials, once it is needed. Importing this module imports nothing of Kaggle's.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import Any

from kaggle_hw4.credentials import config_dir
from kaggle_hw4.errors import UsageError

# Seconds for a connection, and for each piece of an answer. `kaggle_calls` limits whole calls.
CONNECT_SECONDS, READ_SECONDS = 10.0, 15.0


def new_api() -> Any:
    """The client's API object, set up by the environment as it is now; not signed in yet.

    Its attribute `read_seconds` is the time-out of the clients that it builds from then on.
    Raises UsageError for an environment of Kaggle's that there is not, or a client that is not there.
    """
    name = os.environ.get("KAGGLE_API_ENVIRONMENT", "PROD")
    if name not in ("PROD", "LOCALHOST", "ADMIN", "STAGING", "QA", "TEST"):  # the client may take it for PROD
        said = f"KAGGLE_API_ENVIRONMENT={name}: Kaggle's client knows no such environment"
        raise UsageError(said, "Run: unset KAGGLE_API_ENVIRONMENT")
    return _api_class()()


def message(name: str, **fields: Any) -> Any:
    """A request of the client's own kind, such as `ApiListSubmissionsRequest`."""
    _api_class()  # the import below must not be the first
    from kagglesdk.competitions.types import competition_api_service

    request = getattr(competition_api_service, name)()
    for field, value in fields.items():
        setattr(request, field, value)
    return request


def new_session() -> Any:
    """A session of requests with time-outs, for the addresses that Kaggle's answers name."""
    import requests

    session = requests.Session()
    _limit(session, READ_SECONDS)
    return session


def _limit(session: Any, read_seconds: float) -> None:
    from requests.adapters import HTTPAdapter

    class TimedAdapter(HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> Any:
            options["timeout"] = (CONNECT_SECONDS, read_seconds)
            return super().send(*args, **options)

    session.mount("http://", TimedAdapter())
    session.mount("https://", TimedAdapter())


@contextmanager
def _bare_environment() -> Iterator[None]:
    """A HOME without credentials. VERBOSE goes too: with it the client prints requests, credentials and all."""
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
    try:
        with _bare_environment():
            from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError as error:
        remedy = "Run: pip install --force-reinstall kaggle six"
        raise UsageError(f"Kaggle's client cannot be imported: {error}", remedy) from error

    class TimedApi(KaggleApi):
        def __init__(self) -> None:
            super().__init__()
            self.read_seconds = READ_SECONDS
            self.args = ["--local"] if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else []
            self.config_dir = str(config_dir())
            self.config = str(config_dir() / self.config_file)

        def build_kaggle_client(self) -> Any:
            client = super().build_kaggle_client()
            client.__enter__()  # makes the session
            _limit(client.http_client()._session, self.read_seconds)
            return client

    return TimedApi
