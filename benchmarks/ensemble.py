"""Ensembling at full scale, on synthetic logits: time of every stage and memory beyond the mapped files.

    python -m benchmarks.ensemble --folder DIR [--members 20] [--members 100] [--output FILE.json]

Members differ in quality and scale, and share what makes an utterance hard. 100 members of the competition's size take
13.6 GB of disk; the logits stay in DIR for the next time.
"""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import run_command
from benchmarks.scale import watch
from kaggle_hw4.ensemble import honest
from kaggle_hw4.ensemble.blend import fit_all
from kaggle_hw4.ensemble.compare import compare
from kaggle_hw4.ensemble.honest import Temperatures
from kaggle_hw4.ensemble.members import Logits
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.machine import processor, usable_cores
from kaggle_hw4.terminal import say
from kaggle_hw4.workspace import atomic_path, read_json, write_json

_UTTERANCES, _SPEAKERS, _FOLDS = 56_666, 600, 5
BOUND_MB = 2_000


def main(
    folder: Annotated[Path, typer.Option(help="For the logits.")],
    members: Annotated[list[int] | None, typer.Option(help="How many; may be repeated.")] = None,
    utterances: Annotated[int, typer.Option(help="Out-of-fold rows.")] = _UTTERANCES,
    output: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    if sys.platform != "linux":
        sys.exit("error: this reads the memory of processes from /proc, which only Linux has.")
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": usable_cores(),
        "rows": utterances,
        "speakers": _SPEAKERS,
        "runs": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for count in members or [20, 100]:
        for member in range(count):
            generate(folder, utterances, member)
        stages = folder / "stages.json"
        command = f"from benchmarks import ensemble; ensemble.measure({str(folder)!r}, {count}, {str(stages)!r})"
        whole = watch([sys.executable, "-c", command], {})
        found["runs"].append({"members": count, "whole": whole} | read_json(stages, ""))
        say(f"{count} members: {whole['seconds']} s, {whole['peak_mb']} MB")
        if output:
            write_json(output, found)
    print(table(found))


def generate(folder: Path, utterances: int, member: int) -> None:
    """Write the logits of one member (utterances, speakers), unless they are there: 86 to 93 % right."""
    path = folder / f"{utterances}-{member}.npy"
    if path.exists():
        return
    labels, common = _labels(utterances), np.random.default_rng(0)
    own = np.random.default_rng(1 + member)
    quality, scale = own.uniform(8.0, 10.5), own.uniform(0.5, 2)
    with atomic_path(path) as temporary:
        written = np.lib.format.open_memmap(temporary, "w+", np.float32, (utterances, _SPEAKERS))
        for start in range(0, utterances, 4096):
            rows = slice(start, min(start + 4096, utterances))
            shape = (rows.stop - start, _SPEAKERS)
            logits = common.standard_normal(shape, np.float32) + own.standard_normal(shape, np.float32)
            hard = common.gamma(6, 1 / 6, shape[0])
            logits[np.arange(shape[0]), labels[rows]] += quality * hard
            written[rows] = logits * (2 * scale)
        written.flush()


def _labels(utterances: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, _SPEAKERS, utterances)


def measure(folder: str, members: int, output: str) -> None:
    """All that `kaggle-hw4 ensemble` computes from out-of-fold logits; seconds of every stage, and what it found."""
    paths = sorted(Path(folder).glob("*-*.npy"), key=lambda path: int(path.stem.split("-")[1]))[:members]
    arrays = [np.load(path, mmap_mode="r") for path in paths]
    labels = _labels(len(arrays[0]))
    folds = [[Logits(part) for part in np.array_split(array, _FOLDS)] for array in arrays]
    pool = Pool(folds, np.array_split(labels, _FOLDS), np.ones(members))
    stages: dict[str, float] = {}

    def timed(name: str, began: float) -> float:
        stages[name] = round(time.perf_counter() - began, 1)
        return time.perf_counter()

    clock = time.perf_counter()
    temperatures = Temperatures.fitted(pool, lambda what: None)
    clock = timed("temperatures", clock)
    pool = pool.scaled(1 / temperatures.full)
    candidates = []
    for method in ("equal", "greedy", "convex"):
        candidates += fit_all(pool, temperatures, method, None)[-1:]
        clock = timed(method, clock)
    estimates = honest.estimate(pool, candidates)
    clock = timed("honest estimates", clock)
    compare(pool, candidates[-1].full)
    timed("members compared", clock)
    figures = {
        w.method: {"accuracy": e.accuracy, "interval": list(e.interval), "log_loss": e.log_loss, "residual": w.residual}
        for w, e in zip(candidates, estimates, strict=True)
    }
    write_json(Path(output), {"stages": stages, "methods": figures})


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    runs = found["runs"]
    lines = [
        f"{found['processor']}, {found['cores']} cores; {found['rows']:,} × {found['speakers']} logits per member.",
        "",
        "| stage | " + " | ".join(f"{run['members']} members" for run in runs) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for name in runs[0]["stages"]:
        lines.append(f"| {name} | " + " | ".join(f"{run['stages'][name]} s" for run in runs) + " |")
    for name, unit in (("seconds", "s"), ("peak_mb", "MB")):
        lines.append(f"| whole process, {unit} | " + " | ".join(f"{run['whole'][name]:,}" for run in runs) + " |")
    lines += ["", f"MB: the most memory beyond mapped files (bound: {BOUND_MB:,})."]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
