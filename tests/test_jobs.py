"""Many jobs through the real command, in processes of their own: side by side, interrupted, killed, twice at once."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from at_work import STEPS, artefacts, finish, runs, start, under_way, until, workers_of
from filelock import FileLock

from kaggle_hw4.data.store import open_store
from kaggle_hw4.folds import make_folds
from kaggle_hw4.jobs.engine import run_plan
from kaggle_hw4.jobs.local import LocalEngine
from kaggle_hw4.jobs.plan import Plan, PlannedJob
from kaggle_hw4.jobs.work import Options, prepare_torch
from kaggle_hw4.runs import Job, with_steps
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace


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


def test_a_worker_that_dies_is_replaced_and_goes_on_from_the_checkpoint(root: Path, undisturbed: list[bytes]) -> None:
    process = start(root, "--workers", "2")
    until(lambda: under_way(root))
    killed, spared = workers_of(process.pid)
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in workers_of(process.pid) and len(workers_of(process.pid)) == 2)
    assert spared in workers_of(process.pid)
    code, stderr = finish(process)
    assert code == 0, stderr
    assert "its worker ended (by SIGKILL; out of memory?). It goes on from its checkpoint" in stderr
    assert artefacts(root) == undisturbed


def test_a_batch_system_that_ends_every_process_loses_nothing(root: Path) -> None:
    process = start(root, "--workers", "2")
    until(lambda: under_way(root))
    os.killpg(process.pid, signal.SIGTERM)
    assert finish(process)[0] == 130
    assert any(run.checkpoint.exists() for run in runs(root))


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(
    root: Path, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a signal, as one that waits for a disk that is gone."""
    workspace, cpu = Workspace(root), torch.device("cpu")
    store = open_store(workspace.store)
    make_folds(store, workspace.folds_file)
    planned = PlannedJob(Job("sample", with_steps(variant("sample"), STEPS), 0, 0), 0, 1.0, False)

    def hang() -> None:
        until(lambda: under_way(root))
        monkeypatch.setattr("kaggle_hw4.jobs.engine._PATIENCE_SECONDS", 3.0)
        os.kill(workers_of(os.getpid())[0], signal.SIGSTOP)
        until(lambda: "no sign of life for 3 s" in capsys.readouterr().err)
        monkeypatch.undo()  # the next one takes its time to start

    threading.Thread(target=hang).start()
    run_plan(workspace, Plan([planned], 1, 0, {"sample": 1}), LocalEngine(workspace, store, cpu, 1, Options()))
    assert artefacts(root, folds=[0]) == undisturbed[:3]


def test_after_a_bug_the_next_group_gets_a_new_worker(root: Path) -> None:
    """The old one may be of no more use, as after an error of its GPU."""
    workspace = Workspace(root)
    store = open_store(workspace.store)
    make_folds(store, workspace.folds_file)
    engine = LocalEngine(workspace, store, torch.device("cpu"), 1, Options())
    numbers, answers = [], []
    try:
        for number in (0, 1):
            assert engine.start(number, ["no job"], None)  # type: ignore[list-item]
            numbers.append(engine._workers[0].process.pid)
            until(lambda: answers.extend(engine.answers()) or len(answers) == len(numbers))
    finally:
        engine.close()
    assert numbers[0] != numbers[1]
    assert [type(answer) for _, answer in answers] == [RuntimeError, RuntimeError]


def test_each_gpu_gets_a_worker_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    used: list[torch.device] = []
    monkeypatch.setattr(LocalEngine, "_new", lambda self, device: used.append(device) or MagicMock(number=None))
    workspace, store = Workspace(root), open_store(root / "data" / "store")

    def devices(name: str, workers: int | None) -> list[str]:
        used.clear()
        engine = LocalEngine(workspace, store, torch.device(name), workers, Options())
        for number in range(engine.workers):
            assert engine.start(number, [], None)
        return [str(device) for device in used]

    assert devices("cuda", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cuda", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert devices("cuda:1", None) == ["cuda:1"]


def test_one_variant_is_shared_among_all_gpus() -> None:
    jobs = [PlannedJob(Job("sample", variant("sample"), 0, fold), 0, 1.0, False) for fold in range(5)]
    sizes = {workers: [len(group) for group in Plan(jobs, workers, 0, {"sample": 5}).groups] for workers in (1, 2, 8)}
    assert sizes == {1: [5], 2: [2, 3], 8: [1] * 5}


def test_deterministic_asks_pytorch_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, object] = {}
    monkeypatch.setattr("torch.cuda.set_device", lambda device: settings.update(device=str(device)))
    monkeypatch.setattr("torch.use_deterministic_algorithms", lambda on, warn_only: settings.update(on=on))
    monkeypatch.setattr("torch.backends.cudnn.deterministic", False)
    monkeypatch.setattr("torch.backends.cudnn.benchmark", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    prepare_torch(torch.device("cpu"), deterministic=True)
    prepare_torch(torch.device("cuda:1"), deterministic=False)
    assert settings == {"device": "cuda:1"}
    prepare_torch(torch.device("cuda:1"), deterministic=True)
    assert settings["on"] is True
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.slow
def test_three_workers_and_deterministic_make_the_same_as_one(root: Path, undisturbed: list[bytes]) -> None:
    code, stderr = finish(start(root, "--fold", "0,1,2", "--workers", "3", "--deterministic"))
    assert code == 0
    assert "3 at a time" in stderr
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
