"""Training steps on a GPU: stock and ours launched one by one, ours captured, and many models at once:
stacked in one graph, in one of compiled code, or each in a graph of its own on a stream of its own."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.competition import FOLDER, QUICK, Sizes, write_competition
from benchmarks.floors import Ceilings, step_cost
from benchmarks.reference import stock_model
from kaggle_hw4.competition import DEFAULT_SLUG
from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.pack import pack
from kaggle_hw4.jobs.calibrate import wait_for
from kaggle_hw4.training.precision import precision
from kaggle_hw4.training.trainer import Trainer
from kaggle_hw4.variants import Variant, variant

COUNTS = (1, 5, 10, 20)
_NAMES = ("transformer-full", "conformer-full")  # the default set has two of each kind
_FOLDS, _PROJECTED_STEPS = 5, 70_000
_ROUNDS = 5


def measure(
    device: torch.device, *, sizes: Sizes = QUICK, counts: tuple[int, ...] = COUNTS, steps: int = 50
) -> dict[str, Any]:
    """Seconds of a step by way, the share of the floor, and the largest difference between together and alone."""
    with tempfile.TemporaryDirectory(prefix="kaggle-hw4-bench-") as temporary:
        folder = Path(temporary)
        write_competition(folder, sizes)
        store = pack(
            folder / FOLDER, folder / "store", competition=DEFAULT_SLUG, dtype="float16", progress=lambda *_: None
        )
        frames = Frames(store, device)
        ceilings = _ceilings(device)
        found = {name: _variant(name, frames, counts, steps, ceilings) for name in _NAMES}
    # The folds of a variant are compiled and train as one, two variants of each kind one after the other.
    training = 2 * _PROJECTED_STEPS * sum(found[name]["compiled"]["step"] for name in _NAMES)
    compiling = 2 * sum(found[name]["compiled"]["seconds"] for name in _NAMES)
    return {
        "ceilings": asdict(ceilings),
        "variants": found,
        "projected": {
            "models": 4 * _FOLDS,
            "steps": _PROJECTED_STEPS,
            "training_minutes": training / 60,
            "compiling_minutes": compiling / 60,
        },
    }


def _ceilings(device: torch.device) -> Ceilings:
    """Large products and a large copy: what a GPU reaches when it is kept busy."""
    size, copied = (8192, 2**30) if device.type == "cuda" else (512, 2**20)

    def gflops(dtype: torch.dtype) -> float:
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        return 2 * size**3 / _best(lambda: torch.mm(a, b), device, 10) / 1e9

    source, target = torch.zeros(2, copied, dtype=torch.uint8, device=device)
    copy = 2 * copied / _best(lambda: target.copy_(source), device, 10) / 1e9
    return Ceilings(gflops(torch.float32), gflops(torch.bfloat16), copy)


def _variant(name: str, frames: Frames, counts: tuple[int, ...], steps: int, ceilings: Ceilings) -> dict[str, Any]:
    v, device = variant(name), frames.device
    eager = _best(_trainer(v, frames, 1, capture=False).train_step, device, steps)
    stock = _best(_stock_step(name, frames), device, steps)
    together = {str(n): _best(_trainer(v, frames, n).train_step, device, steps) for n in counts}
    side_by_side = {str(n): _best(_side_by_side(v, frames, n), device, steps) for n in counts if n > 1}
    bf16 = precision(device) != torch.float32
    compiled = _compiled(v, frames, steps)
    per_model = compiled["step"] / _FOLDS
    floor = replace(step_cost(name, len(frames.store.speakers)), bf16=bf16).floor(ceilings)
    return {
        "stock_eager": stock,
        "ours_eager": eager,
        "together": together,  # number of models → seconds of a step of all of them
        "side_by_side": side_by_side,
        "compiled": compiled,
        "model_steps_per_s": 1 / per_model,
        "stock_over_ours": stock / per_model,
        "share_of_floor": floor / per_model,
        "gradient_difference": _difference(v, frames),
    }


def _compiled(v: Variant, frames: Frames, steps: int) -> dict[str, Any]:
    """The folds of a variant together, compiled: seconds until the first step is done, and of each from then on.

    Without dropout also how far the gradients of that step are from those of code that is not compiled, in the
    precision of training.
    """
    plain = _trainer(v, frames, _FOLDS)
    plain.train_step()
    trainer = _trainer(v, frames, _FOLDS, compiled=True)
    began = time.perf_counter()
    trainer.train_step()
    wait_for(frames.device)
    found: dict[str, Any] = {"models": _FOLDS, "seconds": time.perf_counter() - began}
    if not v.dropout:
        found["gradient_difference"] = _relative(_gradient(trainer), _gradient(plain))
    return found | {"step": _best(trainer.train_step, frames.device, steps)}


def _gradient(trainer: Trainer) -> torch.Tensor:
    """Of the last step, (models, parameters), fp32."""
    assert trainer.group.weights.grad is not None
    return trainer.group.weights.grad.float()


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest relative difference of a model."""
    return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max())


def _trainer(
    v: Variant, frames: Frames, models: int, *, capture: bool = True, compiled: bool = False, first: int = 0
) -> Trainer:
    seeds = list(range(first, first + models))
    rows = frames.store.train_rows
    samplers = [CropSampler(frames.store, rows, crop=v.crop, batch=v.batch, seed=seed) for seed in seeds]
    return Trainer(v, frames, samplers, seeds, capture=capture, compiled=compiled)


def _side_by_side(v: Variant, frames: Frames, models: int) -> Callable[[], None]:
    """A step of each of `models` models, trained alone on streams that may overlap: the other way to train many."""
    trainers = [_trainer(v, frames, 1, first=m) for m in range(models)]
    on_gpu = frames.device.type == "cuda"
    streams = [torch.cuda.Stream(frames.device) if on_gpu else None for _ in trainers]

    def step() -> None:
        for trainer, stream in zip(trainers, streams, strict=True):
            with torch.cuda.stream(stream):  # of None: nothing
                trainer.train_step()

    return step


def _stock_step(name: str, frames: Frames) -> Callable[[], None]:
    """A step of PyTorch's own layers in fp32, on a batch that lies on the device already."""
    v, device = variant(name), frames.device
    sampler = CropSampler(frames.store, frames.store.train_rows, crop=v.crop, batch=v.batch, seed=0)
    starts, lengths, labels = (torch.from_numpy(part[0]).to(device) for part in sampler.batches(0, 1))
    x = frames.gather(starts, lengths, v.crop)
    model = stock_model(name, len(frames.store.speakers)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), v.lr)

    def step() -> None:
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), v.clip)
        optimizer.step()

    return step


def _difference(v: Variant, frames: Frames) -> float:
    """The largest relative difference of a model's first gradient, together against alone, in fp32 without dropout."""
    v = replace(v, dropout=0.0)
    gradients = []
    for models, first in ((3, 0), (1, 0), (1, 1), (1, 2)):
        trainer = _trainer(v, frames, models, first=first)
        trainer.dtype, trainer.scale = torch.float32, None
        trainer.train_step()
        gradients.append(_gradient(trainer))
    return _relative(gradients[0], torch.cat(gradients[1:]))


def _best(step: Callable[[], object], device: torch.device, steps: int) -> float:
    """Seconds of a step: the best round, after one that captures and warms up."""
    rounds = []
    for _ in range(1 + _ROUNDS):
        wait_for(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait_for(device)
        rounds.append((time.perf_counter() - began) / steps)
    return min(rounds[1:])


def lines(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    counts = list(next(iter(found["variants"].values()))["together"])
    ways = ["stock, eager", "ours, eager", *(f"stacked, {n}" for n in counts)]
    ways += [f"side by side, {n}" for n in counts if n != "1"]
    head = ["", *ways, f"compiled, {_FOLDS}", "model-steps/s", "share of floor", "stock / ours"]
    rows = [head, ["---"] * len(head)]
    for name, figures in found["variants"].items():
        times = [figures["stock_eager"], figures["ours_eager"], *figures["together"].values()]
        times += [*figures["side_by_side"].values(), figures["compiled"]["step"]]
        cells = [f"{1e3 * seconds:.2f} ms" for seconds in times]
        cells += [f"{figures['model_steps_per_s']:,.0f}", f"{figures['share_of_floor']:.0%}"]
        rows.append([name, *cells, f"{figures['stock_over_ours']:.1f}"])
    projected = found["projected"]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + (
        f"\n\n{projected['models']} models × {projected['steps']:,} steps: {projected['training_minutes']:.1f} minutes "
        f"of training steps and {projected['compiling_minutes']:.1f} of compiling (the time of a step does not depend "
        "on the number of utterances)."
    )
