"""The packed store: all frames of all utterances in one file that is mapped into memory, and an index."""

import json
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from kaggle_hw4.competition import DEFAULT_SLUG, N_MELS
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import check_fields, content_hash, file_hash, read_json, write_json

FORMAT = 3
DTYPES = ("float16", "float32")


def _repack(folder: Path) -> str:
    """The command that packs it again, as it was packed as far as its header still tells."""
    told: dict[str, str] = {}
    with suppress(OSError, ValueError):
        head = (folder / "store.json").read_text(encoding="utf-8", errors="replace")
        found = re.findall(r'"(competition|source|dtype)": ("(?:[^"\\]|\\.)*"),', head)
        told = {name: json.loads(value) for name, value in found}
    competition, source = told.get("competition", DEFAULT_SLUG), told.get("source")
    options = "" if competition == DEFAULT_SLUG else f" --competition {shlex.quote(competition)}"
    downloaded = source and Path(source).parts[-2:] == ("data", f"{competition}.zip")  # as `data` finds it by itself
    if source and not downloaded and Path(source).exists():
        options += f" --from {shlex.quote(source)}"
    if told.get("dtype") == "float32":
        options += " --dtype float32"
    return f"Delete {folder} and pack it again: kaggle-hw4 data{options}"


@dataclass(frozen=True)
class Store:
    """The utterances of one competition.

    `index` has a row per utterance, train first, in the order of the competition's tables:
    `id` (file name), `speaker` (class index, -1 for test), `offset` and `length` (frames), `digest` (of
    the original tensor's bytes: equal for byte-identical twins) and `stored` (the digest of its frames
    as they lie here). `speakers[i]` is the id of class i. `hash` names the content, whatever the dtype.
    Positions in `index` are "rows".
    """

    folder: Path
    index: pd.DataFrame
    speakers: list[str]
    total_frames: int
    dtype: str
    competition: str
    source: str
    hash: str
    source_bytes: int = 0  # of the archive with all its parts; 0 of a folder, and in stores from before

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames (total frames, 40), mapped into memory. Copy-on-write, which torch can share without a warning.

        Raises DataError when they are not those that were packed.
        """
        path = self.folder / "frames.bin"
        frames = np.asarray(np.memmap(path, self.dtype, mode="c", shape=(self.total_frames, N_MELS)))
        for row, expected in enumerate(self.index["stored"].tolist()):
            start = self.offsets[row]
            if digest(frames[start : start + self.lengths[row]]) != expected:
                raise DataError(
                    f"{path} is damaged: the checksum of {self.index['id'].iloc[row]} differs", _repack(self.folder)
                )
        return frames

    @cached_property
    def offsets(self) -> np.ndarray:
        return self.index["offset"].to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        return self.index["length"].to_numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        return self.index["speaker"].to_numpy()

    @cached_property
    def train_rows(self) -> np.ndarray:
        return np.flatnonzero(self.labels >= 0)

    @cached_property
    def test_rows(self) -> np.ndarray:
        return np.flatnonzero(self.labels < 0)

    @property
    def test_ids(self) -> list[str]:
        return self.index["id"].iloc[self.test_rows].tolist()


def digest(features: np.ndarray) -> str:
    """The same for contiguous arrays of the same bytes and for no others: XXH3, 128 bits.

    2 µs for a mean utterance in float32, where BLAKE2b takes 132, SHA-256 72 and CRC-32 23. It tells
    recordings apart; it is no protection against someone who forges one.
    """
    return str(xxhash.xxh3_128_hexdigest(features.data))


def data_hash(index: pd.DataFrame, speakers: list[str]) -> str:
    """Names the content of a store: which tensors, under which names, by which speakers."""
    rows = list(zip(*(index[column].tolist() for column in ("id", "speaker", "digest")), strict=True))
    return content_hash([speakers, rows])


def write_index(
    folder: Path,
    index: pd.DataFrame,
    *,
    speakers: list[str],
    total_frames: int,
    dtype: str,
    competition: str,
    source: str,
    source_bytes: int,
) -> None:
    """Write what `open_store` reads beside `frames.bin`."""
    index.to_csv(folder / "index.csv", index=False)
    header = {
        "format": FORMAT,
        "competition": competition,
        "source": source,
        "source_bytes": source_bytes,
        "dtype": dtype,
        "total_frames": total_frames,
        "hash": data_hash(index, speakers),
        "index": file_hash(folder / "index.csv"),
        "speakers": speakers,
    }
    write_json(folder / "store.json", header)


_COLUMNS = {"id": str, "speaker": "int64", "offset": "int64", "length": "int64", "digest": str, "stored": str}


def _read_index(path: Path, header: dict[str, Any]) -> pd.DataFrame:
    """The index. Raises ValueError when it leads beyond the frames or speakers of the header."""
    index = pd.read_csv(path, dtype=_COLUMNS, usecols=list(_COLUMNS), keep_default_na=False)
    frames, labels = header["total_frames"], index["speaker"].to_numpy()
    if header["dtype"] not in DTYPES or not all(isinstance(name, str) for name in header["speakers"]):
        raise ValueError("its header is none")
    inside = (index["offset"] >= 0) & (index["length"] >= 1) & (index["length"] <= frames)
    inside &= index["offset"] <= frames - index["length"]
    if not (inside & (labels >= -1) & (labels < len(header["speakers"]))).all() or not index["id"].is_unique:
        raise ValueError("index.csv names frames or speakers that there are not, or an utterance twice")
    if (np.diff(labels >= 0) & (labels[1:] >= 0)).any():
        raise ValueError("index.csv has test utterances before those of the training table")
    return index


def open_store(folder: Path) -> Store:
    """Open a packed store.

    Raises:
        DataError: none there (says which command makes it), damaged, or of another version.
    """
    if not folder.is_dir():
        raise DataError(
            f"no data in {folder.parent}", "Run `kaggle-hw4 data` first (or `kaggle-hw4 data --from PATH`)."
        )
    again = _repack(folder)
    header = read_json(folder / "store.json", again)
    try:
        check_fields(header, format=int, index=str)
        if header.pop("format") != FORMAT:
            raise DataError(f"{folder} was packed by another version of kaggle-hw4", again)
        if header.pop("index") != file_hash(folder / "index.csv"):
            raise DataError(f"{folder}/index.csv is not the file that was written: its checksum differs", again)
        check_fields(header, competition=str, source=str, dtype=str, total_frames=int, hash=str, speakers=list)
        check_fields({"source_bytes": 0} | header, source_bytes=int)
        store = Store(folder, _read_index(folder / "index.csv", header), **header)
        expected = store.total_frames * N_MELS * np.dtype(store.dtype).itemsize
        actual = (folder / "frames.bin").stat().st_size
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise DataError(f"{folder} is damaged: {error}", again) from error
    if actual != expected:
        raise DataError(f"{folder}/frames.bin has {actual} bytes, not {expected}", again)
    return store
