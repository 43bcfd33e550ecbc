"""Tars: a plain one is read in any order like a zip, all others (compressed, say) as tarfile streams them."""

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Self

import numpy as np

from kaggle_hw4.data.archive import DAMAGE, Archive, Buffer, check_amount, damaged, wanted
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import MOST_BYTES


class UnusualTarError(Exception):
    """A tar that is compressed, or has members of another kind than plain files with plain headers."""


class Tar(Archive):
    """A plain tar, whole or in parts.

    Raises:
        UnusualTarError: `stream_tar` must read it, or say what is wrong with it.
        DataError: a member's path leaves the folder.
    """

    def __init__(self, source: Path) -> None:
        self._file = _Joined(parts(source))
        try:
            names, self._places = _places(self._file)
        except BaseException:
            self._file.close()
            raise
        super().__init__(source, names)

    def _read(self, number: int) -> memoryview:
        start, size = self._places[number]
        self._file.seek(start)
        return self.buffer.fill(self._file, size)

    def reopen(self) -> None:
        self._file = _Joined(parts(self.source))

    def close(self) -> None:
        self._file.close()


def stream_tar(source: Path) -> Iterator[tuple[str, bytearray]]:
    """Yield (file name, content) of what is used of any tar(.gz), or of the first of its parts, in their order.

    Raises:
        DataError: damaged, or with a member whose path leaves the folder.
    """
    try:
        with (
            _Joined(parts(source)) as joined,
            io.BufferedReader(joined, buffer_size=1 << 20) as stream,
            _unpacked(stream) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|*", tarinfo=_Member) as archive,
        ):
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # they would be kept
                check_amount(source, joined.size, archive.offset)  # before it is passed over
                name = wanted(member.name)
                if name and member.size > MOST_BYTES:
                    raise ValueError(f"{name} in it has {member.size:,} bytes")
                content = archive.extractfile(member) if name and member.isfile() else None
                if name and content:
                    yield name, bytearray(content.read())
            passed = archive.offset
            while rest := unpacked.read(1 << 20):  # the checksums of gzip and xz stand at the end
                passed += len(rest)
                check_amount(source, joined.size, passed)
    except DAMAGE as error:
        raise damaged(source, error) from error


def _unpacked(stream: "io.BufferedReader[_Joined]") -> io.BufferedIOBase:
    """What gzip, bzip2 or xz packed, a piece at a time; the rest as it is, for tarfile.

    Tarfile's own reader of gzip passes over the checksum and ends with the first of several members.
    """
    start = stream.peek(6)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    return lzma.LZMAFile(stream) if start.startswith(b"\xfd7zXZ\0") else stream


_LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Member(tarfile.TarInfo):
    """A header of a tar; refuses to have its extensions, which tarfile reads as a whole, of any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _LONG and member.size > 1 << 16:
            raise ValueError(f"a path or attribute in it has {member.size:,} bytes")
        return member


# A pax header may replace the name or the size of the member after it; the times in it do not matter here.
_PAX_MATTERS = re.compile(rb" (path|size|hdrcharset|GNU\.sparse[^=]*)=")


def _places(file: "_Joined") -> tuple[list[str], list[tuple[int, int]]]:
    """Names of the used members and where their contents are (start, size), by the headers of a plain tar.

    Raises:
        UnusualTarError: see `_header`; a checksum that is wrong or signed; or an end before the last member's.
        DataError: a member's path leaves the folder.
    """
    names, places = [], []
    window, checksums = _Window(file), _Checksums()
    position = 0
    try:
        while any(header := window.read(position, 512)):
            checksums.add(header)
            path, kind, size = _header(header)
            start = position + 512
            position = start + -(-size // 512) * 512
            if position > file.size:
                raise UnusualTarError
            if kind == b"x":
                if _PAX_MATTERS.search(window.read(start, size)):
                    raise UnusualTarError
            elif name := wanted(path):
                names.append(name)
                places.append((start, size))
    except (EOFError, ValueError):
        raise UnusualTarError from None
    checksums.check()
    return names, places


class _Window:
    """Reads small pieces of a file: a member's pax header, what it says and the member's own header come together."""

    _SIZE = 2048

    def __init__(self, file: "_Joined") -> None:
        self._file, self._buffer = file, Buffer()
        self._start, self._content = 0, b""

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on. Raises EOFError when there are fewer."""
        place = start - self._start
        if place < 0 or place + size > len(self._content):
            self._file.seek(start)
            self._content = bytes(self._buffer.fill(self._file, max(size, min(self._SIZE, self._file.size - start))))
            self._start, place = start, 0
        return self._content[place : place + size]


class _Checksums:
    """Checks the checksums of headers many at a time: one by one that takes 3 µs each."""

    _MOST = 4096

    def __init__(self) -> None:
        self._headers: list[bytes] = []

    def add(self, header: bytes) -> None:
        self._headers.append(header)
        if len(self._headers) == self._MOST:
            self.check()

    def check(self) -> None:
        """Raises UnusualTarError when one is not the sum of its header's bytes, itself taken for spaces."""
        headers = np.frombuffer(b"".join(self._headers), np.uint8).reshape(-1, 512)
        sums = headers.sum(1, dtype=np.int64) - headers[:, _CHECKSUM].sum(1, dtype=np.int64) + 8 * ord(" ")
        if sums.tolist() != [_octal(header[_CHECKSUM]) for header in self._headers]:
            raise UnusualTarError
        self._headers = []


_CHECKSUM = slice(148, 156)


def _octal(field: bytes) -> int:
    try:
        return int(field.rstrip(b" \0"), 8)
    except ValueError:
        raise UnusualTarError from None


def _header(header: bytes) -> tuple[str, bytes, int]:
    """Path, kind and size of a member, by its header of 512 bytes.

    Raises:
        UnusualTarError: a link, a long path, a size beyond octal, and so on.
    """
    size = _octal(header[124:136])
    path, kind, long_path = header[:100].partition(b"\0")[0], header[156:157], header[345]
    folder = kind == b"5" or path.endswith(b"/")
    if kind not in (b"0", b"\0", b"5", b"x") or long_path or size < 0 or (folder and size):
        raise UnusualTarError
    return path.decode("utf-8", "surrogateescape"), kind, size


def parts(source: Path) -> list[Path]:
    """`source` alone, or all parts of the same archive in order. Raises DataError when one is missing."""
    match = re.fullmatch(r"(.+\.)(part\w+|part-\d+|z?\d{1,3}|[a-z]{2})", source.name)
    if not match or source.suffix in (".gz", ".xz"):
        return [source]
    pattern = re.compile(re.escape(match[1]) + r"(part\w+|part-\d+|z?\d{1,3}|[a-z]{2})")
    there = (path for path in source.parent.iterdir() if pattern.fullmatch(path.name))
    found = sorted(there, key=lambda path: (len(path.name), path.name))  # part2 before part10
    for before, after in pairwise(found):
        if (_number(after) - _number(before)) % 26**2 > 1:
            raise DataError(
                f"the part of {source} after {before.name} is missing: the next one there is {after.name}",
                "Get it from where the others came, and repeat the command.",
            )
    return found


def _number(part: Path) -> int:
    """Which part it is, from aa or from a number on; 0 where the name does not tell."""
    if digits := re.search(r"\d+$", part.name):
        return int(digits[0])
    letters = re.search(r"(?:\.|part[-_]?)([a-z])([a-z])$", part.name)
    return 26 * ord(letters[1]) + ord(letters[2]) if letters else 0


def size_of_source(source: Path) -> int:
    """Bytes of an archive with all its parts; 0 for a folder."""
    return 0 if source.is_dir() else sum(part.stat().st_size for part in parts(source))


class _Joined(io.RawIOBase):
    """Several files read as one, of `size` bytes."""

    def __init__(self, parts: list[Path]) -> None:
        self._files = [io.FileIO(part) for part in parts]
        *self._starts, self.size = accumulate((os.fstat(file.fileno()).st_size for file in self._files), initial=0)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET, "nobody needs the others"
        self._position = offset
        return offset

    def readinto(self, place: memoryview) -> int:  # type: ignore[override]
        number = bisect_right(self._starts, self._position) - 1
        self._files[number].seek(self._position - self._starts[number])
        count = self._files[number].readinto(place) or 0
        self._position += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
