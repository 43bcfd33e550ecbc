"""How two namings of the test differ, and whether a submission slot could tell which is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN, PUBLIC_SHARE
from kaggle_hw4.ledger import Row
from kaggle_hw4.workspace import Workspace, file_hash, read_json

# Of the rows scored publicly, so many must differ before any outcome is significant: if all of n go to one side,
# the paired test (McNemar's) gives p = 2^(1 - n), and 2^-5 = 0.03.
_FEWEST = 6
_LOW_POWER = 0.2
_NAMED_AT_MOST = 3  # earlier submissions, in a warning

Verdict = Literal["same", "cannot", "hardly", "can"]


@dataclass(frozen=True)
class Paired:
    """Two blends on the same out-of-fold utterances, as shares of them: `differ` are named differently, in
    `discordant` exactly one is right, `gain` is B's accuracy minus A's."""

    differ: float
    discordant: float
    gain: float


@dataclass(frozen=True)
class Difference:
    """Of `rows` test utterances A and B name `differ` differently; `public` rows of them are scored publicly.

    `standard_error` is that of B's public score minus A's, an upper bound where out-of-fold rows of both are not
    at hand; `expected` is that difference as cross-validation foretells it and `power` the chance that the
    public scores then show it at the 5 % level, None where not known.
    """

    rows: int
    differ: int
    public: int
    expected: float | None
    standard_error: float
    power: float | None

    @property
    def most(self) -> float:
        """How far the score on all rows can move."""
        return self.differ / self.rows

    @property
    def most_public(self) -> float:
        """How far the public score can move: all rows that differ might be scored publicly."""
        return min(self.differ, self.public) / self.public

    @property
    def public_differ(self) -> float:
        """Expected number of differing rows that are scored publicly."""
        return self.differ * self.public / self.rows

    @property
    def verdict(self) -> Verdict:
        """Whether a score can tell the two apart."""
        if self.differ == 0:
            return "same"
        if min(self.differ, self.public) < _FEWEST:
            return "cannot"
        unlikely = self.public_differ < _FEWEST or (self.power is not None and self.power < _LOW_POWER)
        return "hardly" if unlikely else "can"

    @property
    def sentence(self) -> str:
        """Whether a slot can learn anything, for people."""
        number = self.public_differ
        scored = f"about {number:{'.3g' if number < 100 else ',.0f'}} of the rows that differ are scored publicly"
        if self.verdict == "same":
            return "A slot can learn nothing: every row is named alike, so the scores are the same."
        if self.verdict == "cannot":
            return f"A slot can learn nothing: {scored}, and fewer than {_FEWEST} never tell, whatever the score."
        if self.public_differ < _FEWEST:
            return f"A slot will hardly learn anything: {scored}, and fewer than {_FEWEST} never tell."
        if self.power is None:
            return f"A slot can learn something only if one is right far more often: {scored}."
        learns = "will hardly learn anything" if self.verdict == "hardly" else "can learn something"
        chance = f"the chance that the public score tells is {100 * self.power:.0f} %"
        return f"A slot {learns}: by the difference in cross-validation {chance}."

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {
            "most": self.most,
            "most_public": self.most_public,
            "verdict": self.verdict,
            "learns": self.verdict == "can",
        }


def difference(a: Mapping[str, str], b: Mapping[str, str], paired: Paired | None, gain: float | None) -> Difference:
    """Compare two namings (speaker by utterance id) of the same utterances.

    Without `paired`, `gain` may give the difference of the accuracies in cross-validation.
    """
    from scipy.stats import norm

    rows = len(a)
    differ = sum(b[name] != speaker for name, speaker in a.items())
    public = max(1, round(rows * PUBLIC_SHARE))
    # In the test they differ in other numbers than out of fold; what is kept are shares of the rows that differ.
    share = differ / rows
    tells = paired.discordant / paired.differ if paired and paired.differ else 1.0
    expected = (paired.gain * share / paired.differ if paired.differ else 0.0) if paired else gain
    error = (tells * share / public) ** 0.5
    power = None
    if expected is not None:
        reach = norm.ppf(0.975)
        shift = expected / error if error else 0.0
        power = float(norm.cdf(shift - reach) + norm.cdf(-shift - reach))
    return Difference(rows, differ, public, expected, error, power)


def against_earlier(
    workspace: Workspace, earlier: Sequence[Row], frame: pd.DataFrame, name: str
) -> tuple[Row | None, list[str]]:
    """Compare what is about to be sent with every earlier submission whose file is still there, unchanged.

    `frame` has the columns Id and Category; `name` is the ensemble that made it, or "".

    Returns:
        The newest submission that names every row alike, if any, and warnings about those that
        a score cannot tell from this one.
    """
    ours = dict(zip(frame[ID_COLUMN], frame[LABEL_COLUMN], strict=True))
    accuracy = recorded_accuracy(workspace, name)
    doubtful: list[tuple[int, str]] = []
    for row in sorted(earlier, key=lambda row: row.state != "sending"):  # one in doubt answers before all others
        theirs = sent_rows(workspace, row)
        if (row.ref is None and row.state != "sending") or theirs is None or theirs.keys() != ours.keys():
            continue
        before = recorded_accuracy(workspace, row.ensemble)
        gain = None if accuracy is None or before is None else accuracy - before
        found = difference(theirs, ours, None, gain)
        if found.verdict == "same":
            return row, []
        if found.verdict != "can" and row.ref is not None:
            score = f", public {row.public}" if row.public else ""
            doubtful.append((found.differ, f"{row.name} ({found.differ} of {found.rows:,} rows differ{score})"))
    if not doubtful:
        return None, []
    nearest = [text for _, text in sorted(doubtful)]
    more = f" and {len(nearest) - _NAMED_AT_MOST} more" if len(nearest) > _NAMED_AT_MOST else ""
    return None, [f"warning: a score can hardly tell this from {'; '.join(nearest[:_NAMED_AT_MOST])}{more}"]


def sent_rows(workspace: Workspace, row: Row) -> dict[str, str] | None:
    """Speaker by utterance id of a submission, as long as its file is still what was sent."""
    path = sent_file(workspace, row)
    return read_rows(path) if path else None


def sent_file(workspace: Workspace, row: Row) -> Path | None:
    """The file of a submission, as long as it is still what was sent."""
    places = (workspace.submissions / f"{row.name}.csv", Path(row.file))
    return next((p for p in places if row.csv_hash and p.is_file() and file_hash(p) == row.csv_hash), None)


def read_rows(path: Path) -> dict[str, str]:
    """Speaker by utterance id, of a file that was checked before."""
    frame = pd.read_csv(path, dtype=str)
    return dict(zip(frame[ID_COLUMN], frame[LABEL_COLUMN], strict=True))


def recorded_accuracy(workspace: Workspace, name: str) -> float | None:
    """The honest out-of-fold accuracy in the record of an ensemble; None when there is none."""
    record = workspace.submissions / f"{name}.json"
    if not name or not record.exists():
        return None
    made = read_json(record, "Delete it; an ensemble of the same members makes it again.")
    return made.get("accuracy") if isinstance(made, dict) else None
