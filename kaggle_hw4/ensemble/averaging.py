"""How much more accurate the test is named than the out-of-fold utterances, by the mean of k fold models.

Out of fold each utterance is named by one model of a member, in the test by the mean of k that differ. The
gain can be estimated without labels of the test: let q be the probabilities of the averaged logits at a
temperature τ. One model's picks, judged by q, must be right as often as they are out of fold, where the labels are
known; that fixes τ. Then the averaged picks are right as often as q says. What it takes for granted is that test and
training utterances are equally hard, and that q is calibrated at one τ.
"""

from dataclasses import dataclass

import numpy as np

# Standard deviation of the gain's error, as a share of it. In simulations where what it takes for granted holds,
# it is below 0.06 (tests/test_pool.py); for real models that holds only roughly.
_RELATIVE_ERROR = 0.25


@dataclass(frozen=True)
class Averaging:
    """`gain` in accuracy and the standard deviation of its error, both shares of 1."""

    gain: float
    sd: float


def averaging_gain(by_fold: list[np.ndarray], mean: np.ndarray, accuracy: float) -> Averaging:
    """`by_fold` has the blended test logits (test utterances, speakers) of each fold's models, `accuracy` is theirs.

    `mean` has those that name the test: of these models, and of refits if there are any. Where all always
    agree there is nothing to gain.
    """
    from scipy.optimize import brentq

    picks = [logits.argmax(1) for logits in by_fold]
    rows = np.arange(len(mean))

    def judged(log_temperature: float) -> tuple[float, float]:
        """How often one model's picks and the averaged ones are right, as q says."""
        q = mean / np.float32(np.exp(log_temperature))
        q -= q.max(1, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(1, keepdims=True)
        return float(np.mean([q[rows, pick].mean() for pick in picks])), float(q.max(1).mean())

    low, high = -8.0, 8.0
    if judged(low)[0] <= accuracy:  # by chance, one model is right more often than it agrees with the mean
        fitted = low
    elif judged(high)[0] >= accuracy:
        fitted = high
    else:
        fitted = brentq(lambda t: judged(t)[0] - accuracy, low, high, xtol=1e-4)
    single, together = judged(fitted)
    gain = max(0.0, together - single)  # rounding can make less of nothing
    return Averaging(gain, _RELATIVE_ERROR * gain)
