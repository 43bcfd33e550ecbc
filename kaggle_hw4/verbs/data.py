"""Verbs about the data: get it, split it, look for what will hurt. And how names are given."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kaggle_hw4.competition import DEFAULT_SLUG, Competition, competition
from kaggle_hw4.workspace import Workspace

if TYPE_CHECKING:
    from kaggle_hw4.check import Finding
    from kaggle_hw4.data.store import Store
    from kaggle_hw4.folds import Folds

MAX_SEED = 2**32 - 1  # scikit-learn's and numpy's
Names = str | Sequence[str]  # one name, or some


def listed(names: Names) -> list[str]:
    """The names as a list: a single one is not taken for its letters."""
    return [names] if isinstance(names, str) else list(names)


def get_data(
    workspace: Workspace, source: Path | str | None = None, *, slug: str | None = None, dtype: str | None = None
) -> "Store":
    """The packed data of the workspace, made once: from `source` (folder, zip, tar) or else downloaded from Kaggle.

    `slug` or address of the competition: default that of the data there, or ml2023springhw4. `dtype` of the stored
    frames: float16 or float32, by default that of the data there, or float16. In the Store utterances are rows, and
    frames log-mels (frames, 40) of 10 ms.

    Raises:
        UsageError: no such competition, dtype or source.
        DataError: an archive that is damaged, or data there from something else.
        RefusedError, UnavailableError: Kaggle's, while downloading.
    """
    from kaggle_hw4.obtain import obtain

    return obtain(
        workspace, None if slug is None else competition(slug).slug, None if source is None else Path(source), dtype
    )


def open_split(workspace: Workspace, *, k: int | None = None, seed: int | None = None) -> tuple["Store", "Folds"]:
    """The data and its speaker-stratified split, which is made when there is none: 5 folds, seed 0 by default.

    Raises:
        DataError: no data, a split of another `k` or `seed` there, or a speaker with fewer than `k` utterances.
    """
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import make_folds
    from kaggle_hw4.runs import splits_of

    store = open_store(workspace.store)
    made = make_folds(store, workspace.folds_file, k=k, seed=seed, trained_on=partial(splits_of, workspace, store))
    return store, made


def edition_of(workspace: Workspace) -> Competition:
    """The competition of the workspace's data; the default one before there is data."""
    from kaggle_hw4.data.store import open_store

    return competition(open_store(workspace.store).competition if workspace.store.exists() else DEFAULT_SLUG)


def check(workspace: Workspace) -> "list[Finding]":
    """What in the data will hurt: drift, twins, odd speakers. Raises DataError when something cannot be read."""
    from kaggle_hw4.check import check_data
    from kaggle_hw4.terminal import stage

    store, folds = open_split(workspace)
    with stage() as tick:
        return check_data(workspace, store, folds, tick)
