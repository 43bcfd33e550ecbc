"""A workspace whose runs nobody trained: their logits are written by the test."""

from pathlib import Path

import numpy as np

from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.folds import Folds, make_folds
from kaggle_hw4.runs import REFIT, Job, Run, claim, identity, run_of
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, file_hash, write_json

K = 3


class Bench:
    """A workspace with data and folds, and runs that nobody trained."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.store: Store = open_store(self.workspace.store)
        self.folds: Folds = make_folds(self.store, self.workspace.folds_file, k=K)
        self.labels = self.store.labels[self.store.train_rows]
        # The test utterances of tiny.files come speaker by speaker, in the order opposite to that of the classes.
        per_speaker = len(self.store.test_rows) // len(self.store.speakers)
        self.answers = np.repeat(np.arange(len(self.store.speakers))[::-1], per_speaker)

    def run(self, name: str, fold: int, oof: np.ndarray, test: np.ndarray, *, seed: int = 0) -> Run:
        job = Job(name, variant(name), seed, fold)
        run = run_of(self.workspace, job)
        run.folder.mkdir(parents=True, exist_ok=True)
        claim(run, identity(job, self.store, self.folds))
        np.save(run.oof, oof.astype(np.float32))
        np.save(run.test, test.astype(np.float32))
        labels = self.labels[self.folds.validation_rows(fold)]
        right = float((oof.argmax(1) == labels).mean()) if len(oof) == len(labels) else 0.0
        result = {"accuracy": right, "utterances": len(oof), "oof": file_hash(run.oof), "test": file_hash(run.test)}
        write_json(run.result, result)
        return run

    def refit(self, name: str, test: np.ndarray) -> Run:
        """A refit of a member that is there."""
        job = Job(name, variant(name), 0, REFIT)
        run = run_of(self.workspace, job)
        run.folder.mkdir(parents=True)
        claim(run, identity(job, self.store, self.folds))
        np.save(run.test, test.astype(np.float32))
        write_json(run.result, {"accuracy": None, "utterances": 0, "oof": None, "test": file_hash(run.test)})
        return run

    def member(self, name: str, *, scale: float = 1.0, quality: float = 1.5, seed: int = 0) -> np.ndarray:
        """A member on every fold whose logits are noise, plus `quality` at the truth; gives its joined oof."""
        rng = np.random.default_rng(seed)
        joined = rng.normal(size=(len(self.labels), 4))
        joined[np.arange(len(joined)), self.labels] += quality
        joined *= scale
        for fold in range(K):
            test = rng.normal(size=(len(self.store.test_rows), 4))
            test[np.arange(len(test)), self.answers] += quality
            test *= scale
            self.run(name, fold, joined[self.folds.validation_rows(fold)], test)
        return joined
