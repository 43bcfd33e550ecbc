"""A competition of noise, in the layout and with the lengths of the real one: as a folder and as archives."""

import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kaggle_hw4.competition import N_MELS

FOLDER = "Dataset"
ARCHIVES = {"tar": "dataset.tar", "stored_zip": "stored.zip", "deflated_zip": "deflated.zip"}
# The real lengths are log-normal with another width on either side of the median (mean 657, here 660 or so).
_MEDIAN, _SHORTEST, _LONGEST, _WIDTH_BELOW, _WIDTH_ABOVE = 540, 91, 7193, 0.233, 0.55


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    speakers: int
    train: int  # labelled utterances of each speaker
    test: int  # utterances to name, of all speakers together
    rounds: int
    batches: int  # of a loader, in a round
    steps: int  # of each training, in a round

    @property
    def files(self) -> int:
        return self.speakers * self.train + self.test


FULL = Sizes(speakers=600, train=8, test=120, rounds=11, batches=100, steps=10)
QUICK = Sizes(speakers=600, train=5, test=24, rounds=4, batches=24, steps=3)


def write_competition(folder: Path, sizes: Sizes) -> np.ndarray:
    """Write `folder`/Dataset and the ARCHIVES of it; returns the lengths of all utterances, the test's last."""
    rng = np.random.default_rng(0)
    lengths = draw_lengths(sizes.files, rng)
    (folder / FOLDER).mkdir(parents=True)
    entries = [_write_utterance(folder / FOLDER, int(length), rng) for length in lengths]
    names = [f"id{number:05d}" for number in range(sizes.speakers)]
    numbers = {name: number for number, name in enumerate(names)}
    tables = {
        "metadata.json": {
            "n_mels": N_MELS,
            "speakers": {name: entries[number * sizes.train :][: sizes.train] for name, number in numbers.items()},
        },
        "testdata.json": {"n_mels": N_MELS, "utterances": entries[sizes.speakers * sizes.train :]},
        "mapping.json": {
            "speaker2id": numbers,
            "id2speaker": {str(number): name for name, number in numbers.items()},
        },
    }
    for name, table in tables.items():
        (folder / FOLDER / name).write_text(json.dumps(table))
    _write_archives(folder)
    return lengths


def draw_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of `count` utterances, in frames."""
    z = rng.standard_normal(count)
    lengths = _MEDIAN * np.exp(z * np.where(z < 0, _WIDTH_BELOW, _WIDTH_ABOVE))
    return lengths.clip(_SHORTEST, _LONGEST).astype(np.int64)


def _write_utterance(folder: Path, length: int, rng: np.random.Generator) -> dict[str, Any]:
    path = f"uttr-{rng.bytes(16).hex()}.pt"
    torch.save(torch.from_numpy(rng.standard_normal((length, N_MELS), dtype=np.float32) * 3 - 2), folder / path)
    return {"feature_path": path, "mel_len": length}


def _write_archives(folder: Path) -> None:
    with (
        tarfile.open(folder / ARCHIVES["tar"], "w") as tar,
        zipfile.ZipFile(folder / ARCHIVES["stored_zip"], "w", zipfile.ZIP_STORED) as stored,
        zipfile.ZipFile(folder / ARCHIVES["deflated_zip"], "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for path in sorted((folder / FOLDER).iterdir()):
            name = f"{FOLDER}/{path.name}"
            tar.add(path, name)
            stored.write(path, name)
            deflated.write(path, name)
