"""Do jobs: train them or go on with them, then write their weights, logits and results."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save
from torch import nn

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.folds import Folds
from kaggle_hw4.inference import accuracy, log_loss, predict, predict_crops
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.runs import Job, Run, check_identity, claim, identity, run_of
from kaggle_hw4.training.trainer import Diverged, State, Trainer, load_checkpoint, save_checkpoint
from kaggle_hw4.workspace import Workspace, atomic_path, file_hash, read_json, storage_errors, write_json


class Stopped(Exception):
    """The jobs were asked to stop; their checkpoints are written."""


def do_jobs(
    workspace: Workspace,
    jobs: list[Job],
    store: Store,
    folds: Folds,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[Job, HW4Error]:
    """Train `jobs`, all of one variant, together from their checkpoints to the end, and write their artefacts.

    Finished ones are left alone. Two processes never do the same job: the second waits, and finds
    it done. Returns the jobs whose loss is no longer finite; the others go on without them.

    Raises:
        Stopped: `should_stop()` became true.
        DataError: a run's folder was made from something else, or cannot be written.
    """
    failures: dict[Job, HW4Error] = {}
    with ExitStack() as locks:
        # Always in the same order: two commands never wait for each other.
        for job in sorted(jobs, key=str):
            locks.enter_context(_locked(run_of(workspace, job), should_stop))
            claim(run_of(workspace, job), identity(job, store, folds))
        todo = [job for job in jobs if not run_of(workspace, job).finished]
        frames = Frames(store, device)
        for together, states in _by_step([(job, _saved(workspace, job, store, folds)) for job in todo]):
            training = _Training(workspace, together, states, store, folds, frames, should_stop)
            failures |= training.run()
    return failures


def _saved(workspace: Workspace, job: Job, store: Store, folds: Folds) -> State | None:
    """The job's checkpoint, if it has one."""
    path = run_of(workspace, job).checkpoint
    if not path.exists():
        return None
    state, expected = load_checkpoint(path), identity(job, store, folds)["hash"]
    if state["run"] != expected:
        raise DataError(
            f"{path} belongs to the run {state['run']}, not {expected}", "Delete it: this training starts over."
        )
    return state


def _by_step(jobs: list[tuple[Job, State | None]]) -> list[tuple[list[Job], list[State]]]:
    """The jobs in groups that stand at the same step, with their states (none at step 0)."""
    groups: dict[int, tuple[list[Job], list[State]]] = {}
    for job, state in jobs:
        members, states = groups.setdefault(state["step"] if state else 0, ([], []))
        members.append(job)
        states += [state] if state else []
    return list(groups.values())


@contextmanager
def _locked(run: Run, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the run's lock. Raises Stopped when asked to stop while another process has it."""
    with storage_errors(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.folder / ".lock")
        while True:
            try:
                lock.acquire(timeout=0.5)
                break
            except Timeout:
                if should_stop():
                    raise Stopped(str(run.folder)) from None
        try:
            yield
        finally:
            lock.release()


class _Training:
    """Jobs that stand at the same step, in training together."""

    def __init__(
        self,
        workspace: Workspace,
        jobs: list[Job],
        states: list[State],
        store: Store,
        folds: Folds,
        frames: Frames,
        should_stop: Callable[[], bool],
    ) -> None:
        self.jobs = jobs
        self.runs = [run_of(workspace, job) for job in jobs]
        self.store, self.folds, self.frames = store, folds, frames
        self.should_stop = should_stop
        self.trainer = self._trainer(states)

    def _trainer(self, states: list[State]) -> Trainer:
        v = self.jobs[0].variant
        samplers = [
            CropSampler(self.store, self.folds.training_rows(job.fold), crop=v.crop, batch=v.batch, seed=job.torch_seed)
            for job in self.jobs
        ]
        trainer = Trainer(v, self.frames, samplers, [job.torch_seed for job in self.jobs])
        if states:
            try:
                trainer.restore(states)
            except (KeyError, ValueError, RuntimeError) as error:
                where = self.runs[0].checkpoint
                raise DataError(
                    f"{where} does not fit this version of kaggle-hw4: {error}",
                    "Delete it: this training starts over.",
                ) from error
        return trainer

    def run(self) -> dict[Job, HW4Error]:
        """Train to the end and write the artefacts; gives the jobs that diverged."""
        failures: dict[Job, HW4Error] = {}
        while self.jobs:
            try:
                self._fit()
                break
            except Diverged as error:
                advice = "Another --seed may do better; a variant with a lower learning rate will."
                failures |= {self.jobs[m]: DataError(str(error), advice) for m in error.models}
                healthy = [m for m in range(len(self.jobs)) if m not in error.models]
                states = [self.trainer.state(m) for m in healthy]
                self.jobs, self.runs = [self.jobs[m] for m in healthy], [self.runs[m] for m in healthy]
                if healthy:
                    self.trainer = self._trainer(states)
        for m in range(len(self.jobs)):
            self._finish(m)
        return failures

    def _fit(self) -> None:
        """Train until the last step. Raises Stopped or Diverged."""
        trainer = self.trainer
        with ExitStack() as files:
            logs = [files.enter_context(_log_from(run, trainer.step)) for run in self.runs]

            def log(losses: list[float]) -> None:
                for write, loss in zip(logs, losses, strict=True):
                    write({"step": trainer.step, "loss": round(loss, 5), "seconds": round(trainer.seconds, 2)})

            def validate() -> None:
                tick = _stopping(self.should_stop)
                for m, job in enumerate(self.jobs):
                    held_out = self.folds.validation_rows(job.fold)
                    try:
                        logits = predict(trainer.averaged(m), self.frames, held_out, tick)
                    except Stopped:
                        return  # the loop sees it too, and writes its checkpoint
                    share = accuracy(logits, self.store.labels[held_out])
                    logs[m]({"step": trainer.step, "accuracy": round(share, 5)})

            if not trainer.fit(save=self._save, log=log, validate=validate, should_stop=self.should_stop):
                raise Stopped(", ".join(map(str, self.jobs)))

    def _save(self) -> None:
        for m, (job, run) in enumerate(zip(self.jobs, self.runs, strict=True)):
            made_from = identity(job, self.store, self.folds)["hash"]
            save_checkpoint(run.checkpoint, self.trainer.state(m) | {"run": made_from})

    def _finish(self, m: int) -> None:
        """Write what is left of job `m`: weights, logits, result."""
        job, run = self.jobs[m], self.runs[m]
        model = self.trainer.averaged(m)
        with atomic_path(run.weights) as temporary:
            made_from = json.dumps(identity(job, self.store, self.folds))
            temporary.write_bytes(save(model.state_dict(), {"run": made_from}))
        training = {
            "steps": job.variant.steps,
            "train_seconds": round(self.trainer.seconds, 1),
            "together": len(self.jobs),
            "precision": str(self.trainer.dtype).removeprefix("torch."),
            "hardware": hardware(self.frames.device),
            "torch": torch.__version__,
            "weights": file_hash(run.weights),
        }
        _write_logits(run, model, job, self.folds, self.frames, training, self.should_stop)
        run.checkpoint.unlink(missing_ok=True)


@contextmanager
def _log_from(run: Run, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Append to the run's log; what was logged after the checkpoint at `step` is dropped, it comes again."""
    kept = [line for line in run.log_lines() if line["step"] <= step]
    with open(run.log, "w", encoding="utf-8") as file:

        def log(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        for line in kept:
            log(line)
        yield log


def _stopping(should_stop: Callable[[], bool]) -> Callable[[], None]:
    """A tick for `predict` that ends it by Stopped."""

    def tick() -> None:
        if should_stop():
            raise Stopped

    return tick


def _write_logits(
    run: Run,
    model: nn.Module,
    job: Job,
    folds: Folds,
    frames: Frames,
    training: dict[str, Any],
    should_stop: Callable[[], bool],
) -> None:
    """Write `oof.npy`, `test.npy` and then `result.json` (`training` is part of it): the run is finished."""
    tick = _stopping(should_stop)
    store, held_out = frames.store, folds.validation_rows(job.fold)
    labels = store.labels[held_out]
    oof = predict(model, frames, held_out, tick)
    _save_array(run.oof, oof)
    _save_array(run.test, predict(model, frames, store.test_rows, tick))
    crops = predict_crops(model, frames, held_out, job.variant.crop)
    result = {
        "accuracy": accuracy(oof, labels),
        "log_loss": log_loss(oof, labels),
        "crop_accuracy": accuracy(crops, labels),
        "utterances": len(labels),
        **training,
        "oof": file_hash(run.oof),
        "test": file_hash(run.test),
    }
    write_json(run.result, result)


def predict_again(workspace: Workspace, job: Job, store: Store, folds: Folds, device: torch.device) -> None:
    """Write the logits of a finished job anew from its weights.

    Raises:
        DataError: the job is not finished, was made from something else, or its weights are damaged.
    """
    run = run_of(workspace, job)
    again = f"Delete {run.folder} and train it again."
    if not run.finished:
        raise DataError(f"{job} is not trained to its end", f"Run `kaggle-hw4 train --variant {job.name}` first.")
    check_identity(run, identity(job, store, folds))
    result = read_json(run.result, again)
    model = SpeakerClassifier(job.variant, len(store.speakers))
    try:
        if file_hash(run.weights) != result["weights"]:
            raise DataError(f"{run.weights} is not the file that was written: its checksum differs", again)
        model.load_state_dict(load(run.weights.read_bytes()))
    except DataError:
        raise
    except Exception as error:  # safetensors has errors of its own, and so has a wrong shape
        raise DataError(f"{run.weights} cannot be read: {error}", again) from error
    kept = ("steps", "train_seconds", "together", "precision", "hardware", "torch", "weights")
    training = {key: result[key] for key in kept if key in result}
    with _locked(run, lambda: False):
        _write_logits(run, model.to(device), job, folds, Frames(store, device), training, lambda: False)


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def hardware(device: torch.device) -> str:
    """What the figures of a result were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} thread(s)"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return models[0] if models else platform.processor() or platform.machine()
