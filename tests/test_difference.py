"""What two submissions' rows say about their scores, and where a score should fall: known answers and simulations."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from written import Bench, K

from kaggle_hw4.band import Scored, band
from kaggle_hw4.diff import compare_namings
from kaggle_hw4.difference import Paired, difference
from kaggle_hw4.ensemble.blend import Ensemble, make_ensemble
from kaggle_hw4.ensemble.submission import record_of
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.variants import SETS
from kaggle_hw4.workspace import file_hash, read_json

ROWS = 8_000


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tiny.store(tmp_path, train=30, test=30)
    bench = Bench(tmp_path)
    bench.member("sample", quality=1.0, seed=1)
    bench.member("conformer-full", quality=2.5, seed=2)
    return bench


def make(bench: Bench, *names: str) -> Ensemble:
    return make_ensemble(bench.workspace, bench.store, bench.folds, list(names))


def rows(changed: int) -> dict[str, str]:
    return {f"uttr-{i}": "b" if i < changed else "a" for i in range(ROWS)}


def test_how_far_a_score_can_move_is_the_share_of_rows_that_differ() -> None:
    found = difference(rows(0), rows(40), None, None)
    assert (found.differ, found.rows, found.public) == (40, 8_000, 4_000)
    assert found.most == 0.005
    assert found.most_public == 0.01  # all of them may be scored publicly
    assert found.standard_error == pytest.approx((0.005 / 4_000) ** 0.5)


@pytest.mark.parametrize(
    ("changed", "gain", "verdict"),
    [
        (0, None, "same"),
        (0, 0.01, "same"),
        (5, None, "cannot"),
        (6, None, "hardly"),
        (11, None, "hardly"),
        (12, None, "can"),
        (200, 0.0005, "hardly"),
        (200, 0.01, "can"),
    ],
)
def test_whether_a_slot_can_learn_anything(changed: int, gain: float | None, verdict: str) -> None:
    found = difference(rows(0), rows(changed), None, gain)
    assert found.verdict == verdict
    assert found.as_json()["learns"] == (verdict == "can")


def test_the_standard_error_is_that_of_public_halves_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    n, public = 2_000, 1_000
    right_a, right_b = rng.random(n) < 0.9, rng.random(n) < 0.9
    keep = rng.random(n) < 0.8  # in these rows both say the same
    right_b[keep] = right_a[keep]
    a = {str(i): "x" for i in range(n)}
    b = {str(i): "x" if keep[i] else "y" for i in range(n)}
    paired = Paired(float((~keep).mean()), float((right_a != right_b).mean()), float(right_b.mean() - right_a.mean()))
    found = difference(a, b, paired, None)
    spread = []
    for _ in range(2_000):  # two fresh test sets of the same population
        half = rng.integers(0, n, public)
        spread.append(right_b[half].mean() - right_a[half].mean())
    assert found.standard_error == pytest.approx(np.std(spread), rel=0.1)
    assert found.expected == pytest.approx(np.mean(spread), abs=0.001)


def test_power_is_how_often_the_paired_difference_is_significant() -> None:
    paired = Paired(differ=0.05, discordant=0.04, gain=0.008)
    found = difference(rows(0), rows(400), paired, None)
    rng = np.random.default_rng(1)
    wins, losses = rng.multinomial(4_000, [0.024, 0.016, 0.96], 4_000).T[:2]
    significant = np.abs(wins - losses) > 1.96 * np.sqrt(wins + losses)
    assert found.power == pytest.approx(significant.mean(), abs=0.03)


def test_diff_names_what_two_ensembles_name_differently_most_surely(bench: Bench) -> None:
    a, b = make(bench, "sample"), make(bench, "conformer-full")
    found = compare_namings(bench.workspace, bench.store, bench.folds, a.name, b.name)
    shown = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert shown["differ"] == found.difference.differ > 20
    assert shown["expected"] > 0.1
    least = [min(u["a_sure"], u["b_sure"]) for u in shown["utterances"]]
    assert len(least) == 10
    assert least == sorted(least, reverse=True)
    for u in shown["utterances"]:
        assert u["a"] != u["b"]
    same = compare_namings(bench.workspace, bench.store, bench.folds, a.name, str(a.file))
    assert same.difference.verdict == "same"
    assert same.utterances == []


def test_diff_foretells_by_the_honest_accuracies(bench: Bench) -> None:
    """Weights that are tried on the rows they were fitted to look better than they are."""
    for seed, name in enumerate([*SETS["default"], *SETS["best"], *SETS["wide"]]):
        bench.member(name, quality=0.8, seed=seed)
    made = [make_ensemble(bench.workspace, bench.store, bench.folds, [], method=how) for how in ("equal", "greedy")]
    found = compare_namings(bench.workspace, bench.store, bench.folds, *(ensemble.name for ensemble in made))
    equal, greedy = (read_json(record_of(ensemble.file), "") for ensemble in made)
    assert greedy["in_sample_accuracy"] > greedy["accuracy"]
    gain = greedy["accuracy"] - equal["accuracy"]
    assert found.difference.expected is not None
    assert np.sign(found.difference.expected) == np.sign(gain)
    assert abs(found.difference.expected) <= found.difference.most
    swapped = compare_namings(bench.workspace, bench.store, bench.folds, made[1].name, made[0].name)
    assert swapped.difference.expected == -found.difference.expected


def test_diff_takes_files_members_and_runs(bench: Bench, tmp_path: Path) -> None:
    made = make(bench, "sample")
    plain = tmp_path / "plain.csv"
    plain.write_bytes(made.file.read_bytes())
    compare = lambda a, b: compare_namings(bench.workspace, bench.store, bench.folds, a, b)  # noqa: E731
    assert compare("sample-s0", str(plain)).difference.differ == 0
    assert "no record" in compare("sample-s0", str(plain)).notes[0]
    run = compare("sample-s0/fold0", "sample-s0")
    assert 0 < run.difference.differ < 100
    assert run.utterances[0]["a_sure"] is not None
    logits = bench.workspace.runs / "sample-s0" / "fold0" / "test.npy"
    written = logits.read_bytes()
    np.save(logits, 2 * np.load(logits))
    with pytest.raises(DataError, match="its checksum differs"):
        compare("sample-s0/fold0", str(plain))
    logits.write_bytes(written)
    with pytest.raises(UsageError, match=r"'nobody'(.|\n)*sample-s0"):
        compare("sample-s0", "nobody")
    (bench.workspace.runs / "sample-s0" / "fold1" / "result.json").unlink()
    with pytest.raises(DataError, match="fold 1"):
        compare("sample-s0", str(plain))


def test_diff_of_a_run_shows_what_its_fold_says_of_how_sure_it_may_be(bench: Bench) -> None:
    bench.member("transformer-full", quality=2.0, scale=50.0, seed=3)
    bench.refit("transformer-full", np.eye(4)[bench.answers] * 9)
    compare = lambda a, b: compare_namings(bench.workspace, bench.store, bench.folds, a, b)  # noqa: E731
    found = compare("transformer-full-s0/fold0", "transformer-full-s0")
    assert all(0.25 < u["a_sure"] < 1 - 1e-6 for u in found.utterances)  # a softmax of these logits is 1
    assert "no utterances held out" in compare("transformer-full-s0/refit", "transformer-full-s0").notes[0]


def test_diff_knows_a_submission_from_elsewhere_as_the_board_names_it(bench: Bench, tmp_path: Path) -> None:
    made = make(bench, "sample")
    file = tmp_path / "elsewhere" / "mine.csv"
    file.parent.mkdir()
    file.write_bytes(made.file.read_bytes())
    slug, hash = bench.store.competition, file_hash(file)
    row = Row("1", slug, "mine", str(file), hash, "2026-11-28T00:00:00", "complete", ref=4242, public="0.9")
    Ledger(bench.workspace.ledger).add(row)
    for name in ("mine", "4242", str(file)):
        found = compare_namings(bench.workspace, bench.store, bench.folds, name, made.name)
        assert (found.a, found.difference.verdict) == ("mine", "same")
    file.write_text("rewritten since")
    with pytest.raises(UsageError, match="'4242' is no submission"):
        compare_namings(bench.workspace, bench.store, bench.folds, "4242", made.name)


def test_diff_of_an_ensemble_whose_logits_changed_says_so_and_compares_the_rows(bench: Bench) -> None:
    a, b = make(bench, "sample"), make(bench, "conformer-full")
    bench.member("sample", quality=1.0, seed=9)
    found = compare_namings(bench.workspace, bench.store, bench.folds, a.name, b.name)
    assert found.difference.differ > 0
    assert found.notes == [
        f"Without the logits of {a.name}: the logits of sample-s0 are not those that {a.name} was made from."
    ]


def scored(rng: np.random.Generator, count: int, offset: float, gain: float) -> list[Scored]:
    """Submissions on one test of 2,000 rows: their rows differ in a tenth, `offset` is how much they gain."""
    n = 2_000
    base = rng.random(n)
    found = []
    for i in range(count):
        own = np.where(rng.random(n) < 0.1, rng.random(n), base)
        p = 0.9 + 0.005 * i
        right = own < p + offset
        speakers = {str(row): "right" if ok else f"wrong{i}" for row, ok in enumerate(right)}
        public = float(right[:1_000].mean())
        cv = p + rng.normal(0, 0.002)
        found.append(Scored(cv, 0.002, gain, 0.25 * gain, speakers, public))
    return found


def test_coverage_of_the_band_by_the_estimated_gain() -> None:
    rng = np.random.default_rng(2)
    inside, zs = [], []
    for _ in range(300):
        (one,) = scored(rng, 1, offset=0.02, gain=0.02 * rng.normal(1, 0.25))
        found = band(one, [])
        assert found.source == "averaging"
        inside.append(found.low <= (one.public or 0) <= found.high)
        zs.append(found.z)
    assert 0.92 <= np.mean(inside) <= 0.985
    assert abs(np.mean(zs)) < 0.2
    assert 0.8 < np.std(zs) < 1.2


def test_once_three_scores_exist_the_offset_is_theirs_and_the_band_narrower() -> None:
    """The gain foretold is 4 points too low: bands from scores do not mind, and cover."""
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(300):
        one, *others = scored(rng, 4, offset=0.05, gain=0.01)
        found = band(one, others)
        assert found.source == "scores"
        assert found.offset == pytest.approx(np.mean([(o.public or 0) - o.accuracy for o in others]))
        inside.append(found.low <= (one.public or 0) <= found.high)
        assert found.high - found.low < band(one, others[:1]).high - band(one, others[:1]).low
    assert np.mean(inside) >= 0.93


def test_a_records_hash_is_the_files(bench: Bench) -> None:
    made = make(bench, "sample")
    record = json.loads(record_of(made.file).read_text())
    assert len(record["members"][0]["parts"]) == K
    assert record["code"].startswith("0.")


def test_the_same_rows_sent_again_do_not_change_a_band() -> None:
    one, *others = scored(np.random.default_rng(4), 4, offset=0.05, gain=0.01)
    assert band(one, others + [one] * 3 + others[:1] * 2) == band(one, others)
    assert band(one, [one, one]).source == "averaging"


def test_a_band_ends_at_1() -> None:
    one, *others = scored(np.random.default_rng(4), 4, offset=0.5, gain=0.01)
    found = band(one, others)
    assert found.low <= found.expected <= found.high <= 1.0
