"""Archive → packed store: stream the members, check every tensor, write one file and an index."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from kaggle_hw4.competition import N_MELS, TABLE_NAMES
from kaggle_hw4.data.archive import read_members
from kaggle_hw4.data.features import AGAIN, Content, digest, read_features
from kaggle_hw4.data.store import Store, open_store, write_index
from kaggle_hw4.data.tables import Tables, read_tables
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import atomic_path

_BLOCK_FRAMES = 8192  # checked and written together: utterance by utterance, that takes 27 µs each instead of 15
_PROGRESS_EVERY = 50  # utterances: a progress bar takes 15 µs an update
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
        with open(temporary / "frames.bin", "wb") as file, ThreadPoolExecutor(1) as writer:
            packer = _Packer(file, writer, dtype, progress)
            for name, content in read_members(source):
                packer.add(name, content)
            tables = packer.finish()
        index = tables.utterances
        index["offset"] = [packer.offsets[name] for name in index["id"]]
        index["digest"] = [packer.digests[name] for name in index["id"]]
        write_index(
            temporary,
            index[["id", "speaker", "offset", "length", "digest"]],
            speakers=tables.speakers,
            total_frames=packer.position,
            dtype=dtype,
            competition=competition,
            source=str(source.resolve()),
        )
    return open_store(folder)


class _Packer:
    """Takes the members in any order: a tar may bring its tables last."""

    def __init__(self, file: BinaryIO, writer: Executor, dtype: str, progress: Progress) -> None:
        self.file = file
        # Blocks are checked and written while the next one is filled: 18 of 73 µs per utterance.
        self.writer = writer
        self.written: Future[None] | None = None
        self.block, self.other = torch.empty((2, _BLOCK_FRAMES, N_MELS), dtype=getattr(torch, dtype))
        self.waiting = 0  # frames in the block
        self.progress = progress
        self.raw_tables: dict[str, bytes] = {}
        self.tables: Tables | None = None
        self.expected: dict[str, int] = {}  # length by name, once the tables are known
        self.offsets: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.position = 0  # frames taken

    def add(self, name: str, content: Content) -> None:
        if name in self.raw_tables:
            raise DataError(f"{name} is in the archive twice", AGAIN)
        if name in TABLE_NAMES:
            self.raw_tables[name] = bytes(content)
            if len(self.raw_tables) == len(TABLE_NAMES):
                self._read_tables()
        elif self.tables is None or name in self.expected:
            self._add_features(name, content)

    def finish(self) -> Tables:
        self._hand_over()
        self._hand_over()  # an empty one: the last is written
        tables = self.tables or self._read_tables()  # says which table is missing
        if missing := [name for name in self.expected if name not in self.offsets]:
            raise DataError(f"{len(missing)} listed utterances are missing, the first is {missing[0]}", AGAIN)
        for name, length in self.expected.items():
            self._check_length(name, length)
        self.progress(len(self.expected), len(self.expected))
        return tables

    def _read_tables(self) -> Tables:
        self.tables = read_tables(self.raw_tables)
        utterances = self.tables.utterances
        self.expected = dict(zip(utterances["id"], utterances["length"].tolist(), strict=True))
        return self.tables

    def _add_features(self, name: str, content: Content) -> None:
        if name in self.offsets:
            raise DataError(f"{name} is in the archive twice", AGAIN)
        features = read_features(name, content)
        self.offsets[name], self.lengths[name] = self.position, len(features)
        self.digests[name] = digest(features)
        if name in self.expected:
            self._check_length(name, self.expected[name])
        if self.waiting + len(features) > len(self.block):
            self._hand_over()
            if len(features) > len(self.block):
                self.block = torch.empty((len(features), N_MELS), dtype=self.block.dtype)
        # torch casts to float16 in 4 µs, numpy in 50.
        self.block[self.waiting : self.waiting + len(features)] = torch.from_numpy(features)
        self.waiting += len(features)
        self.position += len(features)
        if len(self.offsets) % _PROGRESS_EVERY == 0:
            self.progress(len(self.offsets), len(self.expected) or None)

    def _hand_over(self) -> None:
        """Have the block written, once the one before is, and go on with the other."""
        if self.written:
            self.written.result()
        self.written = self.writer.submit(self._write, self.block[: self.waiting].numpy(), self.position - self.waiting)
        self.block, self.other = self.other, self.block
        self.waiting = 0

    def _write(self, frames: np.ndarray, first: int) -> None:
        """Write `frames`, which begin at frame `first` of the store, if they are finite numbers."""
        if not _finite(frames):
            bad = first + np.flatnonzero(~np.isfinite(frames).all(1))[0]
            name = [name for name, offset in list(self.offsets.items()) if offset <= bad][-1]
            raise DataError(f"{name} holds values that are not finite numbers", AGAIN)
        self.file.write(frames.data)

    def _check_length(self, name: str, expected: int) -> None:
        if self.lengths[name] != expected:
            raise DataError(f"{name} has {self.lengths[name]} frames, its table says {expected}", AGAIN)


def _finite(frames: np.ndarray) -> bool:
    """Whether all `frames` are finite numbers; of float16 by their bits, 8 times as fast as np.isfinite."""
    if frames.dtype != np.float16:
        return bool(np.isfinite(frames).all())
    bits = frames.view(np.uint16)  # infinity is 7C00, beyond are the NaNs; below zero 8000 is added
    return int(bits.max(initial=0)) < 0xFC00 and int(bits.view(np.int16).max(initial=0)) < 0x7C00
