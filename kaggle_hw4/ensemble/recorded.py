"""An ensemble made before, read back from its record: its members, pool and weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_hw4.data.store import Store
from kaggle_hw4.ensemble.blend import blend_test
from kaggle_hw4.ensemble.members import Member, added_member, load_member
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.submission import MADE_AGAIN, record_of
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import Folds
from kaggle_hw4.runs import REFIT
from kaggle_hw4.workspace import Workspace, check_fields, read_json


@dataclass(frozen=True)
class Blend:
    """Members and the factors β (members,) that their logits are multiplied with."""

    members: list[Member]
    beta: np.ndarray

    def test(self, k: int) -> np.ndarray:
        """Blended test logits (test utterances, speakers), averaged over the models."""
        mean: np.ndarray = np.stack(blend_test(self.members, self.beta, k)).mean(0)
        return mean

    def picks(self, store: Store, folds: Folds) -> np.ndarray:
        """Class named for each training utterance (train utterances,), out of fold, in the order of the index."""
        labels = store.labels[store.train_rows]
        pool = Pool.of(self.members, [labels[folds.validation_rows(fold)] for fold in range(folds.k)])
        rows = np.concatenate([folds.validation_rows(fold) for fold in pool.all_folds])
        picks = np.empty(len(labels), np.int32)
        picks[rows] = pool.score(self.beta[None], pool.all_folds)[0][0]
        return picks


def read_record(csv: Path) -> dict[str, Any]:
    """What is recorded beside a submission. Raises DataError when it is missing or damaged."""
    path = record_of(csv)
    again = f"Delete {path}; {MADE_AGAIN}"
    record = read_json(path, again)
    try:
        check_fields(
            record,
            members=list,
            accuracy=int | float,
            **dict.fromkeys(("csv", "weights", "data", "folds", "code", "method"), str),
        )
        for member in record["members"]:
            numbers = dict.fromkeys(("weight", "temperature", "beta"), int | float)
            for part in check_fields(member, name=str, made_from=str, parts=list, **numbers)["parts"]:
                files = {"oof_file": str, "test_file": str}  # of a member from elsewhere
                check_fields(part, **(files if "oof_file" in part else {"fold": int}))
            member["parts"][0]
        return dict(record)
    except (IndexError, ValueError) as error:
        raise DataError(f"{path} is not the record of an ensemble: {error!r}", again) from error


def recorded_member(workspace: Workspace, store: Store, folds: Folds, recorded: dict[str, Any]) -> Member:
    """The member as its files are now. Raises what `load_member` and `added_member` raise."""
    first = recorded["parts"][0]
    if "oof_file" in first:
        return added_member(store, folds, recorded["name"], Path(first["oof_file"]), Path(first["test_file"]))
    refit = any(part["fold"] == REFIT for part in recorded["parts"])
    return load_member(workspace, store, folds, recorded["name"], refit=refit)


def recorded_blend(workspace: Workspace, store: Store, folds: Folds, record: dict[str, Any]) -> Blend:
    """The blend of a record.

    Raises:
        DataError: a member's logits are gone, or are not those that it was made from.
    """
    members = []
    for recorded in record["members"]:
        member = recorded_member(workspace, store, folds, recorded)
        if member.made_from != recorded["made_from"]:
            raise DataError(
                f"the logits of {member.name} are not those that {record['name']} was made from",
                "Make the ensemble anew: kaggle-hw4 ensemble",
            )
        members.append(member)
    return Blend(members, np.array([m["beta"] for m in record["members"]]))
