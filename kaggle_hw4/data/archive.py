"""Read the competition's files one at a time from a folder, a zip, a tar(.gz) or its parts; nothing is extracted."""

import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path, PurePosixPath

from kaggle_hw4.competition import TABLE_NAMES
from kaggle_hw4.data.fast_zlib import zlib as fast_zlib
from kaggle_hw4.errors import DataError, UsageError

FEATURE_NAME = re.compile(r"uttr-[0-9a-f]{32}\.pt")
_PLAIN_PATH = re.compile(r"(?:\w+/)*(uttr-[0-9a-f]{32}\.pt)", re.ASCII)
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)
Member = tuple[str, memoryview | bytearray]


def read_members(source: Path) -> Iterator[Member]:
    """Yield (file name, content) of the tables and the features in `source`, the tables first where it can be.

    `source` is a folder, a `.zip`, a `.tar`/`.tar.gz`, or the first of several parts of one
    (`Dataset.tar.gz.partaa`, `….001`). The folder inside (`Dataset/`) does not matter. Everything
    else is skipped: macOS `._*` files, the TorchScript extras of some copies.

    A content is gone when the next is asked for: they share their memory.

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
    if plain := _PLAIN_PATH.fullmatch(path):  # nearly all of them: 1 µs instead of 4
        return plain[1]
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", path):
        raise DataError(
            f"the archive holds {path!r}, a path that leaves its folder",
            "This is not the competition's archive: get it from Kaggle again.",
        )
    name = pure.name
    return name if name in TABLE_NAMES or FEATURE_NAME.fullmatch(name) else None


def _is_table(path: str) -> bool:
    return path.rpartition("/")[2] in TABLE_NAMES


class _Buffer:
    """Memory that takes one member after the other: new memory for each costs 5 µs more."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(1 << 20))

    def fill(self, file: io.RawIOBase, size: int) -> memoryview:
        """The next `size` bytes of `file`. Raises EOFError when there are fewer."""
        if size > len(self._memory):
            self._memory = memoryview(bytearray(size))
        content = self._memory[:size]
        done = file.readinto(content)
        while done < size:  # at the end of a part, say
            count = file.readinto(content[done:])
            if not count:
                raise EOFError("unexpected end of data")
            done += count
        return content


def _read_folder(folder: Path) -> Iterator[Member]:
    root = folder if (folder / TABLE_NAMES[0]).exists() else folder / "Dataset"
    if not (root / TABLE_NAMES[0]).exists():
        raise DataError(
            f"{folder} holds no {TABLE_NAMES[0]}",
            "Give the folder that holds it, or the one above `Dataset`.",
        )
    buffer = _Buffer()
    names = sorted(os.listdir(root))
    for name in sorted(names, key=_is_table, reverse=True):
        if _wanted(name):
            with open(f"{root}/{name}", "rb", buffering=0) as file:
                yield name, buffer.fill(file, os.fstat(file.fileno()).st_size)


_ENCRYPTED_OR_PATCHED = 0b110_0001  # flags that only zipfile knows how to refuse


def _read_zip(source: Path) -> Iterator[Member]:
    buffer = _Buffer()
    with open(source, "rb", buffering=0) as file, zipfile.ZipFile(file) as archive:
        for member in sorted(archive.infolist(), key=lambda member: not _is_table(member.filename)):
            if name := _wanted(member.filename):
                content = _zip_content(file, member, buffer)
                yield name, bytearray(archive.read(member)) if content is None else content


def _zip_content(file: io.FileIO, member: zipfile.ZipInfo, buffer: _Buffer) -> memoryview | bytearray | None:
    """The content of a member with the right CRC, 30 µs faster than zipfile reads it (300 if it is deflated).

    None for an unusual member and in any doubt: zipfile then reads it, or says what is wrong.
    """
    if (
        member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        or member.flag_bits & _ENCRYPTED_OR_PATCHED
    ):
        return None
    name = member.orig_filename.encode()
    file.seek(member.header_offset)
    header = bytes(buffer.fill(file, 30 + len(name)))
    name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    if header[:4] != b"PK\3\4" or name_length != len(name) or header[30:] != name:
        return None
    file.seek(extra_length, os.SEEK_CUR)
    content: memoryview | bytearray = buffer.fill(file, member.compress_size)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        try:
            content = bytearray(fast_zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size))
        except fast_zlib.error:  # type: ignore[misc]  # its stub takes the class for an instance
            return None
    return content if len(content) == member.file_size and fast_zlib.crc32(content) == member.CRC else None


class _Unusual(Exception):
    """A tar that is compressed, or has members of another kind than plain files with plain headers."""


def _read_tar(parts: list[Path]) -> Iterator[Member]:
    count = 0
    try:
        with closing(_Chain(parts)) as stream:
            for member in _plain_tar(stream):
                yield member
                count += 1
    except _Unusual:
        yield from islice(_any_tar(parts), count, None)


def _any_tar(parts: list[Path]) -> Iterator[Member]:
    with (
        io.BufferedReader(_Chain(parts), buffer_size=1 << 20) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as archive,
    ):
        for member in archive:
            name = _wanted(member.name)
            content = archive.extractfile(member) if name and member.isfile() else None
            if name and content:
                yield name, bytearray(content.read())


# A pax header may replace the name or the size of the member after it; the times in it do not matter here.
_PAX_MATTERS = re.compile(rb" (path|size|hdrcharset|GNU\.sparse[^=]*)=")


def _plain_tar(stream: io.RawIOBase) -> Iterator[Member]:
    """As `_any_tar`, of an uncompressed tar: tarfile takes 85 µs a member, of which 10 are left.

    Raises:
        _Unusual: tarfile must read it, or say what is wrong with it.
    """
    buffer = _Buffer()
    try:
        header = bytes(buffer.fill(stream, 512))
        while any(header):
            path, kind, size = _tar_header(header)
            pax = kind == b"x"
            name = None if pax else _wanted(path)
            blocks = -(-size // 512) * 512
            if not (name or pax):
                for start in range(0, blocks, 1 << 20):
                    buffer.fill(stream, min(1 << 20, blocks - start))
                blocks = 0
            content = buffer.fill(stream, blocks + 512)  # the next header comes with it: one call less
            if pax and _PAX_MATTERS.search(content[:blocks]):
                raise _Unusual
            header = bytes(content[blocks:])
            if name:
                yield name, content[:size]
    except EOFError:
        raise _Unusual from None


def _tar_header(header: bytes) -> tuple[str, bytes, int]:
    """Path and size of a member, by its header of 512 bytes.

    Raises:
        _Unusual: a checksum that is wrong or signed, a link, a long path, a size beyond octal, and so on.
    """
    try:
        size, checksum = int(header[124:136].rstrip(b" \0"), 8), int(header[148:156].rstrip(b" \0"), 8)
    except ValueError:
        raise _Unusual from None
    path, kind, long_path = header[:100].partition(b"\0")[0], header[156:157], header[345]
    folder = kind == b"5" or path.endswith(b"/")
    if kind not in (b"0", b"\0", b"5", b"x") or long_path or size < 0 or (folder and size):
        raise _Unusual
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise _Unusual
    return path.decode("utf-8", "surrogateescape"), kind, size


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
