"""Read the competition's files one at a time from a folder, a zip, a tar(.gz) or its parts; nothing is extracted."""

import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kaggle_hw4.competition import TABLE_NAMES
from kaggle_hw4.errors import DataError, UsageError

FEATURE_NAME = re.compile(r"uttr-[0-9a-f]{32}\.pt")
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)


def read_members(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of the tables and the features in `source`, the tables first where it can be.

    `source` is a folder, a `.zip`, a `.tar`/`.tar.gz`, or the first of several parts of one
    (`Dataset.tar.gz.partaa`, `….001`). The folder inside (`Dataset/`) does not matter. Everything
    else is skipped: macOS `._*` files, the TorchScript extras of some copies.

    Raises:
        UsageError: no such file, or none of these kinds.
        DataError: damaged, or with a member whose path leaves the folder.
    """
    if source.is_dir():
        reader = _read_folder(source)
    elif not source.exists():
        raise UsageError(f"{source} does not exist", "Give a folder, a .zip or a .tar.gz with --from.")
    elif _starts_like_zip(source):
        reader = _read_zip(source)
    else:
        reader = _read_tar(_parts(source))
    try:
        yield from reader
    except _DAMAGE as error:
        raise DataError(
            f"{source} is damaged or not an archive: {error}", "Download it again and repeat the command."
        ) from error


def _starts_like_zip(source: Path) -> bool:
    # zipfile.is_zipfile looks at the end, where a tar of .pt files (zips themselves) looks like one too.
    with open(source, "rb") as file:
        return file.read(2) == b"PK"


def _wanted(path: str) -> str | None:
    """The base name of a member that is used, None for one to skip. Raises DataError for an unsafe path."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", path):
        raise DataError(
            f"the archive holds {path!r}, a path that leaves its folder",
            "This is not the competition's archive: get it from Kaggle again.",
        )
    name = pure.name
    return name if name in TABLE_NAMES or FEATURE_NAME.fullmatch(name) else None


def _tables_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda path: PurePosixPath(path).name not in TABLE_NAMES)


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    root = folder if (folder / TABLE_NAMES[0]).exists() else folder / "Dataset"
    if not (root / TABLE_NAMES[0]).exists():
        raise DataError(
            f"{folder} holds no {TABLE_NAMES[0]}",
            "Give the folder that holds it, or the one above `Dataset`.",
        )
    for name in _tables_first(sorted(entry.name for entry in os.scandir(root))):
        if _wanted(name):
            yield name, (root / name).read_bytes()


def _read_zip(source: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        for path in _tables_first(archive.namelist()):
            if name := _wanted(path):
                yield name, archive.read(path)  # checks the member's CRC


def _read_tar(parts: list[Path]) -> Iterator[tuple[str, bytes]]:
    with _joined(parts) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            name = _wanted(member.name)
            content = archive.extractfile(member) if name and member.isfile() else None
            if name and content:
                yield name, content.read()


def _parts(source: Path) -> list[Path]:
    """`source` alone, or all parts of the same archive in order."""
    match = re.fullmatch(r"(.+\.)(part\w+|part-\d+|z?\d{1,3}|[a-z]{2})", source.name)
    if not match or source.suffix in (".gz", ".xz"):
        return [source]
    pattern = re.compile(re.escape(match[1]) + r"(part\w+|part-\d+|z?\d{1,3}|[a-z]{2})")
    return sorted(path for path in source.parent.iterdir() if pattern.fullmatch(path.name))


class _Chain(io.RawIOBase):
    """Several files read as one stream."""

    def __init__(self, parts: list[Path]) -> None:
        self._rest = iter(parts)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._file is None:
                part = next(self._rest, None)
                if part is None:
                    return 0
                self._file = open(part, "rb")  # noqa: SIM115 - closed at its end or in close()
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


@contextmanager
def _joined(parts: list[Path]) -> Iterator[io.BufferedIOBase]:
    with io.BufferedReader(_Chain(parts), buffer_size=1 << 20) as stream:
        yield stream
