"""The speaker-stratified k-fold split, written once to `folds/`."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.workspace import check_fields, content_hash, read_json, storage_errors, write_json


@dataclass(frozen=True)
class Folds:
    """`fold_of[i]` is the fold that holds out the i-th training utterance (`store.train_rows[i]`)."""

    k: int
    seed: int
    fold_of: np.ndarray
    hash: str

    def validation_rows(self, fold: int) -> np.ndarray:
        """Rows of the store held out in `fold`; train utterances are the store's first rows."""
        return np.flatnonzero(self.fold_of == fold)

    def training_rows(self, fold: int) -> np.ndarray:
        return np.flatnonzero(self.fold_of != fold)


def split(store: Store, k: int, seed: int) -> np.ndarray:
    """Fold of each training utterance: (n_train,) int.

    Stratified over speakers on one representative of each distinct content; byte-identical twins
    follow it, so that no fold is validated on an utterance it was trained on.

    Raises:
        UsageError: k < 2.
        DataError: a speaker has fewer than k different utterances.
    """
    from sklearn.model_selection import StratifiedKFold

    if k < 2:
        raise UsageError(f"--k {k}: a split needs at least 2 folds")
    train = store.index.iloc[store.train_rows]
    distinct = train.drop_duplicates("digest")
    counts = distinct["speaker"].value_counts()
    rare = [store.speakers[i] for i in range(len(store.speakers)) if counts.get(i, 0) < k]
    if rare:
        names = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        most = min(counts.get(i, 0) for i in range(len(store.speakers)))
        remedy = "A split needs two of each speaker: get data that has them."
        if most >= 2:
            remedy = f"Choose a smaller k, at most {most}: kaggle-hw4 folds --k {most}"
        raise DataError(f"fewer than {k} different utterances of {names}", remedy)
    of_content = {}
    splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(distinct, distinct["speaker"])):
        of_content.update(dict.fromkeys(distinct["digest"].iloc[held_out], fold))
    return train["digest"].map(of_content).to_numpy()


DEFAULT_K, DEFAULT_SEED = 5, 0
# What to do when the split is gone, and trainings were made on it.
BROUGHT_BACK = (
    "Bring it back, or make it as it was: kaggle-hw4 folds --k N --seed S. Or use another --root, or delete `runs/`."
)


def make_folds(
    store: Store,
    path: Path,
    *,
    k: int | None = None,
    seed: int | None = None,
    trained_on: Callable[[], Collection[str]] = tuple,
) -> Folds:
    """The split at `path`; when there is none, it is made (5 folds, seed 0, unless asked otherwise).

    `trained_on` gives the hashes of the splits of this data that trainings were made on.

    Raises:
        DataError: `path` holds a split of another k or seed than asked for, or one of other data; it is gone, and
            trainings were made on another than this one; what `split` raises.
    """
    if not path.exists():
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):  # of two that ask for different ones, one is refused
                if not path.exists():
                    _write(
                        store, path, DEFAULT_K if k is None else k, DEFAULT_SEED if seed is None else seed, trained_on()
                    )
    folds = load_folds(store, path)
    if k not in (None, folds.k) or seed not in (None, folds.seed):
        asked = ", ".join(f"{name}={value}" for name, value in (("k", k), ("seed", seed)) if value is not None)
        remedy = "Use another --root for another split, or delete the file: no training depends on it."
        if folds.hash in trained_on():
            remedy = "Runs depend on it: use another --root for another split, or delete the file and `runs/`."
        raise DataError(f"{path} holds a split with k={folds.k}, seed={folds.seed}, not {asked}", remedy)
    return folds


def _write(store: Store, path: Path, k: int, seed: int, trained: Collection[str]) -> None:
    names = store.index["id"].iloc[store.train_rows]
    assignment = dict(zip(names, split(store, k, seed).tolist(), strict=True))
    content = {"k": k, "seed": seed, "data": store.hash, "fold_of": assignment}
    if trained and content_hash(content) not in trained:
        raise DataError(
            f"{path} is gone, and the trainings here are of another split than k={k}, seed={seed}",
            BROUGHT_BACK,
        )
    write_json(path, content)


def made_again(path: Path) -> str:
    """The command that makes the split at `path`, as it was made where a damaged file still tells."""
    try:
        head = path.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return "Run `kaggle-hw4 folds` to make it."
    told = [re.search(rf'"{name}": (\d{{1,10}}),', head) for name in ("k", "seed")]
    options = "".join(f" --{name} {found[1]}" for name, found in zip(("k", "seed"), told, strict=True) if found)
    return f"Delete it and make it again, as it was: kaggle-hw4 folds{options}"


def load_folds(store: Store, path: Path) -> Folds:
    """Read the split at `path`.

    Raises:
        DataError: none there, broken, or made for other data (both hashes are named).
    """
    again = made_again(path)
    content = read_json(path, again)
    try:
        check_fields(content, k=int, seed=int, data=str, fold_of=dict)
        k, seed, data, assignment = (content[key] for key in ("k", "seed", "data", "fold_of"))
        if data != store.hash:
            raise DataError(f"{path} was made for the data {data}, but {store.folder} holds {store.hash}", again)
        names = store.index["id"].iloc[store.train_rows]
        fold_of = [assignment[name] for name in names]
        found = {fold for fold in fold_of if type(fold) is int}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a split of this data: {error!r}", again) from error
    whole = all(type(fold) is int for fold in fold_of) and len(assignment) == len(fold_of)
    if not whole or len(found) != k or (min(found, default=0), max(found, default=0)) != (0, k - 1):
        raise DataError(f"{path} does not assign every training utterance to one of {k} folds", again)
    return Folds(k, seed, np.array(fold_of), content_hash(content))
