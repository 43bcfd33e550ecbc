"""Weights and statistics against known answers, on simulated members."""

import numpy as np
import pytest
from scipy.optimize import minimize

from kaggle_hw4.ensemble import convex, greedy, honest, statistics
from kaggle_hw4.ensemble.averaging import averaging_gain
from kaggle_hw4.ensemble.compare import compare, seed_noise
from kaggle_hw4.ensemble.honest import Temperatures
from kaggle_hw4.ensemble.members import Logits
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.statistics import interval, mcnemar

K = 4


def pool_of(members: list[np.ndarray], labels: np.ndarray, k: int = K) -> Pool:
    """Members (utterances, speakers) cut into k folds of neighbouring rows."""
    cut = lambda array: np.array_split(array, k)  # noqa: E731
    logits = [[Logits(part.astype(np.float32)) for part in cut(member)] for member in members]
    return Pool(logits, cut(labels), np.ones(len(members)))


def drawn(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels drawn as the logits (n, speakers) say."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(1)


def noisy_members(
    labels: np.ndarray, speakers: int, qualities: list[float], rng: np.random.Generator
) -> list[np.ndarray]:
    truth = np.eye(speakers)[labels]
    return [truth * quality + rng.normal(size=truth.shape) for quality in qualities]


def log_loss(v: np.ndarray, members: list[np.ndarray], labels: np.ndarray) -> float:
    scores = np.tensordot(v, np.array(members), 1)
    return float((np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(labels)), labels]).mean())


def test_a_temperature_is_the_scale_of_calibrated_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 10)) * 2
    labels = drawn(logits, rng)
    for scale in (0.003, 1.0, 700.0):
        pool = pool_of([logits * scale], labels)
        assert convex.fit_temperature(pool, 0, pool.all_folds) == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize("logits", [np.zeros((40, 5)), np.eye(5)[np.arange(40) % 5] * 3, -np.eye(5)[np.arange(40) % 5]])
def test_a_member_that_knows_nothing_all_or_worse_than_nothing_has_a_temperature(logits: np.ndarray) -> None:
    pool = pool_of([logits], np.arange(40) % 5)
    assert 0 < convex.fit_temperature(pool, 0, pool.all_folds) < np.inf


@pytest.mark.parametrize("mask", [-50.0, -1e3, -1e9, -1e14])
def test_speakers_that_are_ruled_out_do_not_set_the_scale(mask: float) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4_000, 100)) * 2
    logits[logits < np.sort(logits, axis=1)[:, -20:-19]] = mask
    pool = pool_of([logits], drawn(logits, rng))
    assert convex.fit_temperature(pool, 0, pool.all_folds) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("mask", [-1e5, -1e7, -1e9, -1e15])
@pytest.mark.parametrize("wrongly", [1, 20, 300])
def test_a_member_that_ruled_the_truth_out_has_a_temperature(mask: float, wrongly: int) -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 50, 3_000)
    logits = np.eye(50)[labels] * 3 + rng.normal(size=(3_000, 50))
    logits[np.arange(3_000), logits.argmin(1)] = mask
    logits[np.arange(wrongly), labels[:wrongly]] = mask
    pool = pool_of([logits, np.eye(50)[labels] * 3 + rng.normal(size=(3_000, 50))], labels)
    temperatures = Temperatures.fitted(pool, lambda what: None)
    assert 10 * temperatures.full[1] < temperatures.full[0] < np.inf
    equal = honest.fit_weights("equal", pool.scaled(1 / temperatures.full), temperatures, None, None)
    assert np.isfinite(equal.full).all()
    assert (equal.full > 0).all()


def test_what_the_doubles_of_a_row_share_takes_nothing_from_their_differences() -> None:
    rng = np.random.default_rng(7)
    logits, labels = rng.normal(size=(40, 5)), np.arange(40) % 5
    cut = lambda array: np.array_split(array, K)  # noqa: E731
    plain, lifted = (Pool([[Logits(part) for part in cut(a)]], cut(labels), np.ones(1)) for a in (logits, logits + 1e9))
    for piece in plain.pieces(plain.all_folds):
        np.testing.assert_allclose(lifted.margins(piece), plain.margins(piece), atol=1e-6)


def test_logits_in_half_precision_count_like_others() -> None:
    logits = np.full((4, 3), np.finfo(np.float16).min, np.float16)
    labels = np.arange(4) % 3
    logits[np.arange(4), labels] = 40
    cut = lambda array: np.array_split(array, 2)  # noqa: E731
    pool = Pool([[Logits(part) for part in cut(logits)]], cut(labels), np.ones(1))
    for piece in pool.pieces(pool.all_folds):
        assert pool.margins(piece).min() == float(np.finfo(np.float16).min) - 40


def test_members_that_know_next_to_nothing_have_temperatures() -> None:
    """Their loss is flat: seed 186 of these needs a step whose gain single precision does not show."""
    labels = np.repeat(np.arange(4), 9)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(36, 4)).astype(np.float32) * 0.1
        logits[np.arange(36), labels] += np.float32(rng.normal() * 0.02)
        pool = pool_of([logits], labels, 1)
        assert 0 < convex.fit_temperature(pool, 0, [0]) < np.inf


def test_derivatives_are_those_of_the_log_loss() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, 300)
    members = noisy_members(labels, 6, [1.0, 2.0, 0.5], rng)
    v = np.array([0.3, 0.8, 0.1])
    loss, gradient, hessian = pool_of(members, labels).derivatives(v, list(range(K)))
    assert loss == pytest.approx(log_loss(v, members, labels), rel=1e-5)
    for i, step in enumerate(np.eye(3) * 1e-3):
        up, down = log_loss(v + step, members, labels), log_loss(v - step, members, labels)
        assert gradient[i] == pytest.approx((up - down) / 2e-3, abs=1e-5)
        assert hessian[i, i] == pytest.approx((up - 2 * loss + down) / 1e-6, rel=0.1)


def test_the_convex_pool_recovers_known_coefficients_and_beats_raw_logit_averaging() -> None:
    """Labels are drawn from a pool with known β; the members' scales differ a hundredfold."""
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(20_000, 12)) * spread for spread in (1.5, 1.0, 1.0)]
    labels = drawn(sum(parts), rng)
    scales = np.array([1.0, 30.0, 0.3])
    members = [part * scale for part, scale in zip(parts, scales, strict=True)]
    members.append(rng.normal(size=(20_000, 12)) * 5)  # knows nothing
    pool = pool_of(members, labels)
    temperatures = Temperatures.fitted(pool, lambda what: None)
    pool = pool.scaled(1 / temperatures.full)
    found = convex.fit(pool, pool.all_folds)
    beta = found.weights / temperatures.full
    np.testing.assert_allclose(beta[:3] * scales, 1, rtol=0.04)
    assert beta[3] < 0.01
    picks, losses = pool.score(np.array([found.weights, temperatures.full]), pool.all_folds)
    right = (picks == labels).mean(1)
    assert right[0] > right[1] + 0.1
    assert losses[0].mean() < losses[1].mean() - 0.1


def test_the_optimum_is_that_of_another_solver_with_weights_at_the_border() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 8, 600)
    members = noisy_members(labels, 8, [1.5, 1.0, 0.0, -0.5, 0.8], rng)
    members.append(members[0] * 1.0)  # twins make the Hessian singular
    found = convex.fit(pool_of(members, labels), list(range(K)))
    assert found.residual < convex.TOLERANCE
    assert found.weights[3] == 0
    start = np.full(6, 0.1)
    other = minimize(log_loss, start, (members, labels), "L-BFGS-B", bounds=[(0, None)] * 6, options={"ftol": 1e-12})
    assert found.loss == pytest.approx(other.fun, abs=1e-6)
    np.testing.assert_allclose(found.weights[1:5], other.x[1:5], atol=0.01)


def test_fitting_repeats_to_the_bit() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 50, 9_000)  # several pieces, in several threads
    pool = pool_of(noisy_members(labels, 50, [1.0, 1.2, 0.8], rng), labels)
    first, again = (convex.fit(pool, pool.all_folds).weights for _ in range(2))
    np.testing.assert_array_equal(first, again)


def slow_greedy(members: list[np.ndarray], labels: np.ndarray, rounds: int) -> np.ndarray:
    """As the paper says it, on all rows and speakers: what the shortcut has to agree with."""
    taken, total = np.zeros(len(members), int), np.zeros(members[0].shape)
    best, best_right = taken, -1
    for _ in range(rounds):
        right = [int(((total + member).argmax(1) == labels).sum()) for member in members]
        tied = [i for i in range(len(members)) if right[i] == max(right)]
        tied = [i for i in tied if taken[i]] or tied
        n = taken.sum() + 1
        losses = [log_loss((taken + (np.arange(len(members)) == i)) / n, members, labels) for i in tied]
        chosen = tied[int(np.argmin(losses))]
        taken = taken + (np.arange(len(members)) == chosen)
        total = total + members[chosen]
        if right[chosen] > best_right:
            best, best_right = taken, right[chosen]
    return best / best.sum()


def test_greedy_selection_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "_ROUNDS", 25)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 6, 160)
        members = noisy_members(labels, 6, [1.5, 1.0, 1.2, 0.3, 1.4], rng)
        pool = pool_of(members, labels)
        found = greedy.select(pool, greedy.contest(pool), pool.all_folds, np.ones(5))
        np.testing.assert_allclose(found, slow_greedy(members, labels, 25))
        held_out = greedy.select(pool, greedy.contest(pool).without(0), [1, 2, 3], np.ones(5))
        rest = slice(len(pool.labels[0]), None)
        np.testing.assert_allclose(held_out, slow_greedy([m[rest] for m in members], labels[rest], 25))


def test_greedy_on_a_part_of_the_rows_when_all_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 400)
    pool = pool_of(noisy_members(labels, 6, [1.5, 1.0], rng), labels)
    whole = greedy.contest(pool)
    monkeypatch.setattr(greedy, "_BYTES", int(whole.margins.nbytes / 2.5))
    part = greedy.contest(pool)
    assert part.stride == 3
    assert part.margins.nbytes < whole.margins.nbytes / 2.4


def test_equal_weights_stay_unless_another_method_wins_the_paired_test() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 2_000)
    for qualities, expected in (([1.2] * 4, "equal"), ([1.5, 1.5, 0.1, 0.1, 0.1, 0.1, 0.1], "convex")):
        pool = pool_of(noisy_members(labels, 10, qualities, rng), labels)
        temperatures = Temperatures(
            np.ones(len(pool)), np.ones((K, len(pool)))
        )  # one scale: poor members count in full
        methods = ("equal", "convex")
        candidates = [honest.fit_weights(method, pool, temperatures, None, None) for method in methods]
        estimates = honest.estimate(pool, candidates)
        assert candidates[honest.choose(estimates)].method == expected


@pytest.mark.parametrize("method", ["equal", "greedy", "by hand"])
@pytest.mark.parametrize("rows", [1_500, 50_000])  # the second at a part of the rows
def test_a_pool_is_as_sure_as_it_is_right(method: str, rows: int) -> None:
    """Each member is, by its temperature, and their mean is right more often."""
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 8, rows)
    pool = pool_of(noisy_members(labels, 8, [1.5] * 4, rng), labels)
    temperatures = Temperatures.fitted(pool, lambda what: None)
    pool = pool.scaled(1 / temperatures.full)
    contested = greedy.contest(pool) if method == "greedy" else None
    weights = honest.fit_weights(method, pool, temperatures, contested, np.ones(4))
    picks, sure = pool.name(weights.full[None], pool.all_folds)
    assert float(sure.mean()) == pytest.approx(float((picks == labels).mean()), abs=0.02)
    plain = weights.full / weights.full.sum()
    assert float(pool.name(plain[None], pool.all_folds)[1].mean()) < sure.mean() - 0.1
    (found,) = honest.estimate(pool, [weights])
    assert found.log_loss < pool.score(plain[None], pool.all_folds)[1].mean()


def test_the_honest_estimate_is_unbiased_where_the_in_sample_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy selection from 20 equally good members of 120 utterances; the truth is their blend on fresh ones."""
    monkeypatch.setattr(greedy, "_ROUNDS", 25)
    off: dict[str, list[float]] = {"honest": [], "in sample": []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels, fresh = rng.integers(0, 5, 120), rng.integers(0, 5, 4_000)
        pool = pool_of(noisy_members(labels, 5, [0.7] * 20, rng), labels)
        new = pool_of(noisy_members(fresh, 5, [0.7] * 20, rng), fresh)
        ones = Temperatures(np.ones(20), np.ones((K, 20)))
        weights = honest.fit_weights("greedy", pool, ones, greedy.contest(pool), None)
        (found,) = honest.estimate(pool, [weights])
        truths = (new.score(np.vstack([weights.without, weights.full]), new.all_folds)[0] == fresh).mean(1)
        off["honest"].append(found.accuracy - truths[:-1].mean())
        off["in sample"].append(compare(pool, weights.full).accuracy - truths[-1])
    for name, differences in off.items():
        error = np.std(differences, ddof=1) / len(differences) ** 0.5
        if name == "honest":
            assert abs(np.mean(differences)) < 2.5 * error
        else:
            assert np.mean(differences) > 5 * error


@pytest.mark.parametrize("utterances", [8, 90])
def test_coverage_of_the_interval(utterances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of speakers that differ; the interval is for the mean of these speakers."""
    monkeypatch.setattr(statistics, "_DRAWS", 1_000)
    rng = np.random.default_rng(6)
    hits, runs = 0, 400
    for _ in range(runs):
        p = rng.beta(8, 2, 30)
        speakers = np.repeat(np.arange(30), utterances)
        low, high = interval(rng.random(len(speakers)) < p[speakers], speakers)
        hits += low <= p.mean() <= high
    assert 0.925 <= hits / runs <= 0.975


def test_coverage_of_the_interval_of_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_DRAWS", 1_000)
    rng = np.random.default_rng(7)
    speakers = np.repeat(np.arange(30), 20)
    hits, runs = 0, 400
    for _ in range(runs):
        values = rng.choice([-1, 0, 1], len(speakers), p=[0.03, 0.9, 0.07])
        low, high = interval(values, speakers, -1.0)
        hits += low <= 0.04 <= high
    assert 0.925 <= hits / runs <= 0.975


def test_an_interval_without_errors_is_no_point() -> None:
    assert interval(np.ones(100, bool), np.zeros(100)) == (pytest.approx(0.9638, abs=1e-4), 1.0)
    assert interval(np.zeros(100, bool), np.zeros(100)) == (0.0, pytest.approx(0.0362, abs=1e-4))
    low, high = interval(np.zeros(100, np.int8), np.zeros(100), -1.0)
    assert low == -high < 0


def test_an_interval_of_speakers_named_always_or_never_is_no_point() -> None:
    speakers = np.repeat(np.arange(10), 6)
    low, high = interval(speakers < 7, speakers)
    assert low < 0.65 < 0.75 < high
    low, high = interval((speakers < 2).astype(np.int8), speakers, -1.0)
    assert 0 < low < 0.15 < 0.25 < high


def test_mcnemar_is_the_binomial_of_what_differs() -> None:
    a, b = np.zeros(100, bool), np.zeros(100, bool)
    a[:50] = b[:50] = True
    assert mcnemar(a, b) == 1.0
    b[50:56] = True
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2 / 2**6)


def test_error_correlation_disagreement_and_the_change_without_a_member() -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 10, 3_000)
    members = noisy_members(labels, 10, [1.5, 1.5, 0.0], rng)
    members.append(members[0] * 1.0)
    pool = pool_of(members, labels)
    found = compare(pool, np.array([0.4, 0.4, 0.2, 0.0]))
    assert found.correlation[0, 3] == pytest.approx(1)
    assert found.disagreement[0, 3] == 0
    assert abs(found.correlation[0, 1]) < 0.06
    wrong = members[0].argmax(1) != members[1].argmax(1)
    assert found.disagreement[0, 1] == pytest.approx(wrong.mean())
    assert found.without[0] < -0.05
    assert found.without[2] > 0.02
    assert found.without[3] == 0
    alone = compare(pool.only([0]), np.ones(1))
    assert np.isnan(alone.without[0])


def test_seed_noise_is_pooled_over_variants() -> None:
    names = ["a-s0", "a-s1", "b-s0", "b-s1", "c-s0"]
    found = seed_noise(names, np.array([0.90, 0.92, 0.80, 0.82, 0.85]))
    assert found["sd"] == pytest.approx(0.01 * 2**0.5)
    assert [row["name"] for row in found["variants"]] == ["a", "c", "b"]
    assert found["variants"][1]["difference"] == pytest.approx(-0.06)
    assert found["variants"][1]["noise"] == pytest.approx(found["sd"] * (1 + 1 / 2) ** 0.5)
    assert seed_noise(["a-s0", "mine"], np.array([0.9, 0.8]))["sd"] is None


@pytest.mark.parametrize(("speakers", "quality", "shared"), [(600, 6.0, 1.0), (600, 4.5, 0.5), (50, 3.0, 1.0)])
def test_the_gain_of_averaging_folds_is_foretold_without_labels(speakers: int, quality: float, shared: float) -> None:
    """Models of k folds share an utterance's difficulty and noise, and have noise of their own beside it."""
    errors, gains = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, speakers, 2_000)
        hard = rng.gamma(4, 0.25, (len(labels), 1)) * quality
        common = np.eye(speakers)[labels] * hard + shared * rng.normal(size=(len(labels), speakers))
        folds = [common + rng.normal(size=common.shape) for _ in range(5)]
        single = float(np.mean([(logits.argmax(1) == labels).mean() for logits in folds]))
        truth = float((np.mean(folds, axis=0).argmax(1) == labels).mean()) - single
        found = averaging_gain(folds, np.mean(folds, 0), single)
        errors.append(found.gain - truth)
        gains.append(truth)
    assert np.mean(gains) > 0.01
    assert np.sqrt(np.mean(np.square(errors))) < 0.06 * np.mean(gains)


def test_folds_that_agree_gain_nothing() -> None:
    logits = np.eye(5)[np.arange(40) % 5]
    assert averaging_gain([logits], logits, 0.9).gain == 0
    assert averaging_gain([logits, logits * 2], logits * 1.5, 0.9).gain == 0
