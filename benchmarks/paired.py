"""Does the fast path learn as well? Ours against PyTorch's own layers and loop, in pairs.

    python -m benchmarks.paired --root DIR [--variant NAME] [--steps N] [--seeds 3] --output FILE.json

For every fold and seed both sides train on the same crops in the same order from the same weights, ours in
the precision that training takes on this machine and the stock layers in fp32, without averaging the weights,
and name the held-out utterances whole. Only the draws of dropout and the rounding differ. Pairs that FILE
already holds are not trained again.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from scipy import stats

from benchmarks import run_command
from benchmarks.reference import StockClassifier, predict_each
from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store, open_store
from kaggle_hw4.errors import UsageError
from kaggle_hw4.folds import Folds, load_folds
from kaggle_hw4.inference import accuracy, predict
from kaggle_hw4.models.layers import from_torchaudio
from kaggle_hw4.runs import Job, with_steps
from kaggle_hw4.training.artefacts import hardware
from kaggle_hw4.training.precision import precision
from kaggle_hw4.training.schedules import learning_rate
from kaggle_hw4.training.trainer import Trainer
from kaggle_hw4.variants import Variant, variant
from kaggle_hw4.workspace import Workspace, write_json

CPU = torch.device("cpu")


def main(
    root: Annotated[Path, typer.Option(help="A workspace with data and folds.")],
    output: Annotated[Path, typer.Option(help="JSON file; goes on where it stands.")],
    name: Annotated[str, typer.Option("--variant")] = "transformer-full",
    steps: int = 600,
    seeds: int = 3,
) -> None:
    torch.set_num_threads(1)
    workspace = Workspace(root.resolve())
    store = open_store(workspace.store)
    folds = load_folds(store, workspace.folds_file)
    settings = {"variant": name, "steps": steps, "precision": str(precision(CPU)).removeprefix("torch.")}
    before: dict[str, Any] = json.loads(output.read_text()) if output.exists() else settings
    if {key: before.get(key) for key in settings} != settings:
        raise UsageError(f"{output} has pairs of another variant, length or precision", "Give another --output.")
    done = before.get("pairs", [])
    known = {(pair["seed"], pair["fold"]) for pair in done}
    v = replace(with_steps(variant(name), steps), ema=0.0)
    for fold in range(folds.k):  # the seeds within: a run ended early has all of them
        for seed in range(seeds):
            if (seed, fold) in known:
                continue
            job = Job(name, v, seed, fold)
            done.append({"seed": seed, "fold": fold} | _pair(job, store, folds))
            write_json(output, {**settings, "hardware": hardware(CPU), "pairs": done, **summary(done)})
            typer.echo(json.dumps(done[-1]))


def _pair(job: Job, store: Store, folds: Folds) -> dict[str, float]:
    v, rows, held_out = job.variant, folds.training_rows(job.fold), folds.validation_rows(job.fold)
    frames = Frames(store, CPU)
    sampler = CropSampler(store, rows, crop=v.crop, batch=v.batch, seed=job.torch_seed)
    torch.manual_seed(job.torch_seed)
    stock = StockClassifier(v, len(store.speakers))
    ours = Trainer(v, frames, [sampler], [job.torch_seed])
    with torch.no_grad():
        ours.group.weights[0] = torch.cat([p.flatten() for p in _as_ours(stock, ours, v)])
    while ours.step < v.steps:
        ours.train_step()
    model = ours.group.model(0, ours.group.weights, ours.group.buffers)
    _train_stock(stock, v, frames, sampler)
    labels = store.labels[held_out]
    whole = [frames.pieces(store.offsets[[row]], store.lengths[[row]])[0][0] for row in held_out]
    return {
        "ours": accuracy(predict(model, frames, held_out), labels),
        "stock": accuracy(predict_each(stock, whole, CPU).numpy(), labels),
        "n": len(held_out),
    }


def _as_ours(stock: StockClassifier, ours: Trainer, v: Variant) -> list[torch.Tensor]:
    """The stock model's parameters in the order of ours."""
    state: dict[str, torch.Tensor] = {}
    for part in ("projection", "encoder", "pooling", "head"):
        theirs = getattr(stock, part).state_dict()
        if part == "encoder" and v.backbone == "conformer":
            theirs = from_torchaudio(theirs)
        state |= {f"{part}.{'score.' if part == 'pooling' else ''}{key}": value for key, value in theirs.items()}
    return [state[name] for name, _ in ours.group.layout()]


def _train_stock(model: StockClassifier, v: Variant, frames: Frames, sampler: CropSampler) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=v.lr)
    model.train()
    for step in range(v.steps):
        starts, lengths, labels = (torch.from_numpy(part[0]) for part in sampler.batches(step, step + 1))
        x = frames.gather(starts, lengths, v.crop)  # short utterances are filled up with their last frame
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=v.lr, warmup=v.warmup, steps=v.steps)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), v.clip)
        optimizer.step()


def summary(pairs: list[dict[str, float]]) -> dict[str, float]:
    """Mean accuracies, and the 95 % interval of ours - stock by Student's t over the pairs, in points."""
    differences = 100 * np.array([pair["ours"] - pair["stock"] for pair in pairs])
    error = differences.std(ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.nan
    reach = error * stats.t.ppf(0.975, max(1, len(pairs) - 1))
    return {
        "ours": float(np.mean([pair["ours"] for pair in pairs])),
        "stock": float(np.mean([pair["stock"] for pair in pairs])),
        "difference_points": float(differences.mean()),
        "lower_95": float(differences.mean() - reach),
        "upper_95": float(differences.mean() + reach),
    }


if __name__ == "__main__":
    run_command(main)
