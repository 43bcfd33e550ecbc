"""Blend members: temperatures fitted out of fold, mean of the scaled logits, a submission with its record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kaggle_hw4.competition import ID_COLUMN, LABEL_COLUMN
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds
from kaggle_hw4.inference import accuracy, log_loss
from kaggle_hw4.runs import Job, Run, check_identity, identity, job_of
from kaggle_hw4.variants import SETS, variant
from kaggle_hw4.workspace import Workspace, atomic_path, content_hash, file_hash, read_json, write_json


@dataclass(frozen=True)
class Member:
    """A (variant, seed) trained on every fold.

    `oof` (train utterances, speakers): each row from the model that has not seen it; `test` (test
    utterances, speakers): the mean over the folds. `made_from` names the runs' inputs and logits.
    """

    name: str
    oof: np.ndarray
    test: np.ndarray
    temperature: float
    accuracy: float
    log_loss: float
    made_from: str


@dataclass(frozen=True)
class Ensemble:
    """`accuracy` and `log_loss` are out of fold, `plain_accuracy` that of the plain mean of logits."""

    name: str
    members: list[Member]
    accuracy: float
    log_loss: float
    plain_accuracy: float
    file: Path

    def summary(self) -> dict[str, Any]:
        """What is recorded beside the CSV, and printed by `--json`."""
        return {
            "name": self.name,
            "method": "equal",
            "members": [
                {
                    "name": member.name,
                    "weight": 1 / len(self.members),
                    "temperature": member.temperature,
                    "accuracy": member.accuracy,
                    "log_loss": member.log_loss,
                    "made_from": member.made_from,
                }
                for member in self.members
            ],
            "accuracy": self.accuracy,
            "log_loss": self.log_loss,
            "plain_mean_accuracy": self.plain_accuracy,
            "utterances": len(self.members[0].oof),
            "file": str(self.file),
        }


def complete_members(workspace: Workspace, k: int) -> tuple[list[str], dict[str, list[int]]]:
    """Names of the members trained on all k folds, and the folds still missing of the others."""
    complete, missing = [], {}
    for folder in sorted(workspace.runs.glob("*")):
        unfinished = [fold for fold in range(k) if not Run(folder / f"fold{fold}").finished]
        if not unfinished:
            complete.append(folder.name)
        elif any(Run(folder / f"fold{fold}").started for fold in range(k)):
            missing[folder.name] = unfinished
    return complete, missing


def choose_members(workspace: Workspace, k: int, names: list[str]) -> list[str]:
    """The members named by members, variants (all seeds) or sets; all of the workspace when none is named.

    Raises:
        UsageError: a name that no member answers to.
        DataError: nothing is trained, or a chosen member lacks folds (it is never left out silently).
    """
    complete, missing = complete_members(workspace, k)
    if not complete and not missing:
        raise DataError(f"nothing is trained in {workspace.runs}", "Run `kaggle-hw4 train --fold all` first.")
    everything = sorted([*complete, *missing])
    chosen: list[str] = []
    for name in names or everything:
        variants = SETS.get(name, (name,))
        found = [member for member in everything if member == name or member.rsplit("-s", 1)[0] in variants]
        if not found:
            raise UsageError(f"no member {name!r}", f"There are: {', '.join(everything)}.")
        chosen += [member for member in found if member not in chosen]
    if lacking := [name for name in chosen if name in missing]:
        folds = "; ".join(f"{name}: fold {', '.join(map(str, missing[name]))}" for name in lacking)
        offer = f"; or without them: kaggle-hw4 ensemble {' '.join(complete)}" if complete else ""
        raise DataError(f"not trained on every fold yet: {folds}", f"Run: {_train_command(workspace, lacking)}{offer}")
    return chosen


def _train_command(workspace: Workspace, members: list[str]) -> str:
    """The command that finishes these members, as they were begun."""
    jobs = [
        job_of(run)
        for member in members
        for run in (Run(path.parent) for path in sorted((workspace.runs / member).glob("fold*/run.json"))[:1])
    ]
    options = [f"--variant {name}" for name in dict.fromkeys(job.name for job in jobs)]
    options += [f"--seed {seed}" for seed in dict.fromkeys(job.seed for job in jobs) if seed]
    options += [f"--steps {job.variant.steps}" for job in jobs if job.variant != variant(job.name)][:1]
    return " ".join(["kaggle-hw4 train --fold all", *options])


def load_member(workspace: Workspace, store: Store, folds: Folds, name: str) -> Member:
    """Join a member's out-of-fold logits over the folds, average its test logits, fit its temperature.

    Raises:
        DataError: a run of other data or folds, folds of different recipes, or logits that are damaged.
    """
    labels = store.labels[store.train_rows]
    oof = np.full((len(labels), len(store.speakers)), np.nan, np.float32)
    test = np.zeros((len(store.test_rows), len(store.speakers)), np.float64)
    recipes, made_from = [], []
    for fold in range(folds.k):
        run = Run(workspace.runs / name / f"fold{fold}")
        again = f"Write it anew from the weights: kaggle-hw4 predict {name}"
        job, result = job_of(run), read_json(run.result, again)
        variant_name, _, seed = name.rpartition("-s")
        expected = identity(Job(variant_name, job.variant, int(seed), fold), store, folds)
        check_identity(run, expected)
        held_out = folds.validation_rows(fold)
        oof[held_out] = _load_logits(run.oof, result.get("oof"), (len(held_out), oof.shape[1]), again)
        test += _load_logits(run.test, result.get("test"), test.shape, again)
        recipes.append(job.variant)
        made_from.append([expected["hash"], result["oof"], result["test"]])
    if any(recipe != recipes[0] for recipe in recipes):
        raise DataError(f"the folds of {name} were trained with different recipes", "Train them anew with one.")
    temperature = fit_temperature(oof, labels)
    return Member(
        name,
        oof,
        (test / folds.k).astype(np.float32),
        temperature,
        accuracy(oof, labels),
        log_loss(oof / temperature, labels),
        content_hash(made_from),
    )


def _load_logits(path: Path, expected_hash: str | None, shape: tuple[int, ...], again: str) -> np.ndarray:
    try:
        if file_hash(path) != expected_hash:
            raise DataError(f"{path} is not the file that was written: its checksum differs", again)
        logits = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", again) from error
    if logits.shape != shape or not np.isfinite(logits).all():
        raise DataError(f"{path} holds {logits.shape} logits, not {shape} finite ones", again)
    return logits


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which the log loss of logits / T is least (Guo et al. 2017); logits (n, speakers)."""
    from scipy.optimize import minimize_scalar

    fit = minimize_scalar(lambda t: log_loss(logits / np.float32(np.exp(t)), labels), bounds=(-4, 4), method="bounded")
    return float(np.exp(fit.x))


def blend(logits: list[np.ndarray], temperatures: list[float]) -> np.ndarray:
    """Mean of logits / T over members; each (n, speakers). Out-of-fold and test logits both go through here."""
    total = np.zeros_like(logits[0])
    for member, temperature in zip(logits, temperatures, strict=True):
        total += member / np.float32(temperature)
    return total / len(logits)


def make_ensemble(workspace: Workspace, store: Store, folds: Folds, names: list[str]) -> Ensemble:
    """Blend the members chosen by `names` and write `submissions/<name>.csv` with its record `<name>.json`.

    The name tells the content: the same members give the same file. Raises what `choose_members`
    and `load_member` raise.
    """
    members = [load_member(workspace, store, folds, name) for name in choose_members(workspace, folds.k, names)]
    labels = store.labels[store.train_rows]
    temperatures = [member.temperature for member in members]
    oof = blend([member.oof for member in members], temperatures)
    plain = blend([member.oof for member in members], [1.0] * len(members))
    identity = content_hash([[member.name, member.made_from] for member in members])[:8]
    name = f"{members[0].name if len(members) == 1 else 'ensemble'}-{identity}"
    file = workspace.submissions / f"{name}.csv"
    predicted = blend([member.test for member in members], temperatures).argmax(1)
    ensemble = Ensemble(name, members, accuracy(oof, labels), log_loss(oof, labels), accuracy(plain, labels), file)
    write_submission(file, store.test_ids, [store.speakers[i] for i in predicted])
    write_json(record_of(file), ensemble.summary() | {"csv": file_hash(file), "data": store.hash, "folds": folds.hash})
    return ensemble


def record_of(csv: Path) -> Path:
    """The JSON file beside a submission that says what it was made from."""
    return csv.with_suffix(".json")


def recorded_name(workspace: Workspace, csv: Path) -> str:
    """The name of the ensemble whose file this still is, byte for byte; "" for any other file."""
    record = record_of(csv)
    ours = csv.resolve().parent == workspace.submissions.resolve() and record.exists()
    return csv.stem if ours and read_json(record, f"Delete {record}.").get("csv") == file_hash(csv) else ""


def write_submission(path: Path, ids: list[str], speakers: list[str]) -> None:
    """Write the CSV that Kaggle takes: header `Id,Category`, a row per test utterance."""
    with atomic_path(path) as temporary:
        pd.DataFrame({ID_COLUMN: ids, LABEL_COLUMN: speakers}).to_csv(temporary, index=False)
