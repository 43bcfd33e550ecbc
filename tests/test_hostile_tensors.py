"""Utterances and checkpoints from anyone: programs, bombs, shapes that are none. No code in them is ever run."""

import io
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tiny
from hostile import MIB, Touch, bomb, bounded

from kaggle_hw4.data.features import read_features
from kaggle_hw4.data.saved import load_saved
from kaggle_hw4.errors import DataError

SAVED = tiny.tensor(np.zeros((3, 40)))


def with_pickle(program: bytes) -> bytes:
    """A saved tensor with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SAVED)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def nested(end: bytes) -> bytes:
    """A tuple of one tuple twice, 60 levels deep: its hash takes 2^60 steps."""
    return b"\x80\x02)q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + end


GROWING = b"\x80\x02X\x02\x00\x00\x00ab" + b"".join(
    b"q%cc_codecs\nencode\nh%cX\x03\x00\x00\x00hex\x86R" % (i, i) for i in range(60)
)
PROGRAMS: dict[str, bytes] = {
    "memory of 100 GB": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.",
    "memory of 100 GB, as Python 2 called it": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.",
    "a key that takes for ever": nested(b"0}h\x3cK\x01s."),
    "a storage's key that takes for ever": nested(b"0(X\7\0\0\0storagectorch\nFloatStorage\nh\x3cX\3\0\0\0cpuK\x01tQ."),
    "a string that doubles 60 times": GROWING + b".",
    "a tensor of any size": b"\x80\x02ctorch\nTensor\n\x8a\x05\x00\xe8\x76\x48\x17\x85R.",
    "no end": b"\x80\x02" + b"(" * 5000,
    "an endless string": b"\x80\x02X\xff\xff\xff\x7f",
    "a megabyte of nothing": b"\x80\x02" + b"N0" * MIB + b"N.",
}


@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_asks_for_memory_or_time_is_refused(what: str, old: bool) -> None:
    program = PROGRAMS[what]
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    content = start + program + pickle.dumps([], 2) if old else with_pickle(program)
    with bounded(60), pytest.raises(DataError, match="x is not a saved tensor"):
        read_features("x", bytearray(content))
    with bounded(60), pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch raises: load_checkpoint takes all
        load_saved(content, len(content))


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_with_code_is_never_run(tmp_path: Path, old: bool) -> None:
    program = pickle.dumps(Touch(tmp_path / "executed"), 2)
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    for content in (start + program + pickle.dumps([], 2) if old else with_pickle(program), program):
        with pytest.raises(DataError, match="x is not a saved tensor"):
            read_features("x", bytearray(content))
    assert list(tmp_path.iterdir()) == []


def test_the_pickle_that_was_checked_is_the_one_that_is_loaded() -> None:
    """zipfile and torch's reader may see different members: two directories, one name twice."""
    harmless, harmful = with_pickle(b"\x80\x02N."), with_pickle(PROGRAMS["a key that takes for ever"])
    for content in (harmless + harmful, harmful + harmless, harmful[:-22] + harmless):
        with bounded(60), suppress(DataError):
            read_features("x", bytearray(content))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_in_an_utterance_is_refused(tmp_path: Path, method: int) -> None:
    name = "archive/data/0"
    path = bomb(tmp_path / "a.zip", name, method)
    with zipfile.ZipFile(io.BytesIO(SAVED)) as old, zipfile.ZipFile(path, "a") as new:
        for other in old.namelist():
            if other != name:
                new.writestr(other, old.read(other))
    with bounded(), pytest.raises(DataError, match="unpacks to more than"):
        read_features("x", bytearray(path.read_bytes()))


@pytest.mark.parametrize(("frames", "stride"), [(2**62, 0), (2**40, 0), (2**40, 40), (4, 40), (-3, 40)])
def test_a_tensor_larger_than_its_storage_is_refused(frames: int, stride: int) -> None:
    program = zipfile.ZipFile(io.BytesIO(SAVED)).read("archive/data.pkl")
    assert program.count(b"K\x03K(\x86") == program.count(b"K(K\x01\x86") == 1  # shape (3, 40), strides (40, 1)
    program = program.replace(b"K\x03K(\x86", b"\x8a\x08" + struct.pack("<q", frames) + b"K(\x86")
    content = with_pickle(program.replace(b"K(K\x01\x86", b"K%cK%c\x86" % (stride, bool(stride))))
    with bounded(), pytest.raises(DataError):
        read_features("x", bytearray(content))
