"""Ours against the course's sample code, and against the floor: both take turns on the same data.

    python -m benchmarks [--quick] [--output FILE] [--docs]
    python -m benchmarks --device cuda [--output FILE]     (training steps on a GPU: benchmarks/gpu.py)

Writes benchmarks/results/<machine>.json; a full run also the table of docs/speed.md.
"""

import os
import re
import tempfile
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import gpu, run_command, write_between
from benchmarks.competition import FULL, QUICK, Sizes, write_competition
from benchmarks.report import Turn, measures, report, table, turns
from benchmarks.timing import Side
from kaggle_hw4.errors import UsageError
from kaggle_hw4.jobs.plan import choose_device
from kaggle_hw4.jobs.work import WORKER_ENVIRONMENT
from kaggle_hw4.machine import usable_cores
from kaggle_hw4.terminal import say
from kaggle_hw4.training.artefacts import hardware
from kaggle_hw4.workspace import write_json

_HERE = Path(__file__).resolve().parent
_DOCS = _HERE.parent / "docs" / "speed.md"
MARKERS = ("<!-- written by `python -m benchmarks` -->\n", "\n<!-- end of what is written -->")

# Fair to anyone: one thread, none that spins. What our workers get beyond this counts as ours.
_PLAIN = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_ENVIRONMENTS = {
    "reference": _PLAIN,
    "plain": _PLAIN,  # packing: `kaggle-hw4 data` has no workers
    "training": WORKER_ENVIRONMENT,
}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="In about a minute: fewer files and rounds.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the figures to this file instead.")] = None,
    docs: Annotated[bool, typer.Option("--docs", help="Write the table of docs/speed.md in any case.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or a GPU: training steps there.")] = "cpu",
) -> None:
    if device != "cpu":
        try:
            target = choose_device(device)
        except UsageError as error:
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        found = machine(target) | gpu.measure(target)
        write_json(output or _HERE / "results" / f"{found['machine']}.json", found)
        print(gpu.lines(found))
        return
    found = measure(QUICK if quick else FULL, device, quick=quick)
    name = f"{found['machine']}{'-quick' if quick else ''}.json"
    write_json(output or _HERE / "results" / name, found)
    print(table(found))
    if docs or not (quick or output):
        write_between(MARKERS, _DOCS, table(found))


def measure(sizes: Sizes, device: str, *, quick: bool) -> dict[str, Any]:
    """The report of a run and of what it ran on."""
    described = machine(torch.device(device)) | {"threads": 1, "repeats": sizes.rounds}
    return described | run(sizes, device, quick=quick)


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on; `machine` names the file."""
    cores, processor = usable_cores(), hardware(device).rsplit(", ", 1)[0]
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(\w+\)", "", processor.lower()))  # without (R) and (TM)
    return {
        "machine": "-".join([*words, str(cores), "cores"]),
        "processor": processor,
        "cores": cores,
        "torch": torch.__version__,
        "device": str(device),
        "date": date.today().isoformat(),
        "load_average": os.getloadavg()[0],
    }


def run(sizes: Sizes, device: str, *, quick: bool) -> dict[str, Any]:
    """The figures of a run: every round does each task once, in the reverse order of the round before."""
    with tempfile.TemporaryDirectory(prefix="kaggle-hw4-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        say(f"Writing {sizes.files} utterances in {folder} …")
        compared = measures(write_competition(folder, sizes), sizes)
        sides = {name: Side(name, folder, sizes, device, env) for name, env in _ENVIRONMENTS.items()}
        for side in sides.values():
            stack.callback(side.close)
        for side in sides.values():
            side.wait_until_ready()
        order = turns(compared)
        samples: dict[Turn, list[float]] = {turn: [] for turn in order}
        for number in range(sizes.rounds):
            say(f"Round {number + 1} of {sizes.rounds} …")
            for side_name, task in order if number % 2 == 0 else reversed(order):
                samples[side_name, task] += sides[side_name].do(task)
    return report(samples, compared, quick=quick)


if __name__ == "__main__":
    run_command(main)
