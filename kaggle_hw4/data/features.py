"""One utterance file → an array: what torch.save writes for a plain tensor is read directly, the rest by torch.load."""

import re
import struct
import zlib
from functools import cache

import numpy as np
import torch

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.data.fast_zlib import zlib as fast_zlib
from kaggle_hw4.data.saved import load_saved
from kaggle_hw4.errors import DataError, first_line
from kaggle_hw4.workspace import MOST_BYTES

Content = memoryview | bytearray  # of a file; writable, as torch wants memory to be
AGAIN = "The archive is damaged or was changed: get it from Kaggle again."


def read_features(name: str, content: Content) -> np.ndarray:
    """Read one `.pt` file: float32, (frames, 40), contiguous. Code in it is never run.

    The array may lie in the memory of `content`.

    Raises:
        DataError: not a tensor of that kind, or damaged.
    """
    features = _read_plain(name, content)
    return _load(name, content) if features is None else features


# A .pt file is a zip: members stored as they are, then their directory, then the end, which says where that is.
_END = struct.Struct("<4s8xIIH")  # signature, size and place of the directory, length of a comment
_MEMBER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the padding that lie before the content
_NUMBERS = struct.Struct("<5I")
_FOLDER = rb"(?P=folder)/"  # all members lie in one


def _entry(name: bytes, *, crc: bytes = rb".{4}", sizes: bytes = rb".{8}", place: bytes = rb".{4}") -> bytes:
    """Pattern of the directory's entry for a stored member. There are two sizes: packed and unpacked."""
    return rb"PK\x01\x02\x00{4}\x08\x08\x00{6}" + crc + sizes + rb"..\x00{12}" + place + name


def _entry_of(content: bytes, name: bytes) -> bytes:
    """Pattern of the entry for a stored member that is `content`."""
    crc, size = (re.escape(struct.pack("<I", number)) for number in (zlib.crc32(content), len(content)))
    return _entry(name, crc=crc, sizes=size + size)


def _optional(entry: bytes) -> bytes:
    return rb"(?:" + entry + rb")?"


# What torch.save writes since version 1.6, in this order; the optional members came later.
_DIRECTORY = re.compile(
    _entry(rb"(?P<folder>[^/]+)/data\.pkl", sizes=rb"(?P<pickled>.{4})(?P=pickled)", place=rb"(?P<pickle>.{4})")
    + _optional(_entry(_FOLDER + rb"\.format_version"))
    + _optional(_entry(_FOLDER + rb"\.storage_alignment"))
    + _optional(_entry_of(b"little", _FOLDER + rb"byteorder"))
    + _entry(_FOLDER + rb"data/0", crc=rb"(?P<crc>.{4})", sizes=rb"(?P<size>.{4})(?P=size)", place=rb"(?P<data>.{4})")
    + _entry_of(b"3\n", _FOLDER + rb"version")
    + _optional(_entry(_FOLDER + rb"\.data/serialization_id")),
    re.DOTALL,
)


def _read_plain(name: str, content: Content) -> np.ndarray | None:
    """The array when `content` is a contiguous float32 tensor (frames, 40) exactly as torch.save writes it.

    None when there is any doubt. 10 µs with the checksum, where torch.load takes 200 and does not see a flipped bit.

    Raises:
        DataError: the checksum of the data is wrong.
    """
    try:
        end, length, place, comment = _END.unpack_from(content, len(content) - _END.size)
        directory = _DIRECTORY.fullmatch(content, place, place + length)
        if end != b"PK\5\6" or comment or not directory:
            return None
        numbers = _NUMBERS.unpack(b"".join(directory.group("pickled", "pickle", "crc", "size", "data")))
        pickled, pickle, crc, size, data = numbers
        pickle, data = _start(content, pickle), _start(content, data)
        frames, rest = divmod(size, 4 * N_MELS)
        if rest or not frames or data % 8 or content[pickle : pickle + pickled] != _pickle(frames):
            return None
        if content[data + size : data + size + 4] != b"PK\7\x08":  # what follows a member
            return None
        if crc != fast_zlib.crc32(content[data : data + size]):
            if crc:
                raise DataError(f"{name} is damaged: the checksum of its data differs", AGAIN)
            return None  # torch.save was told to leave checksums out
        return np.frombuffer(content, "<f4", frames * N_MELS, data).reshape(-1, N_MELS)
    except (struct.error, ValueError):
        return None


def _start(content: Content, place: int) -> int:
    """Where the content of the member at `place` starts. Raises ValueError if there is none."""
    signature, name, padding = _MEMBER.unpack_from(content, place)
    if signature != b"PK\3\4":
        raise ValueError
    return place + _MEMBER.size + name + padding


@cache
def _pickle(frames: int) -> bytes:
    """How a contiguous float32 tensor (frames, 40) is pickled that is all there is in its storage."""
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\0((X\7\0\0\0storageq\1ctorch\nFloatStorage\nq\2"
        b"X\1\0\0\x000q\3X\3\0\0\0cpuq\4"
        + _integer(frames * N_MELS)
        + b"tq\5QK\0"
        + _integer(frames)
        + b"K(\x86q\6K(K\1"
        b"\x86q\7\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b."
    )


def _integer(value: int) -> bytes:
    """As pickle writes it: in 1, 2 or 4 bytes."""
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    return b"M" + value.to_bytes(2, "little") if value < 1 << 16 else b"J" + value.to_bytes(4, "little")


def _load(name: str, content: Content) -> np.ndarray:
    """`read_features` by way of torch.load."""
    try:
        features = load_saved(content, MOST_BYTES)
    except Exception as error:  # torch.load raises whatever its many readers do: all mean the same here
        reason = first_line(error)
        raise DataError(f"{name} is not a saved tensor: {reason}", AGAIN) from error
    if not isinstance(features, torch.Tensor):
        raise DataError(f"{name} holds a {type(features).__name__}, not a tensor", AGAIN)
    dense = features.layout == torch.strided and features.device.type == "cpu"
    if not dense or features.dtype != torch.float32 or features.ndim != 2 or features.shape[1] != N_MELS:
        shape = tuple(features.shape)
        raise DataError(f"{name} is {features.dtype} {shape}, not float32 (frames, {N_MELS})", AGAIN)
    if features.untyped_storage().nbytes() < features.numel() * 4:  # a few values, repeated by strides
        raise DataError(f"{name} declares {len(features)} frames, more than it holds", AGAIN)
    return features.detach().contiguous().numpy()
