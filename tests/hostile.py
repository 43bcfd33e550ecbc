"""What tests of hostile input share: a small competition, and bounds of memory and time."""

import io
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny

from kaggle_hw4.errors import DataError

CONTENT = tiny.files(speakers=2, train=2, test=1)
FIRST = next(name for name in CONTENT if name.endswith(".pt"))
MIB = 1 << 20
DEEP = 100_000
_MOST_SECONDS = 20.0


@contextmanager
def bounded(mib: int = 100) -> Iterator[None]:
    """Fails when the block takes more memory or time than any input may."""
    tracemalloc.start()
    began = time.process_time()  # the machine may be busy
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mib * MIB
    assert time.process_time() - began < _MOST_SECONDS


def refused(source: Path, *words: str, mib: int = 100) -> None:
    """Packing it ends with one clear error and leaves nothing."""
    data = source.parent / "data"
    with bounded(mib), pytest.raises(DataError) as error:
        tiny.packed(source, data / "store")
    assert all(word in str(error.value) for word in words), error.value
    assert list(data.iterdir()) == []


def zipped(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, blob in content.items():
            archive.writestr(name, blob)
    return path


def patched(path: Path, name: str, place: int, value: bytes) -> Path:
    """The zip with `value` at `place` of the directory's entry for `name`."""
    blob = bytearray(path.read_bytes())
    entry = blob.rindex(name.encode()) - 46
    assert blob[entry : entry + 4] == b"PK\1\2"
    blob[entry + place : entry + place + len(value)] = value
    path.write_bytes(blob)
    return path


BOMB = 64 * MIB


@cache
def packed_zeros(method: int) -> bytes:
    """A zip of one member of 64 MiB zeros, named x."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("x" * len(FIRST), bytes(BOMB))
    return buffer.getvalue()


def bomb(path: Path, name: str, method: int) -> Path:
    """A zip whose member `name` is 64 MiB of zeros in few bytes; others can be appended."""
    path.write_bytes(packed_zeros(method).replace(b"x" * len(FIRST), name.encode().ljust(len(FIRST), b"\0")))
    return path


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))
