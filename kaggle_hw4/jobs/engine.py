"""Do the jobs of a plan on an engine: handed out in turn, done again where a worker was lost, shown, stopped."""

import signal
import time
from dataclasses import dataclass
from typing import Protocol

import torch

from kaggle_hw4.errors import DataError, HW4Error, PendingError
from kaggle_hw4.jobs.display import TrainingDisplay
from kaggle_hw4.jobs.plan import Costs, Plan, PlannedJob, last_step, wall_time
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.terminal import duration, say
from kaggle_hw4.workspace import Workspace

LOOK_SECONDS = 0.5  # between two looks at the workers
STOP_SECONDS = 120.0  # for the workers to write their checkpoints, which takes a step and a write
_PATIENCE_SECONDS = 900.0  # a worker shows life at each step and batch; longest it reads the data, silently
_QUEUED_SECONDS = 60.0  # after which it is said that a job has not begun
_LOSSES = 3  # of a group's workers in a row, none of which came as far as a checkpoint
_RESERVE_SECONDS = 15.0  # before a deadline, when all should be written

Answer = dict[Job, HW4Error] | Exception  # the jobs that failed, or what made all of them fail


class Lost(Exception):
    """A worker ended before it answered, or was ended because it hung; `advice` is for when that comes again."""

    def __init__(self, reason: str, advice: str = "With --workers 1 it needs the least memory.") -> None:
        super().__init__(reason)
        self.advice = advice


class Engine(Protocol):
    """Where jobs are done. A group of jobs of one variant goes by the `number` it has in the plan."""

    @property
    def device(self) -> torch.device: ...

    @property
    def workers(self) -> int:
        """How many groups it does at once."""

    def costs(self, jobs_of_a_variant: int) -> Costs:
        """Measures what a variant costs on a worker, where up to so many of its jobs may train at once."""

    def start(self, number: int, jobs: list[Job], seconds: float | None) -> bool:
        """Begin a group, whose training ends after `seconds`. False when other commands have its jobs: not now."""

    def answers(self) -> list[tuple[int, Answer]]:
        """The groups that ended, after a look of at most `LOOK_SECONDS`."""

    def signs_of_life(self, number: int) -> int:
        """Grows while a group is worked on; 0 before it has a worker."""

    def give_up(self, number: int) -> None:
        """End the worker of a group: `Lost` is its answer."""

    def close(self) -> None:
        """Have all workers write their checkpoints, and end them. May be called again."""


def run_plan(workspace: Workspace, plan: Plan, engine: Engine, deadline: float | None = None) -> None:
    """Do the open jobs of `plan`; a job that fails does not stop the others. The engine is closed.

    With a `deadline` trainings that are late end early, so that all have their part of the time.

    Raises:
        PendingError: `deadline`, on the clock `time.monotonic`, came before the end; checkpoints are written.
        HW4Error: the first failure of a job, after the others are done; DataError: its workers died or hung.
        KeyboardInterrupt: interrupted (SIGINT or SIGTERM), after all workers wrote their checkpoints.
        Exception: a job failed in an unforeseen way, after the others are done.
    """
    course = _Course(workspace, plan, engine, deadline)
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TrainingDisplay(workspace, plan) as display:
            while course.unfinished:
                course.hand_out()
                for planned in course.collect():
                    display.finished(planned)
                course.look_after()
                display.refresh(course.working)
                course.check_time()
    except KeyboardInterrupt:
        say("Stopping: the trainings write their checkpoints …")
        raise
    finally:
        # A second Ctrl-C must not break off the shutdown.
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        engine.close()
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, terminated)
    course.raise_failure()


@dataclass
class _AtWork:
    """A group that was handed out: when, for how many seconds at most, its signs of life, how long there was none."""

    began: float
    limit: float | None
    signs: int = 0
    silent: float = 0.0
    queued: float = 0.0


class _Course:
    """Which groups of a plan wait, are at work, were lost, have failed."""

    def __init__(self, workspace: Workspace, plan: Plan, engine: Engine, deadline: float | None) -> None:
        self._workspace, self._plan, self._engine, self._deadline = workspace, plan, engine, deadline
        self._groups = plan.groups
        self._waiting = list(range(len(self._groups)))
        self._at_work: dict[int, _AtWork] = {}
        self._losses: dict[int, tuple[int, list[int]]] = {}  # in a row, and the checkpoints at the last
        self._failures: dict[Job, Exception] = {}

    @property
    def unfinished(self) -> bool:
        return bool(self._waiting or self._at_work)

    @property
    def working(self) -> list[PlannedJob]:
        return [planned for number in self._at_work for planned in self._groups[number]]

    def hand_out(self) -> None:
        for number in self._waiting[:]:
            if len(self._at_work) == self._plan.workers:
                break
            jobs = [planned.job for planned in self._groups[number]]
            limit = self._limit(number)
            if self._engine.start(number, jobs, limit):
                self._waiting.remove(number)
                self._at_work[number] = _AtWork(time.monotonic(), limit)

    def _limit(self, number: int) -> float | None:
        """A group's part of the time that is left."""
        if self._deadline is None:
            return None
        now = time.monotonic()
        at_work = []
        for other, state in self._at_work.items():
            left = 1 - (now - state.began) / state.limit if state.limit and state.limit > 0 else 0.0
            at_work.append(self._planned(other) * max(0.0, left))
        waiting = [self._planned(other) for other in self._waiting if other != number]
        busy = wall_time([*at_work, self._planned(number), *waiting], self._plan.workers)
        closing = sum(planned.closing for planned in self._groups[number])
        return part_of_the_time(self._deadline - now, self._planned(number), busy, closing)

    def _planned(self, number: int) -> float:
        """Seconds that a group should still take, when it is handed out."""
        group = self._groups[number]
        if number not in self._losses:
            return sum(planned.seconds for planned in group)
        return sum(planned.closing + self._left(planned) * (planned.seconds - planned.closing) for planned in group)

    def _left(self, planned: PlannedJob) -> float:
        """The share of what was planned of a training that is still to be done by another worker."""
        steps, done = planned.job.variant.steps, last_step(run_of(self._workspace, planned.job))
        return min(1.0, (steps - done) / max(1, steps - planned.done_steps))

    def collect(self) -> list[PlannedJob]:
        """Take the answers; gives the jobs that are done."""
        done: list[PlannedJob] = []
        for number, answer in self._engine.answers():
            del self._at_work[number]
            if isinstance(answer, Lost):
                self._lost(number, answer)
                continue
            group = self._groups[number]
            left = [p.job for p in group if not run_of(self._workspace, p.job).finished]  # of those that train as one
            failed = answer if isinstance(answer, dict) else dict.fromkeys(left or [p.job for p in group], answer)
            for job, reason in failed.items():
                self._failures[job] = reason
                say(f"{job} {'is not done' if isinstance(reason, PendingError) else 'failed'}: {reason}")
            done += [planned for planned in group if planned.job not in failed]
        return done

    def _lost(self, number: int, reason: Lost) -> None:
        """Do a group again from its checkpoints, unless that did not help before."""
        group = self._groups[number]
        checkpoints = [run_of(self._workspace, planned.job).checkpoint for planned in group]
        marks = [path.stat().st_mtime_ns if path.exists() else 0 for path in checkpoints]
        before, where = self._losses.get(number, (0, marks))
        count = before + 1 if where == marks else 1
        self._losses[number] = count, marks
        names = str(group[0].job) + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        if count < _LOSSES:
            say(f"{names}: {reason}. It goes on from its checkpoint in another one.")
            self._waiting.insert(0, number)
            return
        error = DataError(
            f"{reason}, {count} times in a row without getting any further",
            f"Run the same command again: it goes on from the checkpoints. {reason.advice}",
        )
        say(f"{names} failed: {error}")
        self._failures |= {planned.job: error for planned in group}

    def look_after(self) -> None:
        """Give up workers that hang. Counted in looks, not by the clock: after a machine slept nobody is late."""
        for number, state in self._at_work.items():
            signs = self._engine.signs_of_life(number)
            if not signs:
                state.queued += LOOK_SECONDS
                if state.queued == _QUEUED_SECONDS:
                    say(f"{self._groups[number][0].job} has not begun: no worker is free, or it is slow to start")
                continue
            state.silent = state.silent + LOOK_SECONDS if signs == state.signs else 0.0
            state.signs = signs
            if state.silent > _PATIENCE_SECONDS:
                state.silent = 0.0
                self._engine.give_up(number)

    def check_time(self) -> None:
        """Raises PendingError when the time is up."""
        if self._deadline is not None and self.unfinished and time.monotonic() > self._deadline:
            undone = sum(len(self._groups[number]) for number in [*self._waiting, *self._at_work])
            raise PendingError(
                f"the time is up, with {undone} of {len(self._plan.jobs)} jobs not done",
                "Run the same command again: it goes on from the checkpoints. Or blend the members that "
                "are complete: kaggle-hw4 ensemble NAME …, and submit what it writes.",
            )

    def raise_failure(self) -> None:
        """Raises the first of the worst failures, if any: a bug before bad data, that before a time that was up."""
        if not self._failures:
            return
        job, first = min(self._failures.items(), key=lambda failure: _harm(failure[1]))
        if not isinstance(first, HW4Error):
            raise first
        more = f" (and {len(self._failures) - 1} more not done)" if len(self._failures) > 1 else ""
        raise type(first)(f"{job}: {first.cause}{more}", first.remedy)


def _harm(error: Exception) -> int:
    return 0 if not isinstance(error, HW4Error) else 2 if isinstance(error, PendingError) else 1


def part_of_the_time(left: float, planned: float, busy: float, closing: float) -> float:
    """Seconds for the training of a group that should take `planned` of the `busy` seconds still to come for all.

    On a machine slower than it was in calibration trainings end early rather than never, and all by the same share.
    """
    share = (left - _RESERVE_SECONDS) / busy
    # Predictions may be late, too; but where all are in time nobody need be.
    return max(share * planned - 2 * closing, min(1.0, share) * (planned - closing))


def silence() -> str:
    return f"its worker gave no sign of life for {duration(_PATIENCE_SECONDS)}"
