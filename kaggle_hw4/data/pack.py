"""Archive → packed store: stream the members, check every tensor, write one file and an index."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from kaggle_hw4.competition import N_MELS, TABLE_NAMES
from kaggle_hw4.data.archive import read_members
from kaggle_hw4.data.store import Store, open_store, write_index
from kaggle_hw4.data.tables import Tables, read_tables
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import atomic_path

_AGAIN = "The archive is damaged or was changed: get it from Kaggle again."
Progress = Callable[[int, int | None], None]


def pack(source: Path, folder: Path, *, competition: str, dtype: str, progress: Progress) -> Store:
    """Pack the competition at `source` (see `read_members`) into the new store `folder`.

    The store appears under its name only when complete; one member of the archive is in memory
    at a time. `progress(done, total)` counts utterances; the total is None until the tables are read.

    Raises:
        DataError: the refusals of `read_members`, `read_tables` and `read_features`, or an utterance
            that is missing, there twice, or not of the length in its table.
        UsageError: `source` is of no known kind.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        with open(temporary / "frames.bin", "wb") as file:
            packer = _Packer(file, dtype, progress)
            for name, content in read_members(source):
                packer.add(name, content)
            tables = packer.finish()
            total_frames = file.tell() // (N_MELS * np.dtype(dtype).itemsize)
        index = tables.utterances
        index["offset"] = [packer.offsets[name] for name in index["id"]]
        index["digest"] = [packer.digests[name] for name in index["id"]]
        write_index(
            temporary,
            index[["id", "speaker", "offset", "length", "digest"]],
            speakers=tables.speakers,
            total_frames=total_frames,
            dtype=dtype,
            competition=competition,
            source=str(source.resolve()),
        )
    return open_store(folder)


class _Packer:
    """Takes the members in any order: a tar may bring its tables last."""

    def __init__(self, file: BinaryIO, dtype: str, progress: Progress) -> None:
        self.file = file
        self.dtype = getattr(torch, dtype)
        self.progress = progress
        self.raw_tables: dict[str, bytes] = {}
        self.tables: Tables | None = None
        self.expected: dict[str, int] = {}  # length by name, once the tables are known
        self.offsets: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.position = 0

    def add(self, name: str, content: bytes) -> None:
        if name in self.raw_tables:
            raise DataError(f"{name} is in the archive twice", _AGAIN)
        if name in TABLE_NAMES:
            self.raw_tables[name] = content
            if len(self.raw_tables) == len(TABLE_NAMES):
                self._read_tables()
        elif self.tables is None or name in self.expected:
            self._add_features(name, content)

    def finish(self) -> Tables:
        tables = self.tables or self._read_tables()  # says which table is missing
        if missing := [name for name in self.expected if name not in self.offsets]:
            raise DataError(f"{len(missing)} listed utterances are missing, the first is {missing[0]}", _AGAIN)
        for name, length in self.expected.items():
            self._check_length(name, length)
        return tables

    def _read_tables(self) -> Tables:
        self.tables = read_tables(self.raw_tables)
        utterances = self.tables.utterances
        self.expected = dict(zip(utterances["id"], utterances["length"].tolist(), strict=True))
        return self.tables

    def _add_features(self, name: str, content: bytes) -> None:
        if name in self.offsets:
            raise DataError(f"{name} is in the archive twice", _AGAIN)
        features = read_features(name, content)
        frames = features.to(self.dtype)
        if not torch.isfinite(frames).all():
            raise DataError(f"{name} holds values that are not finite numbers", _AGAIN)
        self.offsets[name], self.lengths[name] = self.position, len(frames)
        self.digests[name] = hashlib.blake2b(features.numpy().tobytes(), digest_size=16).hexdigest()
        if name in self.expected:
            self._check_length(name, self.expected[name])
        self.file.write(frames.numpy().tobytes())
        self.position += len(frames)
        self.progress(len(self.offsets), len(self.expected) or None)

    def _check_length(self, name: str, expected: int) -> None:
        if self.lengths[name] != expected:
            raise DataError(f"{name} has {self.lengths[name]} frames, its table says {expected}", _AGAIN)


def read_features(name: str, content: bytes) -> torch.Tensor:
    """Read one `.pt` file: float32, (frames, 40), contiguous, on the CPU. Code in it is never run.

    Raises:
        DataError: not a tensor of that kind.
    """
    try:
        features = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its many readers do: all mean the same here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name} is not a saved tensor: {reason}", _AGAIN) from error
    if not isinstance(features, torch.Tensor):
        raise DataError(f"{name} holds a {type(features).__name__}, not a tensor", _AGAIN)
    dense = features.layout == torch.strided and features.device.type == "cpu"
    if not dense or features.dtype != torch.float32 or features.ndim != 2 or features.shape[1] != N_MELS:
        shape = tuple(features.shape)
        raise DataError(f"{name} is {features.dtype} {shape}, not float32 (frames, {N_MELS})", _AGAIN)
    return features.detach().contiguous()
