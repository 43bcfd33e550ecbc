"""The three JSON tables of the competition, read and checked against each other."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.data.archive import FEATURE_NAME
from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import MOST_BYTES, parse_json

_MOST_FRAMES = MOST_BYTES // (4 * N_MELS)  # of an utterance; the longest of the competition has some 10,000
_AGAIN = "The archive is incomplete or was changed: get it from Kaggle again."


@dataclass(frozen=True)
class Tables:
    """The utterances in the order of the tables, train first.

    `utterances` has the columns `id` (file name), `speaker` (class index, -1 for test) and
    `length` (frames); `speakers[i]` is the id of class i (the order of mapping.json).
    """

    utterances: pd.DataFrame
    speakers: list[str]


def read_tables(raw: dict[str, bytes]) -> Tables:
    """Parse the tables given as bytes by file name, and check them against each other.

    Raises:
        DataError: a table is missing or broken, two disagree, or a labelled utterance is also in
            the test table (the edition leak).
    """
    metadata, testdata, mapping = (_parse(name, raw) for name in ("metadata.json", "testdata.json", "mapping.json"))
    speakers = _speakers(mapping)
    labelled = _get("metadata.json", metadata, "speakers", dict)
    if set(labelled) != set(speakers):
        odd = sorted(set(labelled) ^ set(speakers))
        raise DataError(f"metadata.json and mapping.json name different speakers: {_some(odd)}", _AGAIN)
    for name, table in (("metadata.json", metadata), ("testdata.json", testdata)):
        if _get(name, table, "n_mels", int) != N_MELS:
            raise DataError(f"{name}: n_mels is {table['n_mels']}, not {N_MELS}", _AGAIN)

    index = {speaker: i for i, speaker in enumerate(speakers)}
    train = [(*_entry("metadata.json", e), index[s]) for s, entries in labelled.items() for e in _list(s, entries)]
    if silent := [speaker for speaker in speakers if not labelled[speaker]]:
        raise DataError(f"metadata.json has no utterance of {_some(silent)}", _AGAIN)
    test = [(*_entry("testdata.json", e), -1) for e in _get("testdata.json", testdata, "utterances", list)]
    _refuse_leak({row[0] for row in train}, {row[0] for row in test})
    utterances = pd.DataFrame(train + test, columns=["id", "length", "speaker"])
    if not test:
        raise DataError("testdata.json names no utterance", _AGAIN)
    if not utterances["id"].is_unique:
        twice = utterances["id"][utterances["id"].duplicated()].tolist()
        raise DataError(f"listed twice: {_some(twice)}", _AGAIN)
    return Tables(utterances, speakers)


def _refuse_leak(train: set[str], test: set[str]) -> None:
    if leak := sorted(train & test):
        raise DataError(
            f"{len(leak)} labelled utterances are also in the test table: {_some(leak)}",
            "The 2022 edition has the same files, split otherwise: its labels name most of the 2023 test set. "
            "A model trained on them has seen the answers, and its score means nothing. "
            "Use the three tables of one edition only.",
        )


def _parse(name: str, raw: dict[str, bytes]) -> Any:
    if name not in raw:
        raise DataError(f"{name} is missing", _AGAIN)
    try:
        return parse_json(raw[name])
    except ValueError as error:
        raise DataError(f"{name} is not valid JSON: {error}", _AGAIN) from error


def _get(name: str, table: Any, key: str, kind: type) -> Any:
    found = table.get(key) if isinstance(table, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):  # to Python true is a 1
        raise DataError(f"{name} has no {key!r} of the expected kind", _AGAIN)
    return found


def _list(speaker: str, entries: Any) -> list[Any]:
    if not isinstance(entries, list):
        raise DataError(f"metadata.json: the utterances of {speaker} are not a list", _AGAIN)
    return entries


def _entry(name: str, entry: Any) -> tuple[str, int]:
    path, length = _get(name, entry, "feature_path", str), _get(name, entry, "mel_len", int)
    if not FEATURE_NAME.fullmatch(path):
        raise DataError(f"{name}: feature_path {path!r} is not of the form uttr-<32 hex>.pt", _AGAIN)
    if not 1 <= length <= _MOST_FRAMES:
        raise DataError(f"{name}: {path} has mel_len {length}", _AGAIN)
    return path, length


def _speakers(mapping: Any) -> list[str]:
    """Speaker ids in class order, from both directions of mapping.json."""
    forward = _get("mapping.json", mapping, "speaker2id", dict)
    backward = _get("mapping.json", mapping, "id2speaker", dict)
    if any(not re.fullmatch(r"[\w.-]{1,100}", speaker) for speaker in forward):
        raise DataError("mapping.json: a speaker id holds other characters than letters, digits, '.', '_', '-'", _AGAIN)
    if any(type(i) is not int for i in forward.values()) or {str(i): s for s, i in forward.items()} != backward:
        raise DataError("mapping.json: speaker2id and id2speaker disagree", _AGAIN)
    if sorted(backward) != sorted(str(i) for i in range(len(forward))):
        raise DataError(f"mapping.json: the classes are not 0 … {len(forward) - 1}", _AGAIN)
    if len(forward) < 2:
        raise DataError("mapping.json names fewer than two speakers: there is nobody to tell apart", _AGAIN)
    return [backward[str(i)] for i in range(len(forward))]


def _some(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
