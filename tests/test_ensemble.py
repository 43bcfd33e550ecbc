"""Members and their blend, on logits written by hand: known answers, honest joining, nothing damaged believed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.ensemble import (
    blend,
    choose_members,
    fit_temperature,
    load_member,
    make_ensemble,
    record_of,
    recorded_name,
)
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds, make_folds
from kaggle_hw4.inference import accuracy, log_loss
from kaggle_hw4.runs import Job, Run, claim, identity, run_of
from kaggle_hw4.submit import read_submission
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, file_hash, write_json

K = 3


class Bench:
    """A workspace with data and folds, and runs that nobody trained."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.store: Store = open_store(self.workspace.store)
        self.folds: Folds = make_folds(self.store, self.workspace.folds_file, k=K)
        self.labels = self.store.labels[self.store.train_rows]

    def run(self, name: str, fold: int, oof: np.ndarray, test: np.ndarray) -> Run:
        job = Job(name, variant(name), 0, fold)
        run = run_of(self.workspace, job)
        run.folder.mkdir(parents=True, exist_ok=True)
        claim(run, identity(job, self.store, self.folds))
        np.save(run.oof, oof.astype(np.float32))
        np.save(run.test, test.astype(np.float32))
        result = {"accuracy": 0.0, "utterances": len(oof), "oof": file_hash(run.oof), "test": file_hash(run.test)}
        write_json(run.result, result)
        return run

    def member(self, name: str, *, scale: float = 1.0, quality: float = 1.5, seed: int = 0) -> np.ndarray:
        """A member on every fold whose logits are noise, plus `quality` at the truth; gives its joined oof."""
        rng = np.random.default_rng(seed)
        joined = rng.normal(size=(len(self.labels), 4))
        joined[np.arange(len(joined)), self.labels] += quality
        joined *= scale
        for fold in range(K):
            test = rng.normal(size=(len(self.store.test_rows), 4)) * scale
            self.run(name, fold, joined[self.folds.validation_rows(fold)], test)
        return joined


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tiny.store(tmp_path, train=30)
    return Bench(tmp_path)


def test_a_temperature_is_the_scale_of_calibrated_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 10)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((len(p), 1)) > p.cumsum(1)).sum(1)  # drawn as the logits say: calibrated
    for scale in (0.3, 1.0, 7.0):
        assert fit_temperature((logits * scale).astype(np.float32), labels) == pytest.approx(scale, rel=0.03)


def test_temperatures_make_members_of_different_scales_count_alike() -> None:
    """Ten useful members beside one loud poor one: the plain mean listens to the loud one alone."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 20, 3000)
    truth = np.eye(20)[labels]
    members = [(truth * 1.5 + rng.normal(size=truth.shape)).astype(np.float32) for _ in range(4)]
    members.append(((truth * 0.5 + rng.normal(size=truth.shape)) * 30).astype(np.float32))
    fitted = blend(members, [fit_temperature(member, labels) for member in members])
    plain = blend(members, [1.0] * 5)
    assert accuracy(fitted, labels) > accuracy(plain, labels) + 0.2
    assert accuracy(fitted, labels) > max(accuracy(member, labels) for member in members)


def test_blend_is_the_mean_of_scaled_logits() -> None:
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 6, np.float32)
    np.testing.assert_allclose(blend([a, b], [1.0, 2.0]), np.full((2, 3), 2.0))


def test_a_member_joins_its_folds_and_averages_its_test_logits(bench: Bench) -> None:
    joined = bench.member("sample", scale=2.0)
    member = load_member(bench.workspace, bench.store, bench.folds, "sample-s0")
    np.testing.assert_allclose(member.oof, joined, rtol=1e-6)
    tests = [np.load(bench.workspace.runs / "sample-s0" / f"fold{fold}" / "test.npy") for fold in range(K)]
    np.testing.assert_allclose(member.test, np.mean(tests, 0), rtol=1e-5, atol=1e-6)
    assert member.accuracy == (joined.argmax(1) == bench.labels).mean()
    assert member.log_loss <= log_loss(joined, bench.labels) + 1e-6


def test_the_submission_is_the_blend_of_the_test_logits_by_name(bench: Bench) -> None:
    for seed, name in enumerate(["sample", "conformer-full"]):
        bench.member(name, scale=10.0**seed, seed=seed)
    made = make_ensemble(bench.workspace, bench.store, bench.folds, [])
    assert [member.name for member in made.members] == ["conformer-full-s0", "sample-s0"]
    scaled = [member.test / member.temperature for member in made.members]
    expected = [bench.store.speakers[i] for i in np.mean(scaled, 0).argmax(1)]
    written = read_submission(made.file, bench.store.test_ids, bench.store.speakers)
    assert written["Category"].tolist() == expected
    assert written["Id"].tolist() == bench.store.test_ids
    record = json.loads(record_of(made.file).read_text())
    assert record["csv"] == file_hash(made.file)
    assert [member["weight"] for member in record["members"]] == [0.5, 0.5]
    assert record["accuracy"] == made.accuracy
    assert made.file.read_bytes() == make_ensemble(bench.workspace, bench.store, bench.folds, []).file.read_bytes()


def test_members_are_chosen_by_member_variant_or_set(bench: Bench) -> None:
    for name in ("sample", "conformer-full", "conformer-simple", "transformer-full", "transformer-simple"):
        bench.member(name)
    choose = lambda *names: choose_members(bench.workspace, K, list(names))  # noqa: E731
    assert choose("sample-s0") == choose("sample") == ["sample-s0"]
    assert sorted(choose("default")) == [
        "conformer-full-s0",
        "conformer-simple-s0",
        "transformer-full-s0",
        "transformer-simple-s0",
    ]
    assert len(choose()) == 5
    with pytest.raises(UsageError, match="no member 'nobody'"):
        choose("nobody")


def test_missing_folds_are_named_and_the_complete_members_offered(bench: Bench) -> None:
    with pytest.raises(DataError, match="nothing is trained"):
        choose_members(bench.workspace, K, [])
    bench.member("sample")
    bench.member("conformer-full")
    (bench.workspace.runs / "conformer-full-s0" / "fold1" / "result.json").unlink()
    assert choose_members(bench.workspace, K, ["sample"]) == ["sample-s0"]
    for names in ([], ["conformer-full"]):  # what was begun is never left out silently: a slot is at stake
        with pytest.raises(DataError, match=r"conformer-full-s0: fold 1\s") as error:
            choose_members(bench.workspace, K, names)
        assert "Run: kaggle-hw4 train --fold all --variant conformer-full; or" in str(error.value)
        assert "kaggle-hw4 ensemble sample-s0" in str(error.value)


def test_a_fold_copied_over_another_is_refused(bench: Bench) -> None:
    bench.member("sample")
    folder = bench.workspace.runs / "sample-s0"
    shutil.rmtree(folder / "fold1")
    shutil.copytree(folder / "fold0", folder / "fold1")
    with pytest.raises(DataError, match=r"fold1 was made from something else: fold 0 there, 1 now"):
        load_member(bench.workspace, bench.store, bench.folds, "sample-s0")


def test_an_edited_submission_is_no_longer_the_ensembles(bench: Bench) -> None:
    bench.member("sample")
    made = make_ensemble(bench.workspace, bench.store, bench.folds, [])
    assert recorded_name(bench.workspace, made.file) == made.name
    made.file.write_text(made.file.read_text() + "\n")
    assert recorded_name(bench.workspace, made.file) == ""


def test_damaged_or_changed_logits_are_not_believed(bench: Bench) -> None:
    bench.member("sample")
    oof = bench.workspace.runs / "sample-s0" / "fold2" / "oof.npy"
    blob = bytearray(oof.read_bytes())
    blob[-1] ^= 1
    oof.write_bytes(blob)
    with pytest.raises(DataError, match=r"fold2/oof\.npy is not the file that was written"):
        load_member(bench.workspace, bench.store, bench.folds, "sample-s0")


def test_logits_that_are_not_finite_or_of_another_shape_are_refused(bench: Bench) -> None:
    bench.member("sample")
    held_out, test = len(bench.folds.validation_rows(0)), np.zeros((len(bench.store.test_rows), 4))
    for oof in (np.full((held_out, 4), np.nan), np.zeros((held_out - 1, 4))):
        bench.run("sample", 0, oof, test)
        with pytest.raises(DataError, match=r"fold0/oof\.npy holds"):
            load_member(bench.workspace, bench.store, bench.folds, "sample-s0")


def test_runs_of_other_data_are_refused_with_both_hashes(bench: Bench, tmp_path: Path) -> None:
    tiny.store(tmp_path / "other", train=30, seed=7)
    other = Bench(tmp_path / "other")
    other.member("sample")
    shutil.copytree(other.workspace.runs, bench.workspace.runs)
    with pytest.raises(DataError) as error:
        make_ensemble(bench.workspace, bench.store, bench.folds, [])
    assert other.store.hash in str(error.value)
    assert bench.store.hash in str(error.value)


def test_a_submission_reads_back_with_pandas(bench: Bench) -> None:
    bench.member("sample")
    made = make_ensemble(bench.workspace, bench.store, bench.folds, [])
    frame = pd.read_csv(made.file)
    assert list(frame.columns) == ["Id", "Category"]
    assert frame["Category"].isin(bench.store.speakers).all()
