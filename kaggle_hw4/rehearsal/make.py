"""Make an embedded competition: an archive as Kaggle would serve it, and the labels Kaggle keeps."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kaggle_hw4.competition import DEFAULT_SLUG, ID_COLUMN, LABEL_COLUMN, N_MELS
from kaggle_hw4.data.frontend import log_mel
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.rehearsal.voices import draw_speaker, utterance
from kaggle_hw4.workspace import atomic_path, read_json, storage_errors, write_json

ARCHIVE, LABELS, PARAMETERS = f"{DEFAULT_SLUG}.zip", "labels.csv", "rehearsal.json"
VOICES_VERSION = 2  # raised with every change to what a seed sounds like
_MOST_SPEAKERS = 10_000
_LONG_AGO = (2023, 3, 1, 0, 0, 0)  # the archive must not depend on when it was made
# macOS leaves such a file beside every real one; readers must not take it for a tensor.
_MACOS_LEFTOVER = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "


def make(
    folder: Path,
    *,
    speakers: int = 24,
    utterances: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None],
) -> None:
    """Write `folder`/ml2023springhw4.zip (the layout of the competition) and `folder`/labels.csv.

    A quarter of each speaker's `utterances`, rounded, is the test set. `progress` is called with the
    number of utterances made and of all. The same arguments give the same tensors and labels.
    A finished archive made with the same arguments is left as it is.

    Raises:
        UsageError: fewer than 2 speakers or 4 utterances, more than 10,000 speakers, a negative seed.
        DataError: `folder` holds an archive of other arguments or of unknown origin, or is not writable.
    """
    _check_arguments(speakers, utterances, seed)
    parameters = {"speakers": speakers, "utterances": utterances, "seed": seed, "voices": VOICES_VERSION}
    if _is_made(folder, parameters):
        return
    write_json(folder / PARAMETERS, parameters)
    casting, *voices = np.random.default_rng(seed).spawn(speakers + 1)
    names = [f"id{number:05d}" for number in casting.permutation(_MOST_SPEAKERS)[:speakers]]
    files = iter([f"uttr-{casting.bytes(16).hex()}.pt" for _ in range(speakers * utterances)])
    tests = round(utterances / 4)
    train: dict[str, list[dict[str, Any]]] = {}
    test: list[tuple[dict[str, Any], str]] = []

    # The archive comes last and whole: where it stands, everything is finished.
    with atomic_path(folder / ARCHIVE) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for done, (name, voice) in enumerate(zip(names, voices, strict=True)):
                speaker = draw_speaker(voice)
                rows = []
                for number, rng in enumerate(voice.spawn(utterances)):
                    rows.append(_add_tensor(archive, next(files), log_mel(utterance(speaker, rng))))
                    progress(done * utterances + number + 1, speakers * utterances)
                test += [(row, name) for row in rows[:tests]]
                train[name] = rows[tests:]
            _add(archive, f"._{train[names[0]][0]['feature_path']}", _MACOS_LEFTOVER)
            test = [test[i] for i in casting.permutation(len(test))]
            _add_tables(archive, train, [row for row, _ in test])
        _write_labels(folder / LABELS, [(row["feature_path"], name) for row, name in test])


def _check_arguments(speakers: int, utterances: int, seed: int) -> None:
    if not 2 <= speakers <= _MOST_SPEAKERS:
        raise UsageError(f"{speakers} speakers make no competition", f"Choose 2 to {_MOST_SPEAKERS}.")
    if utterances < 4:
        raise UsageError(
            f"{utterances} utterances per speaker cannot be split into train and test", "Choose 4 or more."
        )
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", "Choose 0 or more.")


def _is_made(folder: Path, parameters: dict[str, int]) -> bool:
    """Whether `folder` holds this competition already. Raises DataError when it holds another one."""
    archive = folder / ARCHIVE
    with storage_errors(archive):
        if not archive.exists():
            return False
    remedy = f"Choose another folder, or remove {archive} to make a new one."
    if not (folder / PARAMETERS).exists():
        raise DataError(f"{archive} was not made by `rehearsal make`", remedy)
    made = read_json(folder / PARAMETERS, remedy)
    if made != parameters:
        raise DataError(f"{archive} was made with {made}, not with {parameters}", remedy)
    return (folder / LABELS).exists()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(f"Dataset/{name}", _LONG_AGO)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    archive.writestr(member, content, compresslevel=1)


def _add_tensor(archive: zipfile.ZipFile, name: str, mel: torch.Tensor) -> dict[str, Any]:
    """Store a (mel_len, 40) tensor; returns its row in the tables."""
    content = io.BytesIO()
    torch.save(mel, content)
    _add(archive, name, content.getvalue())
    return {"feature_path": name, "mel_len": len(mel)}


def _add_tables(archive: zipfile.ZipFile, train: dict[str, list[dict[str, Any]]], test: list[dict[str, Any]]) -> None:
    # As in the original, classes are numbered in another order than the training table's (nor sorted).
    numbers = {name: number for number, name in enumerate(reversed(train))}
    tables = {
        "metadata.json": {"n_mels": N_MELS, "speakers": train},
        "testdata.json": {"n_mels": N_MELS, "utterances": test},
        "mapping.json": {
            "speaker2id": numbers,
            "id2speaker": {str(number): name for name, number in numbers.items()},
        },
    }
    for name, table in tables.items():
        _add(archive, name, json.dumps(table, indent=2).encode())


def _write_labels(path: Path, rows: list[tuple[str, str]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((ID_COLUMN, LABEL_COLUMN))
        writer.writerows(rows)
