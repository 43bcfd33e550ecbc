"""How far two trainings of the same jobs with the same command are apart on a device.

python -m benchmarks.determinism --root DIR --folder EMPTY --device cuda
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks import run_command
from kaggle_hw4.errors import UsageError
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.training.artefacts import hardware
from kaggle_hw4.variants import variant as variant_named
from kaggle_hw4.workspace import Workspace


def main(
    root: Annotated[Path, typer.Option(help="A workspace with data and folds.")],
    folder: Annotated[Path, typer.Option(help="For the trainings; must not exist.")],
    device: Annotated[str, typer.Option(help="As for `train`.")] = "cuda",
    variant: str = "conformer-full",
    steps: int = 500,
) -> None:
    """Train fold 0 alone, and all folds (stacked on a GPU), twice each, without and with --deterministic."""
    found: dict[str, Any] = {"variant": variant, "steps": steps, "torch": torch.__version__, "twice": {}}
    for options in ([], ["--deterministic"]):
        for fold in ("0", "all"):
            name = " ".join([f"--fold {fold}", *options])
            command = ["--variant", variant, "--steps", str(steps), "--fold", fold, "--device", device, *options]
            one, other = (_trained(root, folder / f"{name.replace(' ', '')}-{i}", command) for i in range(2))
            found["twice"][name] = differences(one, other, Job(variant, variant_named(variant), 0, 0))
    found["hardware"] = hardware(torch.device("cpu" if device == "cpu" else "cuda"))
    typer.echo(json.dumps(found, indent=1))


def _trained(root: Path, folder: Path, command: list[str]) -> Workspace:
    if folder.exists():
        raise UsageError(f"{folder} exists")
    folder.mkdir(parents=True)
    (folder / "data").symlink_to(root.resolve() / "data")
    shutil.copytree(root / "folds", folder / "folds")
    subprocess.run([sys.executable, "-m", "kaggle_hw4", "--root", str(folder), "train", *command], check=True)
    return Workspace(folder)


def differences(one: Workspace, other: Workspace, job: Job) -> dict[str, Any]:
    """Of a job's test logits: the largest difference, the share of rows with another answer, and whether the
    weights are the same bytes."""
    ours, theirs = (run_of(workspace, job) for workspace in (one, other))
    a, b = np.load(ours.test), np.load(theirs.test)
    return {
        "same_weights": ours.weights.read_bytes() == theirs.weights.read_bytes(),
        "largest_difference": float(np.abs(a - b).max()),
        "other_answers": float((a.argmax(1) != b.argmax(1)).mean()),
    }


if __name__ == "__main__":
    run_command(main)
