"""Is a downloaded archive what the server holds? Length, MD5 and the archive's own checksums decide."""

import base64
import binascii
import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaggle_hw4.data.archive import DAMAGE, check_amount, is_the_disks
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import read_json, write_json

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Expected:
    """What the server says of the file, as far as it does.

    `size` in bytes, `md5` in hex digits; `validator` names this state of the file in a request for the
    rest of it.
    """

    size: int | None
    md5: str | None
    validator: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Expected":
        """What the headers of an answer promise about its body."""
        length = headers.get("Content-Length", "")
        found = re.search(r"\bmd5=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
        try:
            md5 = base64.b64decode(found[1], validate=True).hex() if found else None
        except binascii.Error:
            md5 = None
        etag = headers.get("ETag", "")
        validator = headers.get("Last-Modified") if etag.startswith("W/") else etag or headers.get("Last-Modified")
        size = int(length) if re.fullmatch(r"[0-9]{1,20}", length) else None
        return cls(size, md5, validator)


def problem(path: Path, expected: Expected) -> str:
    """Why `path` is not the expected, intact zip file; empty when it is."""
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"{size} bytes instead of {expected.size}"
    if expected.md5 is not None and _md5(path) != expected.md5:
        return "its MD5 differs from the server's"
    try:
        with zipfile.ZipFile(path) as archive:
            check_amount(path, size, sum(member.file_size for member in archive.infolist()))
            # Broken off behind a .pt file, itself a zip, an archive passes for that one with something before it.
            if expected.md5 is None and min((member.header_offset for member in archive.infolist()), default=0):
                return "its beginning belongs to no member: it broke off in the middle"
            damaged = archive.testzip()
    except DAMAGE as error:
        if is_the_disks(error):
            raise
        return f"not a readable zip file ({error})"
    return f"{damaged} in it is damaged" if damaged else ""


def record(path: Path, verified: Expected) -> None:
    """Note beside a verified file what it was like, so that it need not be verified again."""
    stat = path.stat()
    md5 = verified.md5 or _md5(path)
    write_json(_record_of(path), {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "md5": md5})


def is_recorded(path: Path) -> bool:
    """Whether `path` is the file verified before: by size and time, or else by its content."""
    try:
        noted = read_json(_record_of(path), "")
        stat = path.stat()
        if stat.st_size != noted["size"]:
            return False
        return bool(stat.st_mtime_ns == noted["mtime_ns"] or _md5(path) == noted["md5"])
    except (DataError, OSError, KeyError, TypeError):
        return False


def recheck(path: Path) -> None:
    """Forget that `path` was verified, unless its content is still what it was then."""
    try:
        if _md5(path) == read_json(_record_of(path), "")["md5"]:
            return
    except (DataError, OSError, KeyError, TypeError):
        pass
    _record_of(path).unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Raises DataError when fewer than `needed` bytes are free in `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {needed / 2**30:.2f} GiB are still to come, {free / 2**30:.2f} GiB are free",
            "Free some space or choose another workspace with --root DIR; what has arrived is kept.",
        )


def size_of(path: Path) -> int:
    """Bytes in `path`, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
