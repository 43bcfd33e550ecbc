"""What `check` finds in data with known faults."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from written import Bench

from kaggle_hw4.check import Finding, check_data
from kaggle_hw4.data.store import open_store
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import make_folds
from kaggle_hw4.workspace import Workspace


def findings(root: Path, content: dict[str, bytes]) -> dict[str, Finding]:
    workspace = Workspace(root)
    tiny.packed(tiny.as_folder(root / "source", content), workspace.store)
    store = open_store(workspace.store)
    found = check_data(workspace, store, make_folds(store, workspace.folds_file, k=3), lambda what: None)
    return {finding.name: finding for finding in found}


def names(content: dict[str, bytes], speaker: int | None) -> list[str]:
    """File names of a speaker's training utterances, or of the test."""
    if speaker is None:
        return [entry["feature_path"] for entry in tiny.table(content, "testdata.json")["utterances"]]
    entries: Any = list(tiny.table(content, "metadata.json")["speakers"].values())[speaker]
    return [entry["feature_path"] for entry in entries]


def recording(seed: int, frames: int = 40) -> np.ndarray:
    """Something that changes over time, as speech does."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.normal(-2, 3, (frames // 4, 40)), 4, axis=0)


def put(content: dict[str, bytes], name: str, value: np.ndarray) -> None:
    """Write a tensor, and its length in the tables."""
    import json

    content[name] = tiny.tensor(value)
    for table_name in ("metadata.json", "testdata.json"):
        table = tiny.table(content, table_name)
        lists = table["speakers"].values() if "speakers" in table else [table["utterances"]]
        for entry in (entry for entries in lists for entry in entries if entry["feature_path"] == name):
            entry["mel_len"] = len(value)
        content[table_name] = json.dumps(table).encode()


def test_clean_data_has_no_findings(tmp_path: Path) -> None:
    found = findings(tmp_path, tiny.files(train=30, test=15, seed=3))
    assert [name for name, finding in found.items() if not finding.ok] == []
    assert len(found) == 7
    assert all(finding.meaning for finding in found.values())


def test_twins_are_counted_where_they_lie(tmp_path: Path) -> None:
    content = tiny.files(train=12, test=4)
    put(content, names(content, 0)[0], recording(0))
    put(content, names(content, None)[0], recording(0))  # across train and test
    put(content, names(content, 1)[0], recording(1))
    put(content, names(content, 2)[0], recording(1))  # under two speakers
    found = findings(tmp_path, content)
    assert "2 pairs: 1 across train and test, 1 within train" in found["twins"].found
    assert "6.25 % of the test" in found["twins"].meaning
    (pair,) = found["one recording under two speakers"].figures["pairs"]
    assert {pair["a"]["speaker"], pair["b"]["speaker"]} == {"id00089", "id00088"}
    assert found["near-twins"].ok


def test_near_twins_by_noise_level_or_cut_are_found(tmp_path: Path) -> None:
    content = tiny.files(train=12, test=4)
    rng = np.random.default_rng(9)
    whole = recording(5, 60)
    put(content, names(content, 0)[0], whole)
    put(content, names(content, None)[3], whole + 0.7 + rng.normal(0, 0.2, whole.shape))
    other = recording(6, 60)
    put(content, names(content, 1)[2], other)
    put(content, names(content, 3)[2], other[6:])
    found = findings(tmp_path, content)["near-twins"]
    assert "2 pairs: 1 across train and test, 1 within train" in found.found
    assert [pair["likeness"] > 0.98 for pair in found.figures["pairs"]] == [True, True]


def test_drift_is_found_and_its_direction_told(tmp_path: Path) -> None:
    content = tiny.files(train=40, test=20)
    rng = np.random.default_rng(1)
    for name in names(content, None):
        put(content, name, rng.normal(1.5, 1, (15, 40)))
    found = findings(tmp_path, content)
    assert not found["train against test"].ok
    assert found["train against test"].figures["auc"] > 0.9
    assert "below cross-validation" in found["length of train and test"].meaning
    assert not found["level of train and test"].ok


def test_speakers_who_are_one_person_are_the_most_confused(tmp_path: Path) -> None:
    content = tiny.files(train=30, test=4)
    rng = np.random.default_rng(2)
    for speaker in (1, 2):
        for name in names(content, speaker):
            put(content, name, rng.normal(2.0, 1, (30, 40)))
    found = findings(tmp_path, content)["speakers most confused"]
    worst = found.figures["pairs"][0]
    assert {worst["a"], worst["b"]} == {"id00089", "id00088"}
    assert worst["share"] > 0.25
    assert "one person" in found.meaning
    assert found.figures["by"] == "linear classifier on pooled statistics"


def test_who_knows_no_voice_calls_nobody_one_person(tmp_path: Path) -> None:
    found = findings(tmp_path, tiny.files(train=12, test=4, apart=0.0))["speakers most confused"]
    assert f"These {len(found.figures['pairs'])} pairs cost" in found.meaning
    assert found.found.count("+") == 5
    assert found.found.endswith(f"; and {len(found.figures['pairs']) - 5} more")
    assert max(pair["share"] for pair in found.figures["pairs"]) > 0.25
    assert found.ok


def test_too_few_for_a_classifier_are_said_to_be_too_few(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    tiny.packed(tiny.as_folder(tmp_path / "source", tiny.files(train=2)), workspace.store)
    store = open_store(workspace.store)
    found = check_data(workspace, store, make_folds(store, workspace.folds_file, k=2), lambda what: None)[-1]
    assert (found.name, found.ok, found.found) == ("speakers most confused", True, "too few utterances to tell")


def test_a_member_worse_than_a_linear_classifier_names_nobody(tmp_path: Path) -> None:
    tiny.packed(tiny.as_folder(tmp_path / "source", tiny.files(train=12)), tmp_path / "data" / "store")
    bench = Bench(tmp_path)
    bench.member("sample", quality=0.0)
    (found,) = check_data(bench.workspace, bench.store, bench.folds, lambda what: None)[-1:]
    assert found.figures["by"] == "linear classifier on pooled statistics"
    bench.member("sample", quality=99.0)
    (found,) = check_data(bench.workspace, bench.store, bench.folds, lambda what: None)[-1:]
    assert found.figures["by"] == "sample-s0" or found.figures["pairs"] == []


def test_a_record_of_a_run_that_is_none_is_one_message(tmp_path: Path) -> None:
    tiny.packed(tiny.as_folder(tmp_path / "source", tiny.files(train=12)), tmp_path / "data" / "store")
    bench = Bench(tmp_path)
    bench.member("sample")
    (bench.workspace.runs / "sample-s0" / "fold1" / "run.json").write_text("[]")
    with pytest.raises(DataError, match="not a record of a run"):
        check_data(bench.workspace, bench.store, bench.folds, lambda what: None)
