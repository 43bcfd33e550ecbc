"""Tiny competitions in the real layout, of noise around a mean per speaker: easy to learn, quick to make."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kaggle_hw4.data.pack import pack
from kaggle_hw4.data.store import Store

SLUG = "ml2023springhw4"


def files(
    speakers: int = 4,
    train: int = 6,
    test: int = 2,
    *,
    shortest: int = 20,
    longest: int = 140,
    apart: float = 3.0,
    seed: int = 0,
) -> dict[str, bytes]:
    """The files of a competition by name: three tables, then `train` + `test` utterances of each speaker.

    The longest are longer than the crops of 128 frames that most variants take. With `apart` 0 all speakers are alike.
    """
    rng = np.random.default_rng(seed)
    names = [f"id{90 - i:05d}" for i in range(speakers)]
    content: dict[str, bytes] = {}
    entries: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        mean = rng.normal(-2, apart, 40)
        entries[name] = []
        for _ in range(train + test):
            length = int(rng.integers(shortest, longest + 1))
            path = f"uttr-{rng.bytes(16).hex()}.pt"
            content[path] = tensor(rng.normal(mean, 1.0, (length, 40)))
            entries[name].append({"feature_path": path, "mel_len": length})
    held_out = [entry for name in names for entry in entries[name][train:]]
    tables = {
        "metadata.json": {"n_mels": 40, "speakers": {name: entries[name][:train] for name in names}},
        "testdata.json": {"n_mels": 40, "utterances": held_out},
        "mapping.json": {
            "speaker2id": {name: i for i, name in enumerate(reversed(names))},
            "id2speaker": {str(i): name for i, name in enumerate(reversed(names))},
        },
    }
    return {name: json.dumps(table).encode() for name, table in tables.items()} | content


def tensor(value: Any) -> bytes:
    """`value` as torch.save writes it; an array becomes a float32 tensor."""
    buffer = io.BytesIO()
    torch.save(torch.tensor(value, dtype=torch.float32) if isinstance(value, np.ndarray) else value, buffer)
    return buffer.getvalue()


def table(content: dict[str, bytes], name: str) -> Any:
    return json.loads(content[name])


def as_folder(path: Path, content: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, blob in content.items():
        (path / name).write_bytes(blob)
    return path


def as_zip(path: Path, content: dict[str, bytes], *, prefix: str = "Dataset/") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in content.items():
            archive.writestr(f"{prefix}{name}", blob)
    return path


def as_tar(path: Path, content: dict[str, bytes], *, prefix: str = "Dataset/") -> Path:
    """Tables last, as a stream may bring them."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, blob in reversed(content.items()):
            info = tarfile.TarInfo(f"{prefix}{name}")
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
    return path


def packed(source: Path, folder: Path, dtype: str = "float16") -> Store:
    return pack(source, folder, competition=SLUG, dtype=dtype, progress=lambda done, total: None)


def store(tmp_path: Path, **options: Any) -> Store:
    """A packed tiny competition in `tmp_path`/data/store, as a workspace has it."""
    return packed(as_folder(tmp_path / "source", files(**options)), tmp_path / "data" / "store")
