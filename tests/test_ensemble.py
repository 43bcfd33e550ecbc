"""Members and their blend, on logits written by hand: known answers, honest joining, nothing damaged believed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from written import Bench, K

from kaggle_hw4.ensemble.blend import Ensemble, make_ensemble
from kaggle_hw4.ensemble.members import choose_members, load_member
from kaggle_hw4.ensemble.recorded import read_record, recorded_blend
from kaggle_hw4.ensemble.submission import record_of, recorded_name
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.explain import explain
from kaggle_hw4.runs import Job, train_command, with_steps
from kaggle_hw4.submit import read_submission
from kaggle_hw4.variants import variant
from kaggle_hw4.verbs import predict
from kaggle_hw4.workspace import file_hash, read_json, write_json


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tiny.store(tmp_path, train=30)
    return Bench(tmp_path)


def make(bench: Bench, *names: str, **options: Any) -> Ensemble:
    return make_ensemble(bench.workspace, bench.store, bench.folds, list(names), **options)


def test_a_member_has_the_rows_of_each_fold_and_averages_its_test_logits(bench: Bench) -> None:
    joined = bench.member("sample", scale=2.0)
    member = load_member(bench.workspace, bench.store, bench.folds, "sample-s0")
    for fold, logits in enumerate(member.oof):
        np.testing.assert_allclose(logits.read(slice(None)), joined[bench.folds.validation_rows(fold)], rtol=1e-6)
    tests = [np.load(bench.workspace.runs / "sample-s0" / f"fold{fold}" / "test.npy") for fold in range(K)]
    np.testing.assert_allclose(member.mean_test(), np.mean(tests, 0), rtol=1e-5, atol=1e-6)


def test_a_refit_names_the_test_as_one_more_model_and_changes_no_figure(bench: Bench) -> None:
    for seed, name in enumerate(["sample", "conformer-full"]):
        bench.member(name, seed=seed)
    without = make(bench)
    logits = np.zeros((len(bench.store.test_rows), 4), np.float32)
    logits[:, 2] = 1000.0
    bench.refit("sample", logits)
    made = make(bench)
    assert made.name != without.name
    assert [member.refit is not None for member in made.members] == [False, True]
    ours, theirs = made.summary(), without.summary()
    for key in ("accuracy", "interval", "log_loss", "methods", "pairs"):
        assert ours[key] == theirs[key]
    for m, before in zip(ours["members"], theirs["members"], strict=True):
        assert (m["weight"], m["temperature"]) == (before["weight"], before["temperature"])
    assert [m["refit"] for m in ours["members"]] == [False, True]
    # 1,000 / 4 models outweighs the others' logits: the refit was blended, with the member's weight.
    written = read_submission(made.file, bench.store.test_ids, bench.store.speakers)
    assert set(written["Category"]) == {bench.store.speakers[2]}
    sample = made.members[1]
    tests = [np.load(bench.workspace.runs / "sample-s0" / f"fold{fold}" / "test.npy") for fold in range(K)]
    np.testing.assert_allclose(sample.mean_test(), (np.sum(tests, 0) + logits) / (K + 1), rtol=1e-5, atol=1e-5)
    chosen = recorded_blend(bench.workspace, bench.store, bench.folds, read_record(without.file))
    assert all(member.refit is None for member in chosen.members)  # as it was made
    chain = explain(bench.workspace, "none", made.name, True)
    assert [link.state for link in chain.links if link.link.startswith("logits")] == ["matches", "matches"]
    assert next(link.what for link in chain.links if link.link == "logits sample-s0") == "3 folds and the refit"


def test_a_record_whose_parts_are_no_parts_is_refused(bench: Bench) -> None:
    bench.member("sample")
    made = make(bench)
    record = read_json(record_of(made.file), "")
    for part in ({}, {"fold": "0"}, {"oof_file": "a.npy"}):
        record["members"][0]["parts"] = [part]
        write_json(record_of(made.file), record)
        with pytest.raises(DataError, match="is not the record of an ensemble"):
            read_record(made.file)


def test_a_damaged_refit_is_not_believed(bench: Bench) -> None:
    bench.member("sample")
    run = bench.refit("sample", np.zeros((len(bench.store.test_rows), 4)))
    np.save(run.test, np.ones((len(bench.store.test_rows), 4), np.float32))
    with pytest.raises(DataError, match=r"refit/test\.npy is not the file that was written"):
        make(bench)


def test_the_submission_is_the_weighted_blend_of_the_test_logits_by_name(bench: Bench) -> None:
    """Members of different scales count by their weights alone: each is divided by its own temperature."""
    for seed, name in enumerate(["sample", "conformer-full"]):
        bench.member(name, scale=10.0**seed, seed=seed)
    made = make(bench, by_hand="sample-s0=1,conformer-full-s0=3")
    assert [member.name for member in made.members] == ["sample-s0", "conformer-full-s0"]
    assert made.temperatures.full[1] > 5 * made.temperatures.full[0]
    scaled = [m.mean_test() / t for m, t in zip(made.members, made.temperatures.full, strict=True)]
    expected = [bench.store.speakers[i] for i in (scaled[0] + 3 * scaled[1]).argmax(1)]
    written = read_submission(made.file, bench.store.test_ids, bench.store.speakers)
    assert written["Category"].tolist() == expected
    assert written["Id"].tolist() == bench.store.test_ids
    record = json.loads(record_of(made.file).read_text())
    assert record["csv"] == file_hash(made.file)
    assert [member["weight"] for member in record["members"]] == [0.25, 0.75]
    assert record["accuracy"] == made.estimate.accuracy


@pytest.mark.parametrize("method", ["equal", "greedy", "convex", None])
def test_every_method_is_reported_with_the_keys_promised_and_repeats(bench: Bench, method: str | None) -> None:
    for seed, (name, quality) in enumerate({"sample": 1.0, "conformer-full": 2.0, "transformer-full": 1.5}.items()):
        bench.member(name, quality=quality, seed=seed)
    made = make(bench, method=method)
    summary = json.loads(json.dumps(made.summary(), allow_nan=False))
    assert summary["method"] == (method or summary["method"]) in ("equal", "greedy", "convex")
    assert {"members", "accuracy", "interval", "honest_gain", "file"} <= set(summary)
    for member in summary["members"]:
        assert {"name", "weight", "temperature", "accuracy", "log_loss"} <= set(member)
        assert member["weight"] >= 0
    assert sum(member["weight"] for member in summary["members"]) == pytest.approx(1)
    low, high = summary["interval"]
    assert low <= summary["accuracy"] <= high
    assert summary["honest_gain"] == pytest.approx(summary["accuracy"] - summary["best_single"]["accuracy"])
    before = made.file.read_bytes()
    again = make(bench, method=method)
    assert (again.summary(), again.file.read_bytes()) == (summary, before)


def test_figures_of_members_are_those_of_their_joined_logits(bench: Bench) -> None:
    joined = bench.member("sample", scale=3.0)
    (member,) = make(bench).summary()["members"]
    assert member["accuracy"] == (joined.argmax(1) == bench.labels).mean()
    scaled = joined / member["temperature"]
    nll = np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(joined)), bench.labels]
    assert member["log_loss"] == pytest.approx(nll.mean(), rel=1e-4)
    assert member["weight"] == 1


def test_a_member_from_elsewhere_counts_as_ours_do(bench: Bench, tmp_path: Path) -> None:
    joined = bench.member("sample")
    oof, test = tmp_path / "oof.npy", tmp_path / "test.npy"
    np.save(oof, joined.astype(np.float64) * 5)
    tests = [np.load(bench.workspace.runs / "sample-s0" / f"fold{fold}" / "test.npy") for fold in range(K)]
    np.save(test, np.mean(tests, 0) * 5)
    made = make(bench, added=[("theirs", oof, test)])
    ours, theirs = made.summary()["members"]
    assert theirs["name"] == "theirs"
    assert theirs["accuracy"] == ours["accuracy"]
    assert theirs["temperature"] == pytest.approx(5 * ours["temperature"], rel=1e-3)
    shutil.rmtree(bench.workspace.runs)  # it also does alone
    alone = make(bench, added=[("theirs", oof, test)])
    assert [member["name"] for member in alone.summary()["members"]] == ["theirs"]


def test_what_all_logits_of_a_row_from_elsewhere_share_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    oof = np.eye(4)[bench.labels] * 2 + rng.normal(size=(len(bench.labels), 4))
    tests = np.eye(4)[bench.answers] + rng.normal(size=(len(bench.answers), 4))
    written = []
    for offset in (0.0, 1e9):
        files = tmp_path / f"oof{offset}.npy", tmp_path / f"test{offset}.npy"
        for file, logits in zip(files, (oof, tests), strict=True):
            np.save(file, logits + offset)
        made = make(bench, added=[("theirs", *files)])
        written.append((made.estimate.accuracy, made.file.read_bytes()))
    assert written[0] == written[1]


def test_members_that_no_convex_weights_are_for_are_blended_all_the_same(bench: Bench) -> None:
    bench.member("sample", quality=-0.3, seed=1)
    bench.member("conformer-full", quality=-0.2, seed=5)
    made = make(bench)
    assert [weights.method for weights in made.candidates] == ["equal", "greedy"]
    with pytest.raises(DataError, match="better than chance"):
        make(bench, method="convex")


def test_a_bad_member_from_elsewhere_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.member("sample")
    oof, test = tmp_path / "oof.npy", tmp_path / "test.npy"
    good, tests = np.zeros((len(bench.labels), 4)), np.zeros((len(bench.store.test_rows), 4))
    np.save(test, tests)
    hole = good.copy()
    hole[7, 2] = np.nan
    ids = bench.store.index["id"]
    for bad, message in (
        (hole, rf"NaN, infinity or more than 1e\+15, first in row 7 \({ids[7]}\)"),
        (hole.astype(np.float16), "first in row 7 "),
        (np.nan_to_num(hole, nan=-np.inf).astype(np.float16), "first in row 7 "),
        (np.nan_to_num(hole, nan=1e16), "first in row 7 "),
        (good[:-1], r"holds \(119, 4\) float64, not \(120, 4\)"),
        (good.astype(int), "int64"),
        (np.array(["a"], object), "cannot be read"),
    ):
        np.save(oof, bad, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            make(bench, added=[("theirs", oof, test)])
    with pytest.raises(DataError, match="cannot be read"):
        make(bench, added=[("theirs", tmp_path / "none.npy", test)])
    np.save(oof, good)
    for name in ("sample-s0", "sample", "best", "a/b", "a=b"):
        with pytest.raises(UsageError, match="the name is taken, or holds other characters"):
            make(bench, added=[(name, oof, test)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample-s0=-1,conformer-full-s0=2", "the weight of sample-s0 is negative: -1"),
        ("sample-s0=1,nobody=2", "no member 'nobody'"),
        ("sample=1,conformer-full-s0=1", "sample is not the name of a member"),
        ("sample-s0=x", "'sample-s0=x' is not NAME=NUMBER"),
        ("sample-s0=nan", "is not NAME=NUMBER"),
        ("sample-s0", "is not NAME=NUMBER"),
        ("sample-s0=1,sample-s0=2", "sample-s0 is named twice"),
        ("sample-s0=0,conformer-full-s0=0", "all are 0"),
        ("sample-s0=1e308,conformer-full-s0=1e308", "their sum is no number"),
    ],
)
def test_weights_that_make_no_sense_are_refused(bench: Bench, text: str, message: str) -> None:
    bench.member("sample")
    bench.member("conformer-full")
    with pytest.raises(UsageError, match=message):
        make(bench, by_hand=text)
    assert not bench.workspace.submissions.exists()


def test_methods_and_weights_that_do_not_fit_are_refused(bench: Bench) -> None:
    bench.member("sample")
    bench.member("conformer-full")
    with pytest.raises(UsageError, match="there is none for conformer-full-s0"):
        make(bench, "sample", "conformer-full", by_hand="sample-s0=1")
    with pytest.raises(UsageError, match=r"no method 'magic'(.|\n)*equal, greedy, convex"):
        make(bench, method="magic")
    with pytest.raises(UsageError, match="contradict"):
        make(bench, method="equal", by_hand="sample-s0=1")


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
    for names in ([], ["conformer-full", "sample"]):  # what was begun is never left out silently: a slot is at stake
        with pytest.raises(DataError, match=r"conformer-full-s0: fold 1\s") as error:
            choose_members(bench.workspace, K, names)
        assert "Run: kaggle-hw4 train --fold all --variant conformer-full; or" in str(error.value)
        assert str(error.value).endswith("kaggle-hw4 ensemble sample-s0")
    with pytest.raises(DataError, match="not trained on every fold") as error:
        choose_members(bench.workspace, K, ["conformer-full"])  # without it nothing is left of what was asked for
    assert "without them" not in str(error.value)
    with pytest.raises(DataError, match=r"or without them: kaggle-hw4 predict sample-s0$"):
        predict(bench.workspace)


def test_a_fold_copied_over_another_is_refused(bench: Bench) -> None:
    bench.member("sample")
    folder = bench.workspace.runs / "sample-s0"
    shutil.rmtree(folder / "fold1")
    shutil.copytree(folder / "fold0", folder / "fold1")
    with pytest.raises(DataError, match=r"fold1 holds sample-s0 fold 0: it was copied or renamed"):
        load_member(bench.workspace, bench.store, bench.folds, "sample-s0")


def test_an_edited_submission_is_not_believed(bench: Bench) -> None:
    bench.member("sample")
    made = make(bench)
    assert recorded_name(bench.workspace, made.file) == made.name
    made.file.write_text(made.file.read_text() + "\n")
    with pytest.raises(DataError, match=r"\.csv is not the file that was written") as error:
        recorded_name(bench.workspace, made.file)
    assert "an ensemble of the same members makes it again" in error.value.remedy
    of_my_own = made.file.rename(made.file.with_name("mine.csv"))
    assert recorded_name(bench.workspace, of_my_own) == ""


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
        make(bench)
    assert other.store.hash in str(error.value)
    assert bench.store.hash in str(error.value)


def test_a_submission_reads_back_with_pandas(bench: Bench) -> None:
    bench.member("sample")
    made = make(bench)
    frame = pd.read_csv(made.file)
    assert list(frame.columns) == ["Id", "Category"]
    assert frame["Category"].isin(bench.store.speakers).all()


@pytest.mark.parametrize("copy", ["sample-s0.old", "sample-s7", "other-s0"])
def test_a_member_whose_folder_was_copied_is_no_member(bench: Bench, copy: str) -> None:
    bench.member("sample")
    shutil.copytree(bench.workspace.runs / "sample-s0", bench.workspace.runs / copy)
    with pytest.raises(DataError, match=rf"{copy}/fold0 holds sample-s0 fold 0: it was copied or renamed"):
        load_member(bench.workspace, bench.store, bench.folds, copy)


def test_the_command_that_finishes_members_names_all_seeds_and_steps() -> None:
    short, long = with_steps(variant("sample"), 50), variant("conformer-full")
    jobs = [Job("sample", short, seed, 0) for seed in (0, 1)]
    assert train_command(jobs) == "kaggle-hw4 train --fold all --variant sample --seed 0 --seed 1 --steps 50"
    assert train_command([*jobs, Job("conformer-full", long, 0, 0)]).endswith(
        " --steps 50 && kaggle-hw4 train --fold all --variant conformer-full"
    )
    assert train_command([Job("a", short, 0, 0), Job("b", short, 0, 0)]).endswith("--variant a --variant b --steps 50")
