"""`kaggle-hw4 train` in processes of its own, to be interrupted, killed and compared."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kaggle_hw4.runs import Run

STEPS = 200


def start(root: Path, *options: str) -> subprocess.Popen[str]:
    """`kaggle-hw4 train` on folds 0 and 1 of `sample`, in a process group of its own as under a terminal."""
    command = [sys.executable, "-m", "kaggle_hw4", "--root", str(root), "train", "--variant", "sample", "--fold", "0,1"]
    return subprocess.Popen(
        [*command, "--steps", str(STEPS), *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=390)
    return process.returncode, stderr


def runs(root: Path, folds: Sequence[int] = (0, 1)) -> list[Run]:
    return [Run(root / "runs" / "sample-s0" / f"fold{fold}") for fold in folds]


def artefacts(root: Path, folds: Sequence[int] = (0, 1)) -> list[bytes]:
    return [path.read_bytes() for run in runs(root, folds) for path in (run.weights, run.oof, run.test)]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def under_way(root: Path, folds: Sequence[int] = (0, 1)) -> bool:
    return any(line["step"] >= 20 for run in runs(root, folds) for line in run.log_lines())


def workers_of(pid: int) -> list[int]:
    """The training processes below `pid` (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
