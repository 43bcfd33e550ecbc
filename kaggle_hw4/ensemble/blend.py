"""From members to a submission: weights, what they are honestly worth, the file and its record."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_hw4.data.store import Store
from kaggle_hw4.ensemble import greedy, honest
from kaggle_hw4.ensemble.averaging import Averaging, averaging_gain
from kaggle_hw4.ensemble.compare import Comparison, compare, seed_noise
from kaggle_hw4.ensemble.honest import METHODS, Estimate, Temperatures, Weights
from kaggle_hw4.ensemble.members import Member, added_member, choose_members, load_member
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.submission import record_of, write_submission
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.variants import SETS
from kaggle_hw4.version import code_version
from kaggle_hw4.workspace import Workspace, content_hash, file_hash, write_json

Added = tuple[str, Path, Path]  # name, out-of-fold logits, test logits


@dataclass(frozen=True)
class Ensemble:
    """Made of `members` with `weights`; `candidates` are all that were compared, equal weights first."""

    name: str
    file: Path
    members: list[Member]
    temperatures: Temperatures
    weights: Weights
    candidates: list[Weights]
    estimates: list[Estimate]
    comparison: Comparison
    over_equal: dict[str, Any]
    over_single: dict[str, Any]
    averaging: Averaging
    asked: bool  # whether the method was asked for, or chosen

    @property
    def estimate(self) -> Estimate:
        return self.estimates[self.candidates.index(self.weights)]

    def summary(self) -> dict[str, Any]:
        """What is recorded beside the CSV, and printed by `--json`; what is not known is null."""
        compared, names = self.comparison, [member.name for member in self.members]
        return {
            "name": self.name,
            "method": self.weights.method,
            "asked": self.asked,
            "members": [
                {
                    "name": member.name,
                    "weight": float(self.weights.shown[i]),
                    "temperature": float(self.temperatures.full[i]),
                    "beta": float(self.weights.full[i] / self.temperatures.full[i]),
                    "accuracy": float(compared.member_accuracy[i]),
                    "log_loss": float(compared.log_loss[i]),
                    "without": _known(compared.without[i]),
                    "error_correlation": _mean_of_others(compared.correlation, i),
                    "disagreement": _mean_of_others(compared.disagreement, i),
                    "refit": member.refit is not None,
                    "made_from": member.made_from,
                    "parts": member.parts,
                }
                for i, member in enumerate(self.members)
            ],
            "accuracy": self.estimate.accuracy,
            "interval": list(self.estimate.interval),
            "log_loss": self.estimate.log_loss,
            "in_sample_accuracy": compared.accuracy,
            "honest_gain": self.over_single["gain"],
            "best_single": self.over_single,
            "equal": self.over_equal,
            "methods": [
                {
                    "method": weights.method,
                    "accuracy": found.accuracy,
                    "interval": list(found.interval),
                    "log_loss": found.log_loss,
                    "p": honest.mcnemar(found.right, self.estimates[0].right),
                    "residual": weights.residual,
                }
                for weights, found in zip(self.candidates, self.estimates, strict=True)
            ],
            "pairs": {
                "names": names,
                "error_correlation": [[_known(value) for value in row] for row in compared.correlation],
                "disagreement": compared.disagreement.tolist(),
            },
            "seeds": seed_noise(names, compared.member_accuracy),
            "averaging": vars(self.averaging),
            "utterances": len(self.estimate.right),
            "file": str(self.file),
        }


def make_ensemble(
    workspace: Workspace,
    store: Store,
    folds: Folds,
    names: list[str],
    *,
    method: str | None = None,
    by_hand: str = "",
    added: list[Added] | None = None,
    tick: Callable[[str], None] = lambda what: None,
) -> Ensemble:
    """Blend the members chosen by `names` and write `submissions/<name>.csv` with its record `<name>.json`.

    `method` None takes equal weights unless another method wins the paired test against them; `by_hand`
    gives weights as `a=.5,b=.5`. The name tells the content: the same members and method give the same file.
    `tick` is told what is being done.

    Raises:
        UsageError: an unknown method or member, or weights that make no sense.
        DataError: what `choose_members`, `load_member` and `fit_weights` raise.
    """
    if method is not None and method not in METHODS:
        raise UsageError(f"no method {method!r}", f"There are: {', '.join(METHODS)}.")
    if method and by_hand:
        raise UsageError("--method and --weights contradict each other", "Give one of them.")
    given = parse_weights(by_hand) if by_hand else {}
    tick("reading logits")
    members = gather(workspace, store, folds, names or list(given), added or [])
    hand = _by_member(given, [member.name for member in members]) if given else None

    train_labels = store.labels[store.train_rows]
    labels = [train_labels[folds.validation_rows(fold)] for fold in range(folds.k)]
    pool = Pool.of(members, labels)
    temperatures = Temperatures.fitted(pool, tick)
    pool = pool.scaled(1 / temperatures.full)
    candidates = fit_all(pool, temperatures, method, hand, tick)
    tick("scoring what was fitted without a fold on it")
    estimates = honest.estimate(pool, candidates)
    chosen = len(candidates) - 1 if method or given else honest.choose(estimates)
    weights, estimate = candidates[chosen], estimates[chosen]
    tick("comparing members")
    comparison = compare(pool, weights.full)
    speakers = pool.labels_of(pool.all_folds)
    single = honest.best_single(pool, comparison.right)

    tick("blending the test")
    blended = blend_test(members, weights.full / temperatures.full, folds.k)
    mean: np.ndarray = np.stack(blended).mean(0, dtype=np.float32)
    predicted = mean.argmax(1)
    made_of = [weights.method, [[member.name, member.made_from] for member in members], given]
    prefix = members[0].name if len(members) == 1 else "ensemble"
    name = f"{prefix}-{content_hash(made_of)[:8]}"
    made = Ensemble(
        name,
        workspace.submissions / f"{name}.csv",
        members,
        temperatures,
        weights,
        candidates,
        estimates,
        comparison,
        honest.gain(estimates[0].right, estimate.right, speakers),
        honest.gain(single, estimate.right, speakers),
        averaging_gain(blended[: folds.k], mean, estimate.accuracy),
        bool(method or given),
    )
    write_submission(made.file, store.test_ids, [store.speakers[i] for i in predicted])
    summary = made.summary()
    inputs = {"csv": file_hash(made.file), "weights": weights_hash(summary), "data": store.hash, "folds": folds.hash}
    write_json(record_of(made.file), summary | inputs | {"code": code_version()})
    return made


def fit_all(
    pool: Pool,
    temperatures: Temperatures,
    method: str | None,
    hand: np.ndarray | None,
    tick: Callable[[str], None] = lambda what: None,
) -> list[Weights]:
    """Equal weights, and then those asked for (those of every method when none is)."""
    wanted = ["by hand"] if hand is not None else [method] if method else list(METHODS) if len(pool) > 1 else []
    candidates = [honest.fit_weights("equal", pool, temperatures, None, None)]
    for name in wanted:
        if name == "equal":
            continue
        tick(f"{name} weights")
        contested = greedy.contest(pool) if name == "greedy" else None
        try:
            candidates.append(honest.fit_weights(name, pool, temperatures, contested, hand))
        except DataError:
            if len(wanted) == 1:  # what cannot be fitted is no choice, and only what is asked for must be
                raise
    return candidates


def gather(workspace: Workspace, store: Store, folds: Folds, names: list[str], added: list[Added]) -> list[Member]:
    """Load the members named (all of the workspace when none is), and those from elsewhere."""
    foreign = [name for name, _, _ in added]
    there = {path.name for path in workspace.runs.glob("*/")}
    taken = there | {name.rpartition("-s")[0] for name in there} | {*SETS}  # a variant's stands for all of its seeds
    for name in foreign:
        if not re.fullmatch(r"[\w.-]+", name) or foreign.count(name) > 1 or name in taken:
            raise UsageError(
                f"--add {name!r}: the name is taken, or holds other characters than letters, digits, '.', '_', '-'",
                "Give every member a name of its own.",
            )
    ours = [name for name in names if name not in foreign]
    nothing_else = foreign and not ours and (names or not there)
    chosen = [] if nothing_else else choose_members(workspace, folds.k, ours)
    members = [load_member(workspace, store, folds, name) for name in chosen]
    return members + [added_member(store, folds, *member) for member in added]


def blend_test(members: list[Member], beta: np.ndarray, k: int) -> list[np.ndarray]:
    """Σ β_i z_i of the test for each fold's models: k arrays (test utterances, speakers) float32, whose mean names it.

    One more where a member has a refit: of the refits, and of the others' means, which that does not change.
    A member from elsewhere has one array of test logits: it counts in every fold.
    """
    refits = any(member.refit is not None for member in members)
    blended = [np.zeros(members[0].test[0].shape, np.float32) for _ in range(k + refits)]
    for member, factor in zip(members, beta, strict=True):
        if factor:
            for fold, total in enumerate(blended[:k]):
                total += member.test[fold % len(member.test)] * np.float32(factor)
            if refits:
                blended[k] += (member.mean_test() if member.refit is None else member.refit) * np.float32(factor)
    return blended


def parse_weights(text: str) -> dict[str, float]:
    """`a=.5,b=.5` as a dict.

    Raises:
        UsageError: not of that form, a name twice, or a weight that is no number ≥ 0, or all are 0.
    """
    remedy = "Give them as --weights NAME=0.5,NAME=0.5: numbers from 0 on, which are scaled to the sum 1."
    given: dict[str, float] = {}
    for part in text.split(","):
        name, mark, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not mark or not math.isfinite(weight):
            raise UsageError(f"--weights: {part.strip()!r} is not NAME=NUMBER", remedy)
        if weight < 0:
            raise UsageError(f"--weights: the weight of {name} is negative: {number}", remedy)
        if name in given:
            raise UsageError(f"--weights: {name} is named twice", remedy)
        given[name] = weight
    if not any(given.values()) or not math.isfinite(sum(given.values())):
        raise UsageError("--weights: all are 0, or their sum is no number", remedy)
    return given


def _by_member(given: dict[str, float], members: list[str]) -> np.ndarray:
    """Weights in the order of the members. Raises UsageError for a name that is no member, or a member without one."""
    there = f"The members are: {', '.join(members)}."
    if unknown := [name for name in given if name not in members]:
        raise UsageError(f"--weights: {unknown[0]} is not the name of a member", there)
    if lacking := [name for name in members if name not in given]:
        raise UsageError(f"--weights: there is none for {', '.join(lacking)}", there)
    return np.array([given[name] for name in members])


def weights_hash(summary: dict[str, Any]) -> str:
    """Names the weights and temperatures of a recorded ensemble."""
    return content_hash([[m["name"], m["weight"], m["temperature"]] for m in summary["members"]])


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean_of_others(matrix: np.ndarray, i: int) -> float | None:
    others = np.delete(matrix[i], i)
    return _known(float(others.mean())) if len(others) else None
