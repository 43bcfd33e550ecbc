"""Jobs done in this process: small recipes of the real variants, and a workspace with tiny data."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import open_store
from kaggle_hw4.errors import HW4Error
from kaggle_hw4.folds import make_folds
from kaggle_hw4.runs import Job, Run, run_of, with_steps
from kaggle_hw4.training import trainer
from kaggle_hw4.training.session import do_jobs
from kaggle_hw4.variants import Variant, variant
from kaggle_hw4.workspace import Workspace

CPU = torch.device("cpu")


def small(name: str, **changes: int | float) -> Variant:
    v = with_steps(variant(name), 12)
    shrunk = {"crop": 24, "also_crops": (), "batch": 6, "layers": 1, "d_model": 16, "time_mask": min(5, v.time_mask)}
    return replace(v, **shrunk | changes)


def busy(name: str, **changes: float) -> Variant:
    """A small recipe with steps of several lengths, a last stage, and everything done to the crops."""
    v = replace(small(name), also_crops=(40,), final_share=0.3, final_crop=50, gain=3.0, equaliser=2.0, noise=0.5)
    return replace(v, mixup=0.5, time_mask=5, mel_mask=5, time_warp=0.1, mel_warp=0.05, **changes)


class Session:
    """A workspace with tiny data, and jobs done in it."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.store = open_store(self.workspace.store)
        self.folds = make_folds(self.store, self.workspace.folds_file, k=3)

    def do(self, job: Job, should_stop: Callable[[], bool] = lambda: False) -> Run:
        failures = self.do_together([job], should_stop)
        for failure in failures.values():
            raise failure
        return run_of(self.workspace, job)

    def do_together(self, jobs: list[Job], should_stop: Callable[[], bool] = lambda: False) -> dict[Job, HW4Error]:
        return do_jobs(self.workspace, jobs, self.store, self.folds, CPU, should_stop)


def copy_of(session: Session, name: str) -> Session:
    """The same data and folds in another workspace."""
    root = session.workspace.root / name
    shutil.copytree(session.workspace.data, root / "data")
    shutil.copytree(session.workspace.folds_file.parent, root / "folds")
    return Session(root)


def trainer_of(session: Session, v: Variant, seeds: list[int]) -> trainer.Trainer:
    rows = session.folds.training_rows(0)
    samplers = [CropSampler(session.store, rows, crop=v.crop, batch=v.batch, seed=seed) for seed in seeds]
    return trainer.Trainer(v, Frames(session.store, CPU), samplers, seeds)


def after(calls: int) -> Callable[[], bool]:
    """A `should_stop` that becomes true at its `calls`-th call."""
    count = iter(range(calls - 1))
    return lambda: next(count, None) is None
