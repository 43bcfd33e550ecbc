"""Intervals and tests for accuracies and their differences."""

import numpy as np

_DRAWS = 4_000
LEVEL = 0.95


def interval(values: np.ndarray, speakers: np.ndarray, lowest: float = 0.0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values` (utterances,), each −1, 0 or 1, stratified by `speakers`.

    No mean is below `lowest`: 0 for accuracies, −1 for differences.

    The speakers are the same in the test, so utterances are drawn again within each. A draw takes one
    utterance fewer than the speaker has, which makes the variance unbiased (McCarthy and Snowden 1985): with the
    90 utterances of a speaker it hardly matters, with 10 the interval would be 5 % too short. Where all values are
    the same there is nothing to draw from: the exact (Clopper–Pearson) bounds are given. Where they are so within each
    speaker only, utterances are drawn from all speakers alike.
    """
    n, first = len(values), float(values[0])
    if np.all(values == first):
        reach = 1 - ((1 - LEVEL) / 2) ** (1 / n)
        return max(first - reach, lowest), min(first + reach, 1.0)
    order, sizes = np.unique(speakers, return_inverse=True)[1], np.unique(speakers, return_counts=True)[1]
    draws = np.maximum(sizes - 1, 1)
    rng = np.random.default_rng(0)
    positive = np.bincount(order, values > 0) / sizes
    negative = np.bincount(order, values < 0) / sizes
    ups = rng.binomial(draws, positive, (_DRAWS, len(sizes)))
    total = ups.astype(np.float64)
    if negative.any():
        rest = np.divide(negative, 1 - positive, out=np.zeros_like(negative), where=positive < 1)
        total -= rng.binomial(draws - ups, np.minimum(rest, 1.0))
    means = total @ (sizes / draws) / n
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low == high and len(sizes) > 1:  # each speaker is named always or never: nothing is left to draw within them
        return interval(values, np.zeros(n), lowest)
    return float(low), float(high)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """p of McNemar's exact test, two-sided: are `a` and `b` (utterances,), right or not, equally often right?

    Only utterances that one has right and the other wrong tell; given them, either is as likely under the null.
    The binomial sum is exact at any count, where a bootstrap of few such utterances is not.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
