"""Shows trainings as they run: live bars in a terminal, plain lines elsewhere. Reads only their logs."""

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kaggle_hw4.jobs.plan import Plan, PlannedJob
from kaggle_hw4.progress import RunProgress, read_progress
from kaggle_hw4.runs import Job, run_of
from kaggle_hw4.terminal import duration, say, stderr
from kaggle_hw4.workspace import Workspace

PLAIN_SECONDS = 30.0  # between two lines about one job, when not a terminal


class TrainingDisplay:
    """Use as a context; call `refresh` now and then with the jobs at work, `finished` as they end."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._workspace = workspace
        self._total = sum(planned.seconds for planned in plan.open)
        self._live = stderr.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=stderr,
            disable=not self._live,
        )
        self._all = self._bar.add_task("all jobs", total=self._total, note="")
        self._tasks: dict[Job, TaskID] = {}
        self._done_seconds = 0.0
        self._spoken = time.monotonic()
        self._began = time.monotonic()

    def __enter__(self) -> "TrainingDisplay":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def refresh(self, working: list[PlannedJob]) -> None:
        """Show where the jobs at work are."""
        speak = not self._live and time.monotonic() - self._spoken > PLAIN_SECONDS
        current = self._done_seconds
        for planned in working:
            progress = read_progress(run_of(self._workspace, planned.job))
            step, steps, note = progress.step, planned.job.variant.steps, _note(progress)
            current += planned.seconds * max(0, step - planned.done_steps) / max(1, steps - planned.done_steps)
            if planned.job not in self._tasks:
                self._tasks[planned.job] = self._bar.add_task(str(planned.job), total=steps, note="")
            self._bar.update(self._tasks[planned.job], completed=step, note=f"{step}/{steps}{note}")
            if speak:
                say(f"{planned.job}: step {step}/{steps}{note}")
        self._bar.update(self._all, completed=current)
        if speak:
            self._spoken = time.monotonic()
            share = current / self._total
            if share > 0.01:  # before, most of the time was spent starting
                left = (self._spoken - self._began) * (1 - share) / share
                say(f"all jobs: {share:.0%}, about {duration(left)} left")

    def finished(self, planned: PlannedJob) -> None:
        """Say how a job ended."""
        self._done_seconds += planned.seconds
        if planned.job in self._tasks:
            self._bar.remove_task(self._tasks.pop(planned.job))
        result = run_of(self._workspace, planned.job).read_result()
        cut = (
            f"; ended at step {result['steps']} for lack of time" if result["steps"] < planned.job.variant.steps else ""
        )
        shown = (
            "trained on all labels, so without an accuracy of its own"
            if planned.job.refit
            else f"accuracy {result['accuracy']:.4f} on {result['utterances']} whole utterances "
            f"({result['crop_accuracy']:.4f} on crops)"
        )
        say(f"{planned.job}: {shown}, {duration(result['train_seconds'])}{cut}")


def _note(progress: RunProgress) -> str:
    """Loss, accuracy and speed as far as known."""
    note = "" if progress.loss is None else f"  loss {progress.loss:.3f}"
    note += "" if progress.accuracy is None else f"  accuracy {progress.accuracy:.4f}"
    return note + ("" if progress.rate is None else f"  {progress.rate:.1f} steps/s")
