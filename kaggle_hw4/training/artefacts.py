"""What a finished job leaves: logits and result, written at its end or again from its weights."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from kaggle_hw4.data.crops import Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import Folds
from kaggle_hw4.inference import accuracy, log_loss, predict, predict_crops
from kaggle_hw4.machine import processor
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import LARGEST_LOGIT, Job, Run, check_identity, identity, run_of
from kaggle_hw4.training.stopping import locked
from kaggle_hw4.workspace import Workspace, atomic_path, file_hash, write_json

GENTLER = "Another --seed may do better; a variant with a lower learning rate will."


class UnusableModel(DataError):
    """A model whose logits are no finite numbers, or too large for an ensemble."""


def write_logits(
    run: Run,
    model: nn.Module,
    job: Job,
    folds: Folds,
    frames: Frames,
    training: dict[str, Any],
    tick: Callable[[], None],
) -> None:
    """Write `oof.npy`, `test.npy` and then `result.json` (`training` is part of it): the run is finished.

    A refit, which holds out nothing, has no `oof.npy`, and null for what is measured on it.

    Raises:
        UnusableModel: the logits are no finite numbers; nothing is finished.
    """
    v, store, held_out = job.variant, frames.store, folds.validation_rows(job.fold)

    def logits(rows: np.ndarray) -> np.ndarray:
        found = predict(model, frames, rows, tick, crops=v.test_crops, crop=v.longest_crop)
        if not (np.abs(found) <= LARGEST_LOGIT).all():
            raise UnusableModel(f"the logits of {job} hold NaN, infinity or more than {LARGEST_LOGIT:.0e}", GENTLER)
        return found

    measured: dict[str, Any] = {"accuracy": None, "log_loss": None, "crop_accuracy": None, "utterances": 0}
    if not job.refit:
        labels = store.labels[held_out]
        oof = logits(held_out)
        _save_array(run.oof, oof)
        crops = predict_crops(model, frames, held_out, v.crop, tick)
        measured = {
            "accuracy": accuracy(oof, labels),
            "log_loss": log_loss(oof, labels),
            "crop_accuracy": accuracy(crops, labels),
            "utterances": len(labels),
        }
    _save_array(run.test, logits(store.test_rows))
    hashes = {"oof": None if job.refit else file_hash(run.oof), "test": file_hash(run.test)}
    write_json(run.result, measured | training | hashes)


def predict_again(workspace: Workspace, job: Job, store: Store, folds: Folds, device: torch.device) -> None:
    """Write the logits of a finished job anew from its weights.

    Raises:
        DataError: the job is not finished, was made from something else, its weights are damaged, or its logits no
            finite numbers.
    """
    run = run_of(workspace, job)
    if not run.finished:
        raise DataError(f"{job} is not trained to its end", f"Run `kaggle-hw4 train --variant {job.name}` first.")
    model, result = trained_model(workspace, job, store, folds), run.read_result()
    kept = ("steps", "train_seconds", "together", "precision", "hardware", "torch", "code", "weights")
    training = {key: result[key] for key in kept if key in result}
    with locked(run, lambda: False):
        write_logits(run, model.to(device), job, folds, Frames(store, device), training, lambda: None)


def spot_check(workspace: Workspace, job: Job, store: Store, folds: Folds, rows: int = 3) -> float:
    """How far the test logits of the shortest utterances, from the weights again, are from those in `test.npy`.

    The largest difference, as a share of the largest logit. Raises what `predict_again` raises.
    """
    run, model = run_of(workspace, job), trained_model(workspace, job, store, folds)
    shortest = np.argsort(store.lengths[store.test_rows], kind="stable")[:rows]
    v, frames = job.variant, Frames(store, torch.device("cpu"))
    found = predict(model, frames, store.test_rows[shortest], crops=v.test_crops, crop=v.longest_crop)
    try:
        if file_hash(run.test) != run.read_result().get("test"):
            raise ValueError("it is not the file that was written: its checksum differs")
        recorded = np.load(run.test, mmap_mode="r", allow_pickle=False)[shortest]
    except (OSError, ValueError) as error:
        again = f"Write it anew from the weights: kaggle-hw4 predict {job.member}"
        raise DataError(f"{run.test} cannot be read: {error}", again) from error
    return float(np.abs(found - recorded).max() / max(np.abs(recorded).max(), 1e-6))


def trained_model(workspace: Workspace, job: Job, store: Store, folds: Folds) -> SpeakerClassifier:
    """The model of a finished job, on CPU.

    Raises:
        DataError: the job was made from something else, or its weights are damaged, or another model's.
    """
    run = run_of(workspace, job)
    again = run.train_again
    expected, result = identity(job, store, folds), run.read_result()
    check_identity(run, expected)
    model = SpeakerClassifier(job.variant, len(store.speakers))
    try:
        if file_hash(run.weights) != result["weights"]:
            raise DataError(f"{run.weights} is not the file that was written: its checksum differs", again)
        with safe_open(run.weights, "pt") as file:
            made_from = json.loads(file.metadata()["run"])
        if made_from["hash"] != expected["hash"]:
            there, ours = Variant(**made_from["recipe"]).architecture, job.variant.architecture
            raise DataError(f"{run.weights} holds another model ({there}) than {job} trained ({ours})", again)
        model.load_state_dict(load_file(run.weights))
    except DataError:
        raise
    except Exception as error:  # safetensors has errors of its own, and so has a wrong shape
        raise DataError(f"{run.weights} cannot be read: {error}", again) from error
    return model.requires_grad_(False)  # as at the end of its training: with gradients the logits are rounded otherwise


def _save_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()  # numpy reports a full disk as something else than that
    np.save(buffer, array)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def hardware(device: torch.device) -> str:
    """What the figures of a result were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} thread(s)"
