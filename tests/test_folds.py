"""The split: stratified, twins together, written once, bound to its data."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
from jobs_done import Session, small

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import load_folds, make_folds, split
from kaggle_hw4.runs import Job, claim, identity, run_of
from kaggle_hw4.verbs.data import open_split
from kaggle_hw4.workspace import read_json, write_json


def with_twins(tmp_path: Path) -> Store:
    """Every speaker's first utterance is there again as the second."""
    content = tiny.files(speakers=5, train=8, shortest=30, longest=30)
    for entries in tiny.table(content, "metadata.json")["speakers"].values():
        content[entries[1]["feature_path"]] = content[entries[0]["feature_path"]]
    return tiny.packed(tiny.as_folder(tmp_path / "source", content), tmp_path / "store")


def test_every_fold_holds_every_speaker_in_equal_shares(tmp_path: Path) -> None:
    store = tiny.store(tmp_path, speakers=6, train=11)
    folds = make_folds(store, tmp_path / "folds.json", k=5, seed=1)
    labels = store.labels[store.train_rows]
    for fold in range(5):
        counts = np.bincount(labels[folds.validation_rows(fold)], minlength=6)
        assert counts.min() >= 2
        assert counts.max() <= 3
        rows = np.concatenate([folds.validation_rows(fold), folds.training_rows(fold)])
        assert sorted(rows.tolist()) == store.train_rows.tolist()


def test_twins_share_a_fold(tmp_path: Path) -> None:
    store = with_twins(tmp_path)
    train = store.index.iloc[store.train_rows].assign(fold=split(store, 5, 0))
    twins = train.groupby("digest")["fold"].agg(["size", "nunique"])
    assert (twins["size"] == 2).sum() == 5
    assert (twins["nunique"] == 1).all()


def test_a_speaker_with_too_few_different_utterances_is_named(tmp_path: Path) -> None:
    store = with_twins(tmp_path)  # 8 utterances of each, 7 different
    split(store, 7, 0)
    with pytest.raises(DataError, match=r"fewer than 8 different utterances of id\d+[\s\S]*folds --k 7$"):
        split(store, 8, 0)
    alone = tiny.store(tmp_path / "alone", train=1)
    with pytest.raises(DataError, match=r"different utterances of id00087, .*\s+A split needs two of each speaker"):
        split(alone, 5, 0)
    with pytest.raises(UsageError, match="at least 2"):
        split(store, 1, 0)


def test_seed_and_k_decide_the_split(tmp_path: Path) -> None:
    store = tiny.store(tmp_path)
    np.testing.assert_array_equal(split(store, 3, 0), split(store, 3, 0))
    assert not np.array_equal(split(store, 3, 0), split(store, 3, 1))


def test_the_split_is_written_once_and_readable(tmp_path: Path) -> None:
    store, path = tiny.store(tmp_path), tmp_path / "folds" / "folds.json"
    first = make_folds(store, path, k=3, seed=0)
    written = path.read_text()
    content = json.loads(written)
    assert (content["k"], content["seed"], content["data"]) == (3, 0, store.hash)
    assert list(content["fold_of"]) == store.index["id"][: len(store.train_rows)].tolist()
    assert make_folds(store, path, k=3, seed=0).hash == first.hash
    for k, seed in ((4, 0), (3, 1)):
        with pytest.raises(DataError, match=f"not k={k}, seed={seed}"):
            make_folds(store, path, k=k, seed=seed)
    assert path.read_text() == written


def test_of_two_that_ask_for_different_splits_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = tiny.store(tmp_path), tmp_path / "folds" / "folds.json"

    def slow(store: Store, k: int, seed: int) -> np.ndarray:
        time.sleep(0.3)
        return split(store, k, seed)

    monkeypatch.setattr("kaggle_hw4.folds.split", slow)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(make_folds, store, path, k=k) for k in (3, 4)]
        ends = [future.exception() or future.result().k for future in asked]
    (refused,) = [end for end in ends if isinstance(end, BaseException)]
    assert isinstance(refused, DataError)
    assert load_folds(store, path).k in ends


def test_a_split_of_other_data_is_refused_with_both_hashes(tmp_path: Path) -> None:
    ours = tiny.store(tmp_path)
    theirs = tiny.store(tmp_path / "other", seed=1)
    make_folds(theirs, tmp_path / "folds.json")
    with pytest.raises(DataError) as error:
        load_folds(ours, tmp_path / "folds.json")
    assert ours.hash in str(error.value)
    assert theirs.hash in str(error.value)


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"k": 3'])
def test_a_broken_file_is_refused(tmp_path: Path, damage: str) -> None:
    store, path = tiny.store(tmp_path), tmp_path / "folds.json"
    path.write_text(damage)
    with pytest.raises(DataError, match=r"folds\.json"):
        load_folds(store, path)


def test_an_assignment_that_misses_an_utterance_is_refused(tmp_path: Path) -> None:
    store, path = tiny.store(tmp_path), tmp_path / "folds.json"
    make_folds(store, path)
    content = read_json(path, "")
    content["fold_of"].popitem()
    write_json(path, content)
    with pytest.raises(DataError, match="not a split of this data"):
        load_folds(store, path)


def test_a_damaged_split_says_how_it_was_made(tmp_path: Path) -> None:
    store, path = tiny.store(tmp_path), tmp_path / "folds.json"
    make_folds(store, path, k=3, seed=7)
    path.write_text(path.read_text().replace(": 2", ": 1", 1))
    with pytest.raises(DataError, match="checksum differs") as error:
        load_folds(store, path)
    assert error.value.remedy == "Delete it and make it again, as it was: kaggle-hw4 folds --k 3 --seed 7"
    path.unlink()
    with pytest.raises(DataError, match="is missing") as error:
        load_folds(store, path)
    assert error.value.remedy == "Run `kaggle-hw4 folds` to make it."


def test_a_split_that_is_gone_is_not_replaced_by_another(session: Session) -> None:
    """With k=5 in the place of k=3 every message would be about the trainings, which are whole."""
    path = session.workspace.folds_file  # k=3
    kept = path.read_bytes()
    with pytest.raises(DataError, match="k=3, seed=0, not k=4") as error:
        open_split(session.workspace, k=4)
    assert "no training depends on it" in error.value.remedy
    claim(
        run_of(session.workspace, job := Job("sample", small("sample"), 0, 0)),
        identity(job, session.store, session.folds),
    )
    with pytest.raises(DataError, match="not k=4") as error:
        open_split(session.workspace, k=4)
    assert "no training depends on it" in error.value.remedy  # announced only
    run_of(session.workspace, job).checkpoint.touch()
    with pytest.raises(DataError, match="not k=4") as error:
        open_split(session.workspace, k=4)
    assert "Runs depend on it" in error.value.remedy
    path.unlink()
    for k in (None, 4):
        with pytest.raises(DataError, match="is gone, and the trainings here are of another split"):
            open_split(session.workspace, k=k)
    assert not path.exists()
    assert open_split(session.workspace, k=3)[1].hash == session.folds.hash
    assert path.read_bytes() == kept
