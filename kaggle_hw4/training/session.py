"""Do one job: train it or go on with it, then write its weights, logits and result."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save
from torch import nn

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import Folds
from kaggle_hw4.inference import accuracy, log_loss, predict, predict_crops
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.runs import Job, Run, check_identity, claim, identity, run_of
from kaggle_hw4.training.trainer import Trainer, load_checkpoint, save_checkpoint
from kaggle_hw4.workspace import Workspace, atomic_path, file_hash, read_json, storage_errors, write_json


class Stopped(Exception):
    """The job was asked to stop; its checkpoint is written."""


def do_job(
    workspace: Workspace,
    job: Job,
    store: Store,
    folds: Folds,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train `job` from its checkpoint, if any, to the end, and write its artefacts; nothing if finished.

    Two processes never do the same job: the second waits, and finds it done.

    Raises:
        Stopped: `should_stop()` became true.
        DataError: the run's folder was made from something else, or cannot be written.
        HW4Error: the loss is no longer finite.
    """
    run = run_of(workspace, job)
    expected = identity(job, store, folds)
    with _locked(run, should_stop):
        claim(run, expected)
        if not run.finished:
            frames = Frames(store, device)
            trainer = _train(job, run, store, folds, frames, expected["hash"], should_stop)
            with atomic_path(run.weights) as temporary:
                temporary.write_bytes(save(trainer.average.state_dict(), {"run": json.dumps(expected)}))
            training = {
                "steps": job.variant.steps,
                "train_seconds": round(trainer.seconds, 1),
                "hardware": hardware(device),
                "torch": torch.__version__,
                "weights": file_hash(run.weights),
            }
            _write_logits(run, trainer.average, job, folds, frames, training, should_stop)
            run.checkpoint.unlink(missing_ok=True)


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


def _train(
    job: Job,
    run: Run,
    store: Store,
    folds: Folds,
    frames: Frames,
    made_from: str,
    should_stop: Callable[[], bool],
) -> Trainer:
    trainer = Trainer(job.variant, len(store.speakers), job.torch_seed, frames.device)
    if run.checkpoint.exists():
        state = load_checkpoint(run.checkpoint)
        if state["run"] != made_from:
            raise DataError(
                f"{run.checkpoint} belongs to the run {state['run']}, not {made_from}",
                "Delete it: this training starts over.",
            )
        trainer.restore(state)
    sampler = CropSampler(
        frames,
        folds.training_rows(job.fold),
        crop=job.variant.crop,
        batch=job.variant.batch,
        seed=job.torch_seed,
    )
    held_out = folds.validation_rows(job.fold)

    with _log_from(run, trainer.step) as log:

        def validate() -> None:
            try:
                logits = predict(trainer.average, frames, held_out, _stopping(should_stop))
            except Stopped:
                return  # the loop sees it too, and writes its checkpoint
            log({"step": trainer.step, "accuracy": round(accuracy(logits, store.labels[held_out]), 5)})

        done = trainer.fit(
            sampler,
            save=lambda: save_checkpoint(run.checkpoint, trainer.state() | {"run": made_from}),
            log=log,
            validate=validate,
            should_stop=should_stop,
        )
    if not done:
        raise Stopped(str(job))
    return trainer


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
    training = {key: result[key] for key in ("steps", "train_seconds", "hardware", "torch", "weights")}
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
