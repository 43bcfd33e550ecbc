"""How groups of jobs are handed out, tried again and given up, on an engine that only pretends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kaggle_hw4.errors import DataError, PendingError
from kaggle_hw4.jobs.engine import Answer, Lost, run_plan
from kaggle_hw4.jobs.plan import Costs, Plan, PlannedJob
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, write_json


class Pretence:
    """An engine whose answers to group n are those of `script[n]` in turn; None is silence. Else all goes well."""

    device = torch.device("cpu")
    workers = 2

    def __init__(self, workspace: Workspace, script: dict[int, list[Answer | Callable[[], Answer] | None]]) -> None:
        self.workspace, self.script = workspace, script
        self.at_work: dict[int, list[Job]] = {}
        self.started: list[int] = []
        self.given_up: list[int] = []
        self.most = 0
        self.closed = False
        self.signs = 0

    def costs(self, jobs_of_a_variant: int) -> Costs:
        raise NotImplementedError

    def start(self, number: int, jobs: list[Job], seconds: float | None) -> bool:
        self.started.append(number)
        self.at_work[number] = jobs
        self.most = max(self.most, len(self.at_work))
        return True

    def answers(self) -> list[tuple[int, Answer]]:
        answers = [(number, self.answer(number)) for number in self.at_work]
        for number, answer in answers:
            if answer is not None:
                del self.at_work[number]
        return [(number, answer) for number, answer in answers if answer is not None]

    def answer(self, number: int) -> Answer | None:
        script = self.script.get(number, [])
        if not script:
            for job in self.at_work[number]:
                measured = {"accuracy": 1.0, "crop_accuracy": 1.0, "utterances": 3, "train_seconds": 1.0}
                write_json(run_of(self.workspace, job).result, {"steps": job.variant.steps} | measured)
            return {}
        if script[0] is None:
            return None
        answer = script.pop(0)
        return answer() if callable(answer) else answer

    def signs_of_life(self, number: int) -> int:
        silent = self.script.get(number, [...])[:1] == [None]
        self.signs += not silent
        return 1 if silent else self.signs

    def give_up(self, number: int) -> None:
        self.given_up.append(number)
        self.script[number][0] = Lost("it hung")

    def close(self) -> None:
        self.closed = True


def plan(groups: int = 4) -> Plan:
    jobs = [Job("sample", variant("sample"), 0, fold) for fold in range(groups)]
    return Plan([PlannedJob(job, 0, 1.0, False) for job in jobs], 2, 0, {"sample": 1})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def finished(workspace: Workspace) -> list[int]:
    return [p.job.fold for p in plan().jobs if run_of(workspace, p.job).finished]


def test_every_group_is_done_once_and_no_more_at_a_time_than_planned(workspace: Workspace) -> None:
    engine = Pretence(workspace, {})
    run_plan(workspace, plan(), engine)
    assert engine.started == [0, 1, 2, 3]
    assert engine.most == 2
    assert finished(workspace) == [0, 1, 2, 3]
    assert engine.closed


def test_lost_work_is_done_again_before_new_work_and_the_others_go_on(workspace: Workspace) -> None:
    engine = Pretence(workspace, {1: [Lost("its worker ended"), Lost("its worker ended")]})
    run_plan(workspace, plan(), engine)
    assert engine.started == [0, 1, 1, 2, 1, 3]
    assert finished(workspace) == [0, 1, 2, 3]


def test_work_that_loses_its_worker_three_times_is_given_up_and_the_others_are_done(workspace: Workspace) -> None:
    engine = Pretence(workspace, {1: [Lost("its worker ended")] * 3})
    with pytest.raises(DataError, match="sample-s0 fold 1: its worker ended, 3 times in a row without") as error:
        run_plan(workspace, plan(), engine)
    assert "goes on from the checkpoints" in error.value.remedy
    assert finished(workspace) == [0, 2, 3]


def test_work_that_gets_further_between_losses_is_not_given_up(workspace: Workspace) -> None:
    """As on machines that are taken away now and then."""
    checkpoint = run_of(workspace, plan().jobs[0].job).checkpoint
    checkpoint.parent.mkdir(parents=True)

    def lost() -> Answer:
        before = checkpoint.stat().st_mtime if checkpoint.exists() else 0
        checkpoint.write_bytes(b"")
        while checkpoint.stat().st_mtime == before:
            checkpoint.write_bytes(b"")
        return Lost("taken away")

    run_plan(workspace, plan(1), Pretence(workspace, {0: [lost] * 7}))
    assert finished(workspace) == [0]


def test_a_worker_without_signs_of_life_is_replaced(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_hw4.jobs.engine._PATIENCE_SECONDS", 20.0)
    engine = Pretence(workspace, {2: [None]})
    run_plan(workspace, plan(), engine)
    assert engine.given_up == [2]
    assert engine.started.count(2) == 2
    assert finished(workspace) == [0, 1, 2, 3]


def test_a_failure_is_told_after_the_others_are_done(workspace: Workspace) -> None:
    engine = Pretence(workspace, {0: [DataError("no room", "Make some.")], 2: [{plan().jobs[2].job: DataError("nan")}]})
    with pytest.raises(DataError, match=r"sample-s0 fold 0: no room \(and 1 more not done\)") as error:
        run_plan(workspace, plan(), engine)
    assert error.value.remedy == "Make some."
    assert finished(workspace) == [1, 3]


def test_of_jobs_that_train_as_one_those_that_are_done_have_not_failed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    together = replace(plan(3), workers=1, together={"sample": 3})
    first = together.jobs[0].job

    def full() -> Answer:
        measured = {"accuracy": 1.0, "crop_accuracy": 1.0, "utterances": 3, "train_seconds": 1.0}
        write_json(run_of(workspace, first).result, {"steps": first.variant.steps} | measured)
        return DataError("no room", "Make some.")

    with pytest.raises(DataError, match=r"sample-s0 fold 1: no room \(and 1 more not done\)"):
        run_plan(workspace, together, Pretence(workspace, {0: [full]}))
    told = capsys.readouterr().err
    assert "fold 0 failed" not in told
    assert "sample-s0 fold 0: accuracy 1.0000" in told


def test_a_time_that_was_up_hides_nothing_worse(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    late = PendingError("the time is up after 1 of 12 steps", "Run the same command again.")
    with pytest.raises(RuntimeError, match="a bug"):
        run_plan(workspace, plan(), Pretence(workspace, {0: [late], 1: [DataError("nan")], 2: [RuntimeError("a bug")]}))
    with pytest.raises(DataError, match="nan"):
        run_plan(workspace, plan(), Pretence(workspace, {0: [late], 1: [DataError("nan")]}))
    capsys.readouterr()
    with pytest.raises(PendingError, match="the time is up"):
        run_plan(workspace, plan(), Pretence(workspace, {0: [late]}))
    assert "sample-s0 fold 0 is not done: the time is up" in capsys.readouterr().err


def test_when_the_time_is_up_what_is_at_work_is_stopped(workspace: Workspace) -> None:
    engine = Pretence(workspace, {0: [None], 1: [None]})
    with pytest.raises(PendingError, match="4 of 4 jobs not done"):
        run_plan(workspace, plan(), engine, deadline=0.0)
    assert engine.closed
