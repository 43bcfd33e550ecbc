"""How trainings under way share memory, and the time that is left to them."""

import json
import time
from pathlib import Path

import pytest
import tiny
import torch
from jobs_done import CPU, Session, after, small

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, HW4Error, PendingError
from kaggle_hw4.folds import Folds, make_folds
from kaggle_hw4.jobs import engine as engine_module
from kaggle_hw4.jobs.engine import Answer, Lost
from kaggle_hw4.jobs.plan import Plan, PlannedJob
from kaggle_hw4.jobs.work import work
from kaggle_hw4.progress import read_progress
from kaggle_hw4.runs import Job, run_of, with_steps
from kaggle_hw4.training.session import _Training, do_jobs
from kaggle_hw4.training.stopping import Stopped
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace


@pytest.fixture
def data(tmp_path: Path) -> tuple[Store, Folds]:
    store = tiny.store(tmp_path)
    return store, make_folds(store, Workspace(tmp_path).folds_file, k=3)


def test_out_of_memory_halves_the_group(data: tuple[Store, Folds], monkeypatch: pytest.MonkeyPatch) -> None:
    store, folds = data
    workspace = Workspace(store.folder.parents[1])
    jobs = [Job("sample", variant("sample"), 0, fold) for fold in (0, 1, 2)]
    tried: list[list[int]] = []

    def crowded(workspace: Workspace, jobs: list[Job], *_: object) -> dict[Job, HW4Error]:
        tried.append([job.fold for job in jobs])
        if len(jobs) > 1 or jobs[0].fold == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr("kaggle_hw4.jobs.work.do_jobs", crowded)
    with pytest.raises(DataError, match="out of memory"):
        work(workspace, jobs, store, folds, torch.device("cpu"), lambda: False)
    assert tried == [[0, 1, 2], [0], [1, 2], [1], [2]]


def refused_by_the_system(*_: object) -> None:
    torch.empty(10**15)  # PyTorch has no error of its own for that on a CPU


def test_a_training_without_memory_on_a_cpu_says_so(data: tuple[Store, Folds], monkeypatch: pytest.MonkeyPatch) -> None:
    store, folds = data
    workspace, job = Workspace(store.folder.parents[1]), Job("sample", variant("sample"), 0, 0)
    monkeypatch.setattr("kaggle_hw4.training.session.Frames", refused_by_the_system)
    with pytest.raises(DataError, match=r"^out of memory: .*tried to allocate") as error:
        work(workspace, [job], store, folds, torch.device("cpu"), lambda: False)
    assert "fewer --workers" in error.value.remedy
    assert "tried to allocate" in (read_progress(run_of(workspace, job)).failure or "")


def test_what_is_tried_again_in_halves_has_not_failed(
    data: tuple[Store, Folds], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folds = data
    workspace = Workspace(store.folder.parents[1])
    jobs = [Job("sample", variant("sample"), 0, fold) for fold in (0, 1)]

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("kaggle_hw4.training.session.Frames", full)
    with pytest.raises(torch.OutOfMemoryError):
        do_jobs(workspace, jobs, store, folds, torch.device("cpu"))
    assert [read_progress(run_of(workspace, job)).failure for job in jobs] == [None, None]


def test_parts_of_a_group_share_its_time(data: tuple[Store, Folds], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half is not left with one step because the first one took all the time."""
    store, folds = data
    jobs = [Job("sample", variant("sample"), 0, fold) for fold in (0, 1, 2)]
    now, given = 1000.0, {}

    def crowded(workspace: Workspace, jobs: list[Job], *others: object) -> dict[Job, HW4Error]:
        nonlocal now
        if len(jobs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        end = others[-2]
        given[jobs[0].fold] = end - now
        now = end
        return {}

    monkeypatch.setattr("kaggle_hw4.jobs.work.do_jobs", crowded)
    monkeypatch.setattr("kaggle_hw4.training.session.time.monotonic", lambda: now)
    work(Workspace(store.folder.parents[1]), jobs, store, folds, torch.device("cpu"), lambda: False, 1300.0)
    assert given == {0: 100.0, 1: 100.0, 2: 100.0}


class Simulation:
    """An engine of two workers whose groups take `factor` times the seconds planned, or until their limit."""

    device, workers = torch.device("cpu"), 2

    def __init__(self, plan: Plan, factor: float) -> None:
        self.now, self.plan, self.factor = 0.0, plan, factor
        self.ends: dict[int, float] = {}
        self.trained: dict[int, float] = {}  # share of its training that a group was given

    def start(self, number: int, jobs: list[Job], seconds: float | None) -> bool:
        (planned,) = self.plan.groups[number]
        assert seconds is not None
        wanted = self.factor * (planned.seconds - planned.closing)
        self.trained[number] = min(1.0, seconds / wanted)
        self.ends[number] = self.now + min(seconds, wanted) + self.factor * planned.closing
        return True

    def answers(self) -> list[tuple[int, Answer]]:
        self.now = min(self.ends.values())
        ended = [number for number, end in self.ends.items() if end <= self.now]
        for number in ended:
            del self.ends[number]
        return [(number, {}) for number in ended]


@pytest.mark.parametrize("closing", [5.0, 400.0])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1, 1.3])
def test_a_late_machine_shortens_all_trainings_alike_and_a_timely_one_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, closing: float
) -> None:
    jobs = [
        PlannedJob(Job(name, variant("sample"), 0, fold), 0, seconds, False, closing)
        for name, seconds in (("dear", 6000.0), ("middle", 2500.0), ("cheap", 1000.0))
        for fold in range(3)
    ]
    plan = Plan(jobs, 2, 0, dict.fromkeys(("dear", "middle", "cheap"), 1))
    simulation = Simulation(plan, factor)
    monkeypatch.setattr(engine_module.time, "monotonic", lambda: simulation.now)
    deadline = (plan.seconds + 15) / 0.85
    course = engine_module._Course(Workspace(tmp_path), plan, simulation, deadline)
    while course.unfinished:
        course.hand_out()
        course.collect()
    assert simulation.now <= deadline
    if factor <= 1.0 or (factor, closing) == (1.1, 5.0):
        assert min(simulation.trained.values()) == 1.0
    else:
        assert min(simulation.trained.values()) > 0.7


def test_a_training_that_lost_its_worker_counts_with_what_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    v = with_steps(variant("sample"), 1000)
    jobs = [PlannedJob(Job("dear", v, 0, fold), 0, 3000.0, False, 50.0) for fold in range(2)]
    plan = Plan([*jobs, PlannedJob(Job("cheap", v, 0, 0), 0, 300.0, False, 10.0)], 2, 0, {"dear": 1, "cheap": 1})
    now, given, answers = 0.0, {}, []
    monkeypatch.setattr(engine_module.time, "monotonic", lambda: now)

    class Scripted:
        device, workers = torch.device("cpu"), 2

        def start(self, number: int, jobs: list[Job], seconds: float | None) -> bool:
            given[number] = seconds
            return True

        def answers(self) -> list[tuple[int, Answer]]:
            return [answers.pop()]

    course = engine_module._Course(Workspace(tmp_path), plan, Scripted(), 3900.0)  # type: ignore[arg-type]
    course.hand_out()
    run = run_of(Workspace(tmp_path), jobs[0].job)
    run.folder.mkdir(parents=True)
    run.checkpoint.touch()
    run.log.write_text(json.dumps({"step": 980, "loss": 1.0, "seconds": 2900.0}) + "\n")
    now = 2950.0
    answers.append((0, Lost("it was killed")))
    course.collect()
    course.hand_out()
    now = 3000.0
    answers.append((1, {}))
    course.collect()
    course.hand_out()
    assert given[2] > 300  # of the 900 that are left


def test_a_training_whose_time_was_up_at_its_beginning_is_not_finished(session: Session) -> None:
    job = Job("sample", small("sample"), 0, 0)
    run = run_of(session.workspace, job)
    end = time.monotonic() - 1

    def do(until: float | None) -> dict[Job, HW4Error]:
        return do_jobs(session.workspace, [job], session.store, session.folds, CPU, until=until)

    ((failed, error),) = do(end).items()
    assert failed == job
    assert isinstance(error, PendingError)
    assert "the time is up after 1 of 12 steps" in str(error)
    assert run.checkpoint.exists()
    assert not run.finished
    assert do(end) == {}  # of 12 steps the second is a tenth: an end, if a poor one
    assert run.read_result()["steps"] == 2


def test_jobs_that_stand_at_different_steps_share_the_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("sample", small("sample"), 0, fold) for fold in (0, 1, 2)]
    with pytest.raises(Stopped):
        session.do_together(jobs[:1], after(9))  # stands at step 8 of 12
    given: list[tuple[list[int], float]] = []

    def run_until(training: _Training, until: float) -> dict[Job, HW4Error]:
        given.append(([job.fold for job in training.jobs], until))
        return {}

    monkeypatch.setattr(_Training, "run", run_until)
    monkeypatch.setattr("kaggle_hw4.training.session.time.monotonic", lambda: 1000.0)
    do_jobs(session.workspace, jobs, session.store, session.folds, CPU, until=1280.0)
    assert given == [([0], 1040.0), ([1, 2], 1280.0)]  # 4 steps, then 24
