"""The competition's files in a folder, a zip, a tar(.gz) or its parts; nothing is extracted.

Everything else in it is skipped: macOS `._*` files, the TorchScript extras of some copies. The folder
inside (`Dataset/`) does not matter.
"""

import errno
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from kaggle_hw4.competition import TABLE_NAMES
from kaggle_hw4.data.fast_zlib import zlib as fast_zlib
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.workspace import MOST_BYTES

FEATURE_NAME = re.compile(r"uttr-[0-9a-f]{32}\.pt")
_PLAIN_PATH = re.compile(r"(?:\w+/)*(uttr-[0-9a-f]{32}\.pt)", re.ASCII)
# What zipfile, tarfile and the decompressors raise on damage; an OSError may also be the disk's.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
)
_MOST_UNPACKED = 100  # times the size of an archive; what deflate makes of float32 log-mels is 10 % smaller
_ALWAYS_UNPACKED = 1 << 28  # bytes, of an archive as small as it likes


def wanted(path: str) -> str | None:
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


def is_the_disks(error: Exception) -> bool:
    """Whether one of `DAMAGE` says nothing about the archive: on bad data bzip2 gives no number, a seek EINVAL."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def damaged(source: Path, error: Exception) -> Exception:
    """What to raise instead of one of `DAMAGE`."""
    if is_the_disks(error):
        return error
    return DataError(f"{source} is damaged or not an archive: {error}", "Download it again and repeat the command.")


def check_amount(source: Path, size: int, unpacked: int) -> None:
    """Raises DataError when an archive of `size` bytes unpacks to more than recordings can."""
    if unpacked > max(_MOST_UNPACKED * size, _ALWAYS_UNPACKED):
        raise DataError(
            f"{source} has {size:,} bytes and unpacks to {unpacked:,}: it was made to fill disk and memory",
            "This is not the competition's archive: get it from Kaggle again.",
        )


class Buffer:
    """Memory that takes one content after the other: new memory for each costs 5 µs more."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(1 << 20))

    def fill(self, file: io.RawIOBase, size: int) -> memoryview:
        """The next `size` bytes of `file`. Raises EOFError when there are fewer, ValueError when these are too many."""
        if size > MOST_BYTES:
            raise ValueError(f"a file in it has {size:,} bytes, no file of the competition has {MOST_BYTES:,}")
        if size > len(self._memory):
            self._memory = memoryview(bytearray(size))
        content = self._memory[:size]
        done = file.readinto(content) or 0
        while done < size:  # at the end of a part, say
            count = file.readinto(content[done:])
            if not count:
                raise EOFError("unexpected end of data")
            done += count
        return content


class Archive(ABC):
    """Files that can be read in any order, each by its place in `names`: as they lie there, the used ones only."""

    def __init__(self, source: Path, names: list[str]) -> None:
        self.source = source
        self.names = names
        self.buffer = Buffer()

    def read(self, number: int) -> memoryview | bytearray:
        """The content of file `number`, writable; gone when the next one is read.

        Raises:
            DataError: the archive is damaged there.
        """
        try:
            return self._read(number)
        except DAMAGE as error:
            raise damaged(self.source, error) from error

    @abstractmethod
    def _read(self, number: int) -> memoryview | bytearray: ...

    @abstractmethod
    def reopen(self) -> None:
        """To be called in a new process: one that shares the place in a file with another reads anything."""

    @abstractmethod
    def close(self) -> None: ...


class Folder(Archive):
    """The files of a folder, or of `Dataset` in it."""

    def __init__(self, source: Path) -> None:
        self.root = source if (source / TABLE_NAMES[0]).exists() else source / "Dataset"
        if not (self.root / TABLE_NAMES[0]).exists():
            raise DataError(
                f"{source} holds no {TABLE_NAMES[0]}",
                "Give the folder that holds it, or the one above `Dataset`.",
            )
        with os.scandir(self.root) as entries:  # no pipes: one would wait for them
            super().__init__(source, sorted(entry.name for entry in entries if wanted(entry.name) and entry.is_file()))

    def _read(self, number: int) -> memoryview:
        with io.FileIO(f"{self.root}/{self.names[number]}") as file:  # `open` asks whether it is a terminal, too
            return self.buffer.fill(file, os.fstat(file.fileno()).st_size)

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


_ENCRYPTED_OR_PATCHED = 0b110_0001  # flags that only zipfile knows how to refuse


class Zip(Archive):
    """The members of a zip archive."""

    def __init__(self, source: Path) -> None:
        try:
            with zipfile.ZipFile(source) as archive:
                found = [(name, info) for info in archive.infolist() if (name := wanted(info.filename))]
        except DAMAGE as error:
            raise damaged(source, error) from error
        super().__init__(source, [name for name, _ in found])
        self._infos = [info for _, info in found]
        check_amount(source, source.stat().st_size, sum(info.file_size for info in self._infos))
        self._file = io.FileIO(source)
        self._archive: zipfile.ZipFile | None = None

    def _read(self, number: int) -> memoryview | bytearray:
        content = self._directly(self._infos[number])
        return self._by_zipfile(self._infos[number]) if content is None else content

    def _by_zipfile(self, member: zipfile.ZipInfo) -> bytearray:
        if self._archive is None:  # once: to read the directory of a large archive takes a second
            self._archive = zipfile.ZipFile(self.source)
        return read_member(self._archive, member)

    def _directly(self, member: zipfile.ZipInfo) -> memoryview | bytearray | None:
        """The content of a member with the right CRC, 30 µs faster than zipfile reads it (300 if it is deflated).

        None for an unusual member and in any doubt: zipfile then reads it, or says what is wrong.
        """
        if member.file_size > MOST_BYTES:
            raise ValueError(f"{member.filename} is said to have {member.file_size:,} bytes")
        if (
            member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            or member.flag_bits & _ENCRYPTED_OR_PATCHED
        ):
            return None
        file, name = self._file, member.orig_filename.encode()
        file.seek(member.header_offset)
        header = bytes(self.buffer.fill(file, 30 + len(name)))
        name_length, extra_length = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        if header[:4] != b"PK\3\4" or name_length != len(name) or header[30:] != name:
            return None
        file.seek(extra_length, os.SEEK_CUR)
        content: memoryview | bytearray = self.buffer.fill(file, member.compress_size)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            try:
                most = member.file_size + 1  # 0 would be: whatever there is
                content = bytearray(fast_zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, most))
            except fast_zlib.error:  # type: ignore[misc]  # its stub takes the class for an instance
                return None
        return content if len(content) == member.file_size and fast_zlib.crc32(content) == member.CRC else None

    def reopen(self) -> None:
        self._file, self._archive = io.FileIO(self.source), None

    def close(self) -> None:
        self._file.close()
        if self._archive:
            self._archive.close()


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytearray:
    """The content of a member, of no more bytes than the directory says. Raises one of `DAMAGE`."""
    content = bytearray()
    with archive.open(member) as file:
        while piece := file.read(4096):  # all at once, bzip2 and lzma would unpack whatever there is
            content += piece
    return content


def check_source(source: Path) -> None:
    """Raises UsageError when there is no such file or folder."""
    if not source.is_file() and not source.is_dir():
        raise UsageError(f"{source} does not exist", "Give a folder, a .zip or a .tar.gz with --from.")


def starts_like_zip(source: Path) -> bool:
    # zipfile.is_zipfile looks at the end, where a tar of .pt files (zips themselves) looks like one too.
    with open(source, "rb") as file:
        return file.read(2) == b"PK"
