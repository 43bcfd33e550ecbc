"""Where the public score of a submission should fall, given its cross-validation.

Out of fold the accuracy of n utterances is known; the public score is that of m others, named by the mean of
k models where one named each out of fold. So it should lie the gain of that averaging higher (an estimate, see
`ensemble.averaging`), give or take the binomial error of m rows and the errors of the two estimates.

All submissions are scored on the same m rows. Once three have scores, the others' mean distance between public
score and cross-validation takes the place of the estimate: it holds the gain and also how easy these m rows
happen to be. What is left is the error of a difference on the same rows, which only rows named differently make.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kaggle_hw4.competition import PUBLIC_SHARE

_REACH = 1.96  # standard deviations of a 95 % band
_ENOUGH = 3  # scores that the offset is estimated from


@dataclass(frozen=True)
class Scored:
    """A submission: cross-validated `accuracy` and its standard `error`, the `gain` of averaging with its own,
    the rows as sent (speaker by utterance id), and the public score if there is one."""

    accuracy: float
    error: float
    gain: float
    gain_error: float
    rows: Mapping[str, str]
    public: float | None


@dataclass(frozen=True)
class Band:
    """95 % of public scores should lie between `low` and `high`; `z` is how many standard deviations this one is
    above `expected`, None without a score. `offset` is what was added to the accuracy, `source` tells whence."""

    low: float
    expected: float
    high: float
    z: float | None
    offset: float
    source: Literal["averaging", "scores"]


def band(one: Scored, others: Sequence[Scored]) -> Band:
    """The band of `one`, whose own score is not used; `others` are all other submissions of the same test."""
    public_rows = max(1, round(len(one.rows) * PUBLIC_SHARE))
    scored: list[Scored] = []
    for other in others:  # the same rows sent again are no other submission
        if other.public is not None and all(other.rows != known.rows for known in (one, *scored)):
            scored.append(other)
    binomial = min(max(one.accuracy + one.gain, 0.0), 1.0)
    binomial = max(binomial * (1 - binomial), 1 / public_rows) / public_rows
    if len(scored) + (one.public is not None) >= _ENOUGH:
        source: Literal["averaging", "scores"] = "scores"
        offset = sum((other.public or 0.0) - other.accuracy for other in scored) / len(scored)
        # The variance of a difference to a mean is at most the mean of those to each; a row counts if it differs.
        paired = [min(max(_differ(one, other), 1) / len(one.rows) / public_rows, 2 * binomial) for other in scored]
        variance = sum(paired) / len(paired) + one.error**2
    else:
        source, offset = "averaging", one.gain
        variance = binomial + one.error**2 + one.gain_error**2
    expected, sd = one.accuracy + offset, variance**0.5
    z = None if one.public is None else (one.public - expected) / sd
    low, middle, high = (
        min(max(score, 0.0), 1.0) for score in (expected - _REACH * sd, expected, expected + _REACH * sd)
    )
    return Band(low, middle, high, z, offset, source)


def _differ(a: Scored, b: Scored) -> int:
    return sum(b.rows.get(name) != speaker for name, speaker in a.rows.items())
