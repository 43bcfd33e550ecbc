"""Which Kaggle credential the official client will use, and where it lies; never what it is.

The client takes the first it finds: token, user name with key, OAuth. It says neither which one it
took nor that a file was broken, and a token that has expired hides a good key.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kaggle_hw4.errors import RefusedError

_SETTINGS = "https://www.kaggle.com/settings/api"


@dataclass(frozen=True)
class Credential:
    """`source` is the environment variable or the file; `removal` is what takes it out of the way."""

    kind: Literal["token", "key", "OAuth"]
    source: str
    removal: str

    def __str__(self) -> str:
        return f"{self.kind} from {self.source}"


def config_dir() -> Path:
    """The folder of `kaggle.json`, by the client's own rule."""
    if moved := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(moved)
    home = Path("~/.kaggle").expanduser()
    if not sys.platform.startswith("linux") or home.exists():
        return home
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "kaggle"


def find_credential() -> Credential:
    """The credential that the client will use.

    Raises:
        RefusedError: there is none; names a broken `kaggle.json`, or every place looked at.
    """
    credential = _token() or _key() or _oauth()
    if credential:
        return credential
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


def kaggle_json_problem() -> str:
    """What is wrong with `kaggle.json`; empty when it is well or absent. The client says nothing."""
    path = config_dir() / "kaggle.json"
    if not path.exists():
        return ""
    values = _read_object(path)
    if values is None:
        return f"{path}: not valid JSON"
    missing = [name for name in ("username", "key") if not values.get(name)]
    return f"{path}: has no {' and no '.join(missing)}" if missing else ""


def _token() -> Credential | None:
    # A hosted notebook of Kaggle's own brings a token in a file.
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") and os.environ.get("KAGGLE_DATA_PROXY_URL"):
        path = os.environ.get("KAGGLE_API_V1_TOKEN", "")
        if path and _has_text(Path(path)):
            return Credential("token", "KAGGLE_API_V1_TOKEN", "unset KAGGLE_API_V1_TOKEN")
    if value := os.environ.get("KAGGLE_API_TOKEN"):
        # It may name a file instead; one without a token in it sends the client to the key.
        if not _exists(value) or _has_text(Path(value)):
            return Credential("token", "KAGGLE_API_TOKEN", "unset KAGGLE_API_TOKEN")
        return None
    for name in ("access_token", "access_token.txt"):
        path = f"~/.kaggle/{name}"
        if _has_text(Path(path).expanduser()):
            return Credential("token", path, f"rm {path}")
    return None


def _key() -> Credential | None:
    path = config_dir() / "kaggle.json"
    stored = (_read_object(path) or {}) if path.exists() else {}
    sources = []
    for variable, name in (("KAGGLE_USERNAME", "username"), ("KAGGLE_KEY", "key")):
        if os.environ.get(variable):
            sources.append(variable)
        elif variable not in os.environ and stored.get(name):
            sources.append(str(path))
        else:
            return None
    source = " and ".join(dict.fromkeys(sources))
    if source == str(path):
        return Credential("key", source, f"rm {path}")
    return Credential("key", source, "unset KAGGLE_USERNAME KAGGLE_KEY")


def _oauth() -> Credential | None:
    path = Path("~/.kaggle/credentials.json").expanduser()
    if path.exists() and (_read_object(path) or {}).get("refresh_token"):
        return Credential("OAuth", "~/.kaggle/credentials.json", "kaggle auth login --force")
    return None


def _read_object(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _has_text(path: Path) -> bool:
    try:
        return bool(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return False


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a token longer than a file name may be
        return False
