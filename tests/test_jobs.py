"""Many jobs through the real command, in processes of their own: side by side, interrupted, killed, twice at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from filelock import FileLock

from kaggle_hw4.jobs.plan import Plan, PlannedJob
from kaggle_hw4.runs import Job, Run
from kaggle_hw4.variants import variant

STEPS = 200


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny.store(tmp_path)
    return tmp_path


def start(root: Path, *options: str) -> subprocess.Popen[str]:
    """`kaggle-hw4 train` on folds 0 and 1 of `sample`, in a process group of its own as under a terminal."""
    command = [sys.executable, "-m", "kaggle_hw4", "--root", str(root), "train", "--variant", "sample", "--fold", "0,1"]
    return subprocess.Popen(
        [*command, "--steps", str(STEPS), *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=240)
    return process.returncode, stderr


def runs(root: Path) -> list[Run]:
    return [Run(root / "runs" / "sample-s0" / f"fold{fold}") for fold in (0, 1)]


def artefacts(root: Path) -> list[bytes]:
    return [path.read_bytes() for run in runs(root) for path in (run.weights, run.oof, run.test)]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def under_way(root: Path) -> bool:
    return any(line["step"] >= 20 for run in runs(root) for line in run.log_lines())


def workers_of(pid: int) -> list[int]:
    """The training processes below `pid` (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What one worker makes of the tiny data, undisturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    tiny.store(root)
    code, stderr = finish(start(root, "--workers", "1"))
    assert code == 0, stderr
    return artefacts(root)


def test_two_workers_make_the_same_as_one(root: Path, undisturbed: list[bytes]) -> None:
    code, stderr = finish(start(root, "--workers", "2"))
    assert code == 0
    assert artefacts(root) == undisturbed
    assert "sample-s0 fold 1: accuracy" in stderr
    assert "Next: kaggle-hw4" in stderr
    code, stderr = finish(start(root))
    assert code == 0
    assert "All 2 jobs are done" in stderr


def test_ctrl_c_stops_all_with_130_and_the_same_command_goes_on(root: Path, undisturbed: list[bytes]) -> None:
    process = start(root, "--workers", "2")
    until(lambda: under_way(root))
    workers = workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    code, stderr = finish(process)
    assert code == 130
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert any(run.checkpoint.exists() for run in runs(root))
    code, stderr = finish(start(root, "--workers", "2"))
    assert code == 0
    assert " begun" in stderr
    assert artefacts(root) == undisturbed


def test_ctrl_c_twice_ends_as_well(root: Path) -> None:
    process = start(root, "--workers", "1")
    until(lambda: under_way(root))
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    assert finish(process)[0] == 130


def test_ctrl_c_ends_a_wait_for_another_command(root: Path) -> None:
    folder = runs(root)[0].folder
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        process = start(root, "--fold", "0", "--workers", "1")
        until(lambda: bool(workers_of(process.pid)))
        time.sleep(8)  # for the worker to come as far as the lock
        os.killpg(process.pid, signal.SIGINT)
        assert finish(process)[0] == 130


def test_workers_of_a_killed_command_end_and_keep_their_work(root: Path, undisturbed: list[bytes]) -> None:
    process = start(root, "--workers", "2")
    until(lambda: under_way(root))
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert any(run.checkpoint.exists() for run in runs(root))
    assert finish(start(root))[0] == 0
    assert artefacts(root) == undisturbed


def test_a_worker_that_dies_is_reported_and_its_job_can_be_repeated(root: Path, undisturbed: list[bytes]) -> None:
    process = start(root, "--workers", "1")
    until(lambda: under_way(root))
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    code, stderr = finish(process)
    assert code == 3
    assert "a training process died" in stderr
    assert "Traceback" not in stderr
    assert finish(start(root))[0] == 0
    assert artefacts(root) == undisturbed


def test_two_commands_at_once_do_each_job_once(root: Path, undisturbed: list[bytes]) -> None:
    both = [start(root, "--workers", "1"), start(root, "--workers", "1")]
    for process in both:
        code, stderr = finish(process)
        assert code == 0, stderr
    assert artefacts(root) == undisturbed
    for run in runs(root):
        steps = [line["step"] for line in run.log_lines() if "loss" in line]
        assert steps == sorted(set(steps))  # nobody wrote between another's lines


def test_a_job_that_fails_does_not_stop_the_others(root: Path) -> None:
    runs(root)[0].oof.mkdir(parents=True)  # in the way of the first job's logits
    code, stderr = finish(start(root, "--workers", "1"))
    assert code == 3
    assert "sample-s0 fold 0" in stderr
    assert "oof.npy: Is a directory" in stderr
    assert "Traceback" not in stderr
    assert json.loads(runs(root)[1].result.read_text())["steps"] == STEPS


def test_the_plan_shares_the_jobs_among_the_workers() -> None:
    jobs = [PlannedJob(Job("sample", variant("sample"), 0, i), 0, 10.0, finished=i == 4) for i in range(5)]
    assert Plan(jobs, 1, 0, {"sample": 1}).seconds == 40
    assert Plan(jobs, 2, 0, {"sample": 1}).seconds == 20
    assert Plan(jobs, 3, 0, {"sample": 1}).seconds == 20
