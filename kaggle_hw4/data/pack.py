"""Archive → packed store: check every tensor, write all frames into one file and an index."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kaggle_hw4.competition import N_MELS, TABLE_NAMES
from kaggle_hw4.data.archive import Archive, Folder, Zip, check_source, starts_like_zip
from kaggle_hw4.data.features import AGAIN, Content, read_features
from kaggle_hw4.data.processes import in_processes, process_count
from kaggle_hw4.data.store import Store, digest, open_store, write_index
from kaggle_hw4.data.tables import Tables, read_tables
from kaggle_hw4.data.tar import Tar, UnusualTarError, parts, size_of_source, stream_tar
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import atomic_path

_BLOCK_FRAMES = 8192  # checked and written together: utterance by utterance, that takes 27 µs each instead of 15
_TASK = 64  # utterances that a process packs before it reports
_WORTH_A_PROCESS = 8  # such tasks: forking one takes 10 ms
Progress = Callable[[int, int | None], None]


class Packed(NamedTuple):
    """An utterance in the store."""

    offset: int
    length: int
    digest: str
    stored: str


def pack(source: Path, folder: Path, *, competition: str, dtype: str, progress: Progress) -> Store:
    """Pack the competition at `source` into the new store `folder`.

    `source` is a folder, a `.zip`, a `.tar`/`.tar.gz`, or any of several parts of a tar
    (`Dataset.tar.gz.partaa`, `….001`). The store appears under its name only when complete; one
    member of the archive at a time is in the memory of each process. `progress(done, total)` counts
    utterances; the total is None until the tables are read.

    Raises:
        DataError: the archive is damaged or has a member whose path leaves the folder; what
            `read_tables` and `read_features` refuse; or an utterance that is missing, there twice, or
            not of the length in its table.
        UsageError: `source` does not exist.
    """
    check_source(source)
    source_bytes = size_of_source(source)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        tables, utterances = _pack(source, temporary / "frames.bin", dtype, progress)
        index = tables.utterances
        packed = [utterances[name] for name in index["id"]]
        index["offset"] = [utterance.offset for utterance in packed]
        index["digest"] = [utterance.digest for utterance in packed]
        index["stored"] = [utterance.stored for utterance in packed]
        write_index(
            temporary,
            index[["id", "speaker", "offset", "length", "digest", "stored"]],
            speakers=tables.speakers,
            total_frames=sum(utterance.length for utterance in utterances.values()),
            dtype=dtype,
            competition=competition,
            source=str(source.resolve()),
            source_bytes=source_bytes,
        )
    return open_store(folder)


def _pack(source: Path, frames: Path, dtype: str, progress: Progress) -> tuple[Tables, dict[str, Packed]]:
    try:
        archive = _open(source)
    except UnusualTarError:
        return _pack_stream(stream_tar(source), frames, dtype, progress)
    with closing(archive):
        return _pack_archive(archive, frames, dtype, progress)


def _open(source: Path) -> Archive:
    if source.is_dir():
        return Folder(source)
    if not starts_like_zip(source):
        return Tar(source)
    try:
        return Zip(source)
    except DataError:
        if len(found := parts(source)) == 1:
            raise
        joined = f"cat {' '.join(part.name for part in found)} > {source.name.rpartition('.')[0]}"
        raise DataError(f"{source} is a part of a zip, which can only be read whole", f"Join them: {joined}") from None


def _pack_archive(archive: Archive, frames: Path, dtype: str, progress: Progress) -> tuple[Tables, dict[str, Packed]]:
    """Pack files that can be read in any order: several processes, each in its part of `frames`."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(archive.names):
        _check_new(name, numbers)
        numbers[name] = number
    tables = read_tables({name: bytes(archive.read(numbers[name])) for name in TABLE_NAMES if name in numbers})
    expected = _expected(tables)
    _check_complete(expected, numbers)
    progress(0, len(expected))
    work = _Packer(archive, frames, dtype, expected)
    utterances: dict[str, Packed] = {}
    for done in in_processes(work, work.tasks, process_count(len(work.tasks) // _WORTH_A_PROCESS)):
        utterances |= done
        progress(len(utterances), len(expected))
    return tables, utterances


class _Packer:
    """Packs a part of an archive, whole or in a process of its own; `tasks` are all parts.

    The tables give all lengths, so that the place of every utterance is known before it is read.
    """

    def __init__(self, archive: Archive, frames: Path, dtype: str, expected: dict[str, int]) -> None:
        self.archive, self.frames, self.dtype, self.expected = archive, frames, dtype, expected
        members = [(number, name) for number, name in enumerate(archive.names) if name in expected]
        starts = np.cumsum([0, *(expected[name] for _, name in members)])
        self.tasks = [(int(starts[i]), members[i : i + _TASK]) for i in range(0, len(members), _TASK)]
        frames.touch()

    def __call__(self, tasks: Sequence[tuple[int, list[tuple[int, str]]]]) -> Iterator[dict[str, Packed]]:
        self.archive.reopen()
        with closing(self.archive), open(self.frames, "r+b", buffering=0) as file, _one_thread():
            writer = _Writer(file, self.dtype)
            for start, members in tasks:
                writer.go_to(start)
                packed = {}
                for number, name in members:
                    packed[name] = writer.add(name, self.archive.read(number))
                    _check_length(name, packed[name], self.expected[name])
                writer.flush()
                yield packed


@contextmanager
def _one_thread() -> Iterator[None]:
    """The processes have a core each: threads that cast for them would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pack_stream(
    members: Iterable[tuple[str, Content]], frames: Path, dtype: str, progress: Progress
) -> tuple[Tables, dict[str, Packed]]:
    """Pack files as they come: a tar may bring its tables last."""
    raw_tables: dict[str, bytes] = {}
    expected: dict[str, int] | None = None
    utterances: dict[str, Packed] = {}
    with open(frames, "wb", buffering=0) as file:
        writer = _Writer(file, dtype)
        for name, content in members:
            _check_new(name, raw_tables if name in TABLE_NAMES else utterances)
            if name in TABLE_NAMES:
                raw_tables[name] = bytes(content)
                if len(raw_tables) == len(TABLE_NAMES):
                    expected = _expected(read_tables(raw_tables))
            elif expected is None or name in expected:
                utterances[name] = writer.add(name, content)
                if expected:
                    _check_length(name, utterances[name], expected[name])
                if len(utterances) % _TASK == 0:
                    progress(len(utterances), len(expected) if expected else None)
        writer.flush()
    tables = read_tables(raw_tables)
    expected = _expected(tables)
    _check_complete(expected, utterances)
    for name, length in expected.items():
        _check_length(name, utterances[name], length)
    progress(len(expected), len(expected))
    return tables, utterances


class _Writer:
    """Writes utterances one after the other, from the first frame of the store or from where it is told to."""

    def __init__(self, file: FileIO, dtype: str) -> None:
        self.file = file
        self.position = 0  # frames taken
        self.dtype = getattr(torch, dtype)
        self._make_room(_BLOCK_FRAMES)
        self.waiting: list[tuple[str, int]] = []  # what lies in the block, with where it ends there
        self.used = 0

    def _make_room(self, frames: int) -> None:
        self.room = frames
        self.block = torch.empty((frames, N_MELS), dtype=self.dtype)
        self.numbers = self.block.numpy()  # the same memory

    def go_to(self, frame: int) -> None:
        self.position = frame
        self.file.seek(frame * N_MELS * self.block.element_size())

    def add(self, name: str, content: Content) -> Packed:
        features = read_features(name, content)
        length, end = len(features), self.used + len(features)
        if end > self.room:
            self.flush()
            end = length
            if length > self.room:
                self._make_room(length)
        self.block[self.used : end] = torch.from_numpy(features)  # 4 µs of casting, where numpy takes 50
        self.waiting.append((name, end))
        self.used = end
        self.position += length
        stored = self.numbers[end - length : end]
        return Packed(self.position - length, length, digest(features), digest(stored))

    def flush(self) -> None:
        """Write what waits. Raises DataError when it is not all finite numbers."""
        if not self.waiting:
            return
        frames = self.numbers[: self.used]
        if not _finite(frames):
            bad = np.flatnonzero(~np.isfinite(frames).all(1))[0]
            name = next(name for name, end in self.waiting if bad < end)
            raise DataError(f"{name} holds values that are not finite numbers", AGAIN)
        content = frames.data.cast("B")
        while len(content):  # a disk that is nearly full takes a part, then refuses
            content = content[self.file.write(content) :]
        self.used, self.waiting = 0, []


def _expected(tables: Tables) -> dict[str, int]:
    """Lengths by name."""
    return dict(zip(tables.utterances["id"], tables.utterances["length"].tolist(), strict=True))


def _check_new(name: str, known: Iterable[str]) -> None:
    if name in known:
        raise DataError(f"{name} is in the archive twice", AGAIN)


def _check_complete(expected: dict[str, int], there: Iterable[str]) -> None:
    if missing := [name for name in expected if name not in there]:
        raise DataError(f"{len(missing)} listed utterances are missing, the first is {missing[0]}", AGAIN)


def _check_length(name: str, utterance: Packed, expected: int) -> None:
    if utterance.length != expected:
        raise DataError(f"{name} has {utterance.length} frames, its table says {expected}", AGAIN)


def _finite(frames: np.ndarray) -> bool:
    """Whether all `frames` are finite numbers; of float16 by their bits, 8 times as fast as np.isfinite."""
    if frames.dtype != np.float16:
        return bool(np.isfinite(frames).all())
    bits = frames.view(np.uint16)  # infinity is 7C00, beyond are the NaNs; below zero 8000 is added
    return int(bits.max(initial=0)) < 0xFC00 and int(bits.view(np.int16).max(initial=0)) < 0x7C00
