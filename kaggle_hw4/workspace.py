"""Where artefacts live (`data/ folds/ runs/ submissions/`), and how a file appears there whole or not at all."""

import errno
import glob
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_hw4.errors import DataError

# The largest file that is read as a whole. The competition's tables have some 10 MB, its longest utterance less;
# of JSON, memory for 25 times as much may be needed.
MOST_BYTES = 32 << 20
_DEEPEST = 20  # levels of nesting in JSON; what is deeper breaks those who compare or print it


@dataclass(frozen=True)
class Workspace:
    """The folder given by ``--root``; nothing is created before something is written."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))  # a notebook gives a string

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def store(self) -> Path:
        return self.data / "store"

    @property
    def folds_file(self) -> Path:
        return self.root / "folds" / "folds.json"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def predictor(self) -> Path:
        return self.root / "predictor.safetensors"

    @property
    def ledger(self) -> Path:
        return self.submissions / "ledger.sqlite"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals, as to write `path`, into one clear message.

    Raises:
        DataError: disk full, quota reached, read-only, or not permitted to read or write.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{path}: no space left on the disk",
                "Free some space and run the same command again; finished work is kept.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            if (named := _another(error, path)) is not None:
                how = "read" if os.path.exists(named) and not os.access(named, os.R_OK) else "read or written"
                raise DataError(
                    f"{named}: cannot be {how} ({os.strerror(error.errno)})", "Change its permissions, or its folder's."
                ) from error
            raise DataError(
                f"{path}: cannot be written ({os.strerror(error.errno)})",
                "Choose a workspace you may write to with --root DIR.",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            there = str(error.filename2 or error.filename or path)
            where = str(path) if there.endswith(".tmp") else there  # of our temporary files nobody knows
            raise DataError(f"{where}: {os.strerror(error.errno)}", "Move what is in the way.") from error
        if error.errno is None or error.errno == errno.EPIPE:
            raise  # not a file's: a reader of our output that went away, say
        raise DataError(f"{error.filename or path}: {os.strerror(error.errno)}") from error


def _another(error: OSError, path: Path) -> Path | None:
    """The file at fault, where it is none that is written for `path`, or cannot even be read."""
    if not isinstance(error.filename, str):
        return None
    named, written = Path(error.filename).absolute(), path.absolute()
    ours = named in written.parents or written in (named, *named.parents)
    beside = named.parent == written.parent and named.name.startswith(f".{written.name}.")  # lock or temporary file
    return named if not (ours or beside) or (os.path.exists(named) and not os.access(named, os.R_OK)) else None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it takes the final name.

    An error or a kill leaves the former content of `path`, if any, untouched. A folder works
    too, as long as none stands under the final name. Raises DataError where writing is refused.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_dead(path)
        try:
            yield temporary
            if temporary.is_file():
                with open(temporary, "r+b") as written:  # Windows flushes only what may be written
                    os.fsync(written.fileno())
            os.replace(temporary, path)
        except BaseException:
            _remove(temporary)
            raise


def _sweep_dead(path: Path) -> None:
    """Remove what a killed process of this machine left behind while writing `path`; others may share the folder."""
    start = f".{path.name}.{platform.node()}-"
    for leftover in path.parent.iterdir():
        pid = leftover.name.removeprefix(start).removesuffix(".tmp")
        if leftover.name.startswith(start) and pid.isdigit() and not alive(int(pid)):
            _remove(leftover)


def sweep(folder: Path) -> None:
    """Remove all that processes of this machine began to write in a folder that the caller alone writes in."""
    for leftover in list(folder.glob(f".*.{glob.escape(platform.node())}-*.tmp")):
        _remove(leftover)


def alive(pid: int) -> bool:
    """Whether a process of this machine still runs."""
    if os.name != "posix":
        return True  # there is no harmless signal to ask with: keep the file
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON artefact, an object with its checksum. Raises what `atomic_path` raises."""
    write_text(path, json.dumps(with_checksum(value) if isinstance(value, dict) else value, indent=1) + "\n")


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The object with the field `checksum`, the hash of all others."""
    others = {key: field for key, field in value.items() if key != "checksum"}
    return others | {"checksum": content_hash(json.loads(json.dumps(others)))}  # as it will be read


def read_whole(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `MOST_BYTES`, or no file (one would wait for a pipe, and a device may not end).
    """
    if not path.is_file():
        path.stat()  # FileNotFoundError, say
        raise ValueError("it is not a file")
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    return content


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text that anyone may have written.

    Raises:
        ValueError: not JSON, nested more than 20 levels deep, or an object has a key twice.
    """
    try:
        value = json.loads(content, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(_DEEPEST):
        children = (child for item in level for child in (item.values() if type(item) is dict else item))
        level = [child for child in children if type(child) in (dict, list)] if type(value) in (dict, list) else []
    if level:
        raise ValueError("it is nested too deeply")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object in it has a key twice")
    return found


def check_fields(value: Any, **kinds: Any) -> dict[str, Any]:
    """`value` if it is a JSON object with fields of these kinds (as isinstance takes them), and maybe others.

    True and false are not numbers, and an integer fits in 64 bits. Raises ValueError naming the first other one.
    """
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    for name, kind in kinds.items():
        found = value.get(name)
        number = isinstance(found, int) and kind is not bool
        if not isinstance(found, kind) or (number and (isinstance(found, bool) or not -(2**63) <= found < 2**63)):
            raise ValueError(f"{name} is missing, or not what it should be")
    return value


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON artefact of ours, an object without its checksum.

    Raises:
        DataError: it is missing, broken, or not as it was written; with `remedy`.
    """
    try:
        value = parse_json(read_whole(path))
        if isinstance(value, dict) and (noted := value.pop("checksum", None)) != content_hash(value):
            what = "its checksum differs" if noted else "it has no checksum"
            raise ValueError(f"it is not as kaggle-hw4 wrote it: {what}")
        return value
    except FileNotFoundError:
        raise DataError(f"{path} is missing", remedy) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy) from error


def utf8(text: str) -> str:
    """`text` with "?" for what UTF-8 cannot hold (half a character, as in a file's name): no database takes it."""
    return text.encode(errors="replace").decode()


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON value: names an input in everything made from it."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
