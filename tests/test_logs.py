"""Logs besides `log.jsonl`: the same figures, the same weights, and nothing starts without the package."""

from pathlib import Path

import pytest
import tiny
from command_line import refused, run
from jobs_done import CPU, Session, after, copy_of, small

from kaggle_hw4.errors import DataError
from kaggle_hw4.runs import Job, Run, run_of
from kaggle_hw4.training import logs
from kaggle_hw4.training.session import do_jobs
from kaggle_hw4.training.stopping import Stopped


def do(session: Session, job: Job, stop: int, *names: str) -> None:
    """Go on with a job until the `stop`-th look at whether it shall end."""
    do_jobs(session.workspace, [job], session.store, session.folds, CPU, after(stop), logs=names)


def scalars(run: Run) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"), {"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(run: Run, key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in run.log_lines() if key in line]


def test_tensorboard_shows_what_the_log_says_through_every_resume(session: Session) -> None:
    pytest.importorskip("tensorboard")
    job = Job("sample", small("sample", steps=130, batch=60), 0, 0)
    with pytest.raises(Stopped):
        do(session, job, 30)  # without
    run = run_of(session.workspace, job)
    with open(run.log, "a", encoding="utf-8") as file:
        file.write('{"step": 120, "loss": 9.0, "seconds": 99}\n')  # behind the checkpoint: it comes again
    for stop, names in ((40, ["tensorboard"]), (20, ["tensorboard"]), (1000, ["tensorboard"])):
        try:
            do(session, job, stop, *names)
        except Stopped:
            assert not run.finished
    assert run.finished
    shown = scalars(run)
    assert set(shown) == {"loss", "accuracy"}
    for tag in shown:
        expected = logged(run, tag)
        assert len(expected) >= 4
        assert [step for step, _ in shown[tag]] == [step for step, _ in expected]
        assert [value for _, value in shown[tag]] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_a_disk_that_is_full_as_a_training_goes_on_loses_no_line_of_its_log(session: Session) -> None:
    resource = pytest.importorskip("resource")
    job = Job("sample", small("sample", steps=130, batch=60), 0, 0)
    with pytest.raises(Stopped):
        do(session, job, 60)
    run = run_of(session.workspace, job)
    before = run.log_lines()
    assert len(before) > 2
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # no file may have more bytes
    try:
        with pytest.raises((DataError, OSError), match="too large"):
            do(session, job, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.log_lines() == before


def test_no_log_changes_the_weights(session: Session) -> None:
    pytest.importorskip("tensorboard")
    job = Job("transformer-full", small("transformer-full"), 0, 0)
    other = copy_of(session, "other")
    do(session, job, 1000)
    do(other, job, 1000, "tensorboard")
    with_it, without = run_of(other.workspace, job), run_of(session.workspace, job)
    assert (with_it.folder / "tensorboard").is_dir()
    assert not (without.folder / "tensorboard").exists()
    assert with_it.weights.read_bytes() == without.weights.read_bytes()


def test_a_log_that_cannot_be_written_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.store(tmp_path)
    train = ["train", "--variant", "sample", "--steps", "3"]
    refused(run(*train, "--log", "paper", root=tmp_path), 2, "no log 'paper'", "There are: tensorboard")
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    missing = run(*train, "--log", "tensorboard", root=tmp_path)
    refused(missing, 2, "tensorboard is not installed", "pip install 'kaggle-hw4[tensorboard]'")
    assert not (tmp_path / "runs").exists()
