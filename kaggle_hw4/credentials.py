"""Which Kaggle credential the official client will use, and where it lies; never what it is.

The client takes the first it finds: token, user name with key, OAuth. It says neither which one it
took nor that a file was broken, and a token that has expired hides a good key.
"""

import base64
import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kaggle_hw4.errors import RefusedError

_SETTINGS = "https://www.kaggle.com/settings/api"
_TOKEN_FILES = ("~/.kaggle/access_token", "~/.kaggle/access_token.txt")
_SHORTEST_SECRET = 8  # characters; Kaggle's have 32 and more, and a short word would be cut out of plain text


@dataclass(frozen=True)
class Credential:
    """`source` is the environment variable or the file; `removal` is what takes it out of the way."""

    kind: Literal["token", "key", "OAuth"]
    source: str
    removal: str

    def __str__(self) -> str:
        return f"{self.kind} from {self.source}"


Found = tuple[Credential, tuple[object, ...]]  # with what it consists of


def config_dir() -> Path:
    """The folder of `kaggle.json`, by the client's own rule."""
    if moved := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(moved)
    home = _at("~/.kaggle")
    if not sys.platform.startswith("linux") or os.path.exists(home):
        return home
    return Path(os.environ.get("XDG_CONFIG_HOME") or _at("~/.config")) / "kaggle"


def find_credential() -> Credential:
    """The credential that the client will use.

    Raises:
        RefusedError: there is none; names a broken `kaggle.json`, or every place looked at. Or it cannot be one.
    """
    if found := _token() or _key() or _oauth():
        _check_characters(*found)
        return found[0]
    problem = kaggle_json_problem()
    if problem:
        raise RefusedError(problem, f"Download a new one from {_SETTINGS}, or set KAGGLE_API_TOKEN.")
    places = [
        "KAGGLE_API_TOKEN",
        "~/.kaggle/access_token",
        "KAGGLE_USERNAME with KAGGLE_KEY",
        str(config_dir() / "kaggle.json"),
        "~/.kaggle/credentials.json",
    ]
    raise RefusedError(
        f"no Kaggle credentials found; looked at {', '.join(places)}",
        f"Make a token at {_SETTINGS} and set it with: export KAGGLE_API_TOKEN=…",
    )


def _check_characters(credential: Credential, texts: tuple[object, ...]) -> None:
    """Raises RefusedError for what no request can carry: the client's own words for it blame nobody."""
    if not all(isinstance(text, str) and re.fullmatch(r"[!-~]+", text) for text in texts):
        raise RefusedError(
            f"the {credential} holds a character that no {credential.kind} has (a line end?)",
            f"Copy it again, without line ends and spaces, from {_SETTINGS}",
        )


def kaggle_json_problem() -> str:
    """What is wrong with `kaggle.json`; empty when it is well or absent. The client says nothing."""
    path = config_dir() / "kaggle.json"
    try:
        path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        return f"{path}: cannot be read"
    values = _read_object(path)
    if values is None:
        return f"{path}: not valid JSON"
    missing = [name for name in ("username", "key") if not values.get(name)]
    return f"{path}: has no {' and no '.join(missing)}" if missing else ""


def redacted(text: str) -> str:
    """`text` without any secret of the credentials in reach: a server may repeat what it was sent."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def _secrets() -> set[str]:
    stored = _read_object(config_dir() / "kaggle.json") or {}
    oauth = _read_object(_at("~/.kaggle/credentials.json")) or {}
    user, key = (os.environ.get(f"KAGGLE_{name.upper()}") or stored.get(name) for name in ("username", "key"))
    basic = base64.b64encode(f"{user}:{key}".encode()).decode()
    found = [os.environ.get("KAGGLE_KEY"), stored.get("key"), basic, os.environ.get("KAGGLE_API_TOKEN")]
    found += [oauth.get(name) for name in ("refresh_token", "access_token")]
    files = [os.environ.get("KAGGLE_API_TOKEN"), os.environ.get("KAGGLE_API_V1_TOKEN"), *_TOKEN_FILES]
    found += [_text_of(_at(name)) for name in files if name]
    return {secret for secret in found if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET}


def _at(path: str) -> Path:
    """`path` with the user's home for `~`, where there is one; unlike `Path.expanduser` it raises nothing."""
    return Path(os.path.expanduser(path))


def _token() -> Found | None:
    # A hosted notebook of Kaggle's own brings a token in a file.
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") and os.environ.get("KAGGLE_DATA_PROXY_URL"):
        path = os.environ.get("KAGGLE_API_V1_TOKEN", "")
        if path and (text := _text_of(Path(path))):
            return Credential("token", "KAGGLE_API_V1_TOKEN", "unset KAGGLE_API_V1_TOKEN"), (text,)
    if value := os.environ.get("KAGGLE_API_TOKEN"):
        # It may name a file instead; one without a token in it sends the client to the key.
        try:
            exists = Path(value).exists()
        except OSError:  # without an answer for the client, too, which asks the same
            raise RefusedError(
                f"KAGGLE_API_TOKEN, of {len(value)} characters, cannot be looked up as a file, which the client does",
                "Put it into the file ~/.kaggle/access_token, and: unset KAGGLE_API_TOKEN",
            ) from None
        if text := _text_of(Path(value)) if exists else value:
            return Credential("token", "KAGGLE_API_TOKEN", "unset KAGGLE_API_TOKEN"), (text,)
        return None
    for path in _TOKEN_FILES:
        if text := _text_of(_at(path)):
            return Credential("token", path, f"rm {path}"), (text,)
    return None


def _key() -> Found | None:
    path = config_dir() / "kaggle.json"
    stored = _read_object(path) or {}
    sources, values = [], []
    for variable, name in (("KAGGLE_USERNAME", "username"), ("KAGGLE_KEY", "key")):
        if os.environ.get(variable):
            sources.append(variable)
        elif variable not in os.environ and stored.get(name):
            sources.append(str(path))
        else:
            return None
        values.append(os.environ.get(variable) or stored.get(name))
    source = " and ".join(dict.fromkeys(sources))
    removal = f"rm {shlex.quote(str(path))}" if source == str(path) else "unset KAGGLE_USERNAME KAGGLE_KEY"
    return Credential("key", source, removal), tuple(values)


def _oauth() -> Found | None:
    path = _at("~/.kaggle/credentials.json")
    if (_read_object(path) or {}).get("refresh_token"):
        return Credential("OAuth", "~/.kaggle/credentials.json", "kaggle auth login --force"), ()
    return None


def _read_object(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _text_of(path: Path) -> str:
    """The stripped content of a text file; empty when there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
