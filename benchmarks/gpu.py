"""Training steps on a GPU: stock and ours launched one by one, ours captured, and many models at once."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.competition import FOLDER, QUICK, Sizes, write_competition
from benchmarks.floors import ceiling_tasks, step_cost
from benchmarks.reference import stock_model
from kaggle_hw4.competition import DEFAULT_SLUG
from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.pack import pack
from kaggle_hw4.training.trainer import Trainer
from kaggle_hw4.variants import Variant, variant

COUNTS = (1, 5, 10, 20)
_NAMES = ("transformer-full", "conformer-full")  # a default set has as many of each kind
_PROJECTED_MODELS, _PROJECTED_STEPS = 20, 70_000
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
        tasks = ceiling_tasks(folder, sizes, device)
        gflops = {dtype: 1 / min(tasks[dtype]()) for dtype in ("fp32", "bf16")}
        fastest = max(gflops.values())  # bf16; fp32 on a CPU without the products for it, as in training
        found = {name: _variant(name, frames, counts, steps, fastest) for name in _NAMES}
    per_model = [found[name]["together"][str(counts[-1])] / counts[-1] for name in _NAMES]
    return {
        "ceilings_gflops": gflops,
        "variants": found,
        "projected": {
            "models": _PROJECTED_MODELS,
            "steps": _PROJECTED_STEPS,
            "training_minutes": sum(per_model) / len(per_model) * _PROJECTED_MODELS * _PROJECTED_STEPS / 60,
        },
    }


def _variant(name: str, frames: Frames, counts: tuple[int, ...], steps: int, gflops: float) -> dict[str, Any]:
    v, device = variant(name), frames.device
    eager = _best(_trainer(v, frames, 1, capture=False).train_step, device, steps)
    stock = _best(_stock_step(name, frames), device, steps)
    together = {str(n): _best(_trainer(v, frames, n).train_step, device, steps) for n in counts}
    floor = step_cost(name, len(frames.store.speakers)).flops / gflops / 1e9
    most = str(counts[-1])
    return {
        "stock_eager": stock,
        "ours_eager": eager,
        "together": together,  # number of models → seconds of a step of all of them
        "model_steps_per_s": counts[-1] / together[most],
        "stock_over_ours": stock / (together[most] / counts[-1]),
        "share_of_floor": floor / (together[most] / counts[-1]),
        "gradient_difference": _difference(v, frames),
    }


def _trainer(v: Variant, frames: Frames, models: int, capture: bool = True, first: int = 0) -> Trainer:
    seeds = list(range(first, first + models))
    rows = frames.store.train_rows
    samplers = [CropSampler(frames.store, rows, crop=v.crop, batch=v.batch, seed=seed) for seed in seeds]
    return Trainer(v, frames, samplers, seeds, capture)


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
        assert trainer.group.weights.grad is not None
        gradients.append(trainer.group.weights.grad.float())
    together, alone = gradients[0], torch.cat(gradients[1:])
    return float(((together - alone).norm(dim=1) / alone.norm(dim=1)).max())


def _best(step: Callable[[], None], device: torch.device, steps: int) -> float:
    """Seconds of a step: the best round, after one that captures and warms up."""
    rounds = []
    for _ in range(1 + _ROUNDS):
        _wait_for(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        _wait_for(device)
        rounds.append((time.perf_counter() - began) / steps)
    return min(rounds[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lines(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    counts = list(next(iter(found["variants"].values()))["together"])
    head = ["", "stock, eager", "ours, eager", *(f"captured, {n}" for n in counts), "model-steps/s", "share of floor"]
    rows = [head, ["---"] * len(head)]
    for name, figures in found["variants"].items():
        times = [figures["stock_eager"], figures["ours_eager"], *figures["together"].values()]
        cells = [f"{1e3 * seconds:.2f} ms" for seconds in times]
        rows.append([name, *cells, f"{figures['model_steps_per_s']:,.0f}", f"{figures['share_of_floor']:.0%}"])
    projected = found["projected"]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + (
        f"\n\n{projected['models']} models × {projected['steps']:,} steps: {projected['training_minutes']:.1f} minutes "
        "of training steps (the time of a step does not depend on the number of utterances)."
    )
