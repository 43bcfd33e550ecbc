"""Do jobs: train them or go on with them, then write their weights, logits and results."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import torch
from safetensors.torch import save

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, HW4Error, PendingError
from kaggle_hw4.folds import Folds
from kaggle_hw4.inference import accuracy, predict
from kaggle_hw4.machine import memory_errors
from kaggle_hw4.runs import Job, Run, claim, identity, run_of
from kaggle_hw4.training.artefacts import GENTLER, UnusableModel, hardware, write_logits
from kaggle_hw4.training.checkpoints import checkpoints_of, next_checkpoint, saved_groups, start_over
from kaggle_hw4.training.logs import forget_failure, forget_peak, gpu_memory, log_failure, log_from
from kaggle_hw4.training.schedules import validation_steps
from kaggle_hw4.training.stopping import Stopped, locked, stopping
from kaggle_hw4.training.trainer import Diverged, State, Trainer
from kaggle_hw4.version import code_version
from kaggle_hw4.workspace import Workspace, atomic_path, file_hash

_LEAST_SHARE = 0.1  # of the steps: a training cut before has hardly begun, and names no speaker


def announce(workspace: Workspace, jobs: list[Job], store: Store, folds: Folds) -> None:
    """Record jobs that will be done, so that `watch` shows them waiting; one that is being done is left alone.

    Of one that is done already the checkpoints are removed, which it has when it was killed at its very end.
    """
    for job in jobs:
        run = run_of(workspace, job)
        if run.finished and not checkpoints_of([run]):
            continue
        with suppress(Stopped), locked(run, lambda: True):
            claim(run, identity(job, store, folds))
            for path in checkpoints_of([run]) if run.finished else []:
                path.unlink()


def do_jobs(
    workspace: Workspace,
    jobs: list[Job],
    store: Store,
    folds: Folds,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
    until: float | None = None,
    logs: Sequence[str] = (),
) -> dict[Job, HW4Error]:
    """Train `jobs`, all of one variant, together from their checkpoints to the end, and write their artefacts.

    Finished ones are left alone. Two processes never do the same job: the second waits, and finds
    it done. A training that has not come to its end at `until` (`time.monotonic`) ends there. `logs` are
    those wanted besides `log.jsonl` (see `check_logs`). Returns the jobs that are not done: their loss or logits are
    not finite, and the others go on without them; or `until` came before a tenth of their steps (PendingError).

    Raises:
        Stopped: `should_stop()` became true.
        DataError: a run's folder was made from something else, or cannot be written.
        torch.OutOfMemoryError, MemoryError: `work` then tries fewer at once.
    """
    failures: dict[Job, HW4Error] = {}
    with ExitStack() as locks:
        # Always in the same order: two commands never wait for each other.
        for job in sorted(jobs, key=str):
            locks.enter_context(locked(run_of(workspace, job), should_stop))
            claim(run_of(workspace, job), identity(job, store, folds))
        todo = [job for job in jobs if not run_of(workspace, job).finished]
        for job in todo:
            forget_failure(run_of(workspace, job))
        try:
            with memory_errors():
                frames = Frames(store, device)
                parts = saved_groups(workspace, todo, store, folds)
                left = [sum(job.variant.steps for job in together) - _steps(states) for together, states in parts]
                for number, (together, states) in enumerate(parts):
                    end = part_of(until, left[number], sum(left[number + 1 :]))
                    failures |= _Training(workspace, together, states, store, folds, frames, should_stop, logs).run(end)
        except Stopped:
            raise
        except Exception as error:
            if len(jobs) > 1 and isinstance(error, torch.OutOfMemoryError | MemoryError):
                raise  # none has failed: fewer at once may fit
            for job in todo:
                log_failure(run_of(workspace, job), error)
            raise
    return failures


def _steps(states: list[State]) -> int:
    return sum(int(state["step"]) for state in states)


def _validated(run: Run, step: int) -> bool:
    return any(line["step"] == step and "accuracy" in line for line in run.log_lines())


def part_of(until: float | None, mine: float, others: float) -> float | None:
    """When (`time.monotonic`) the first of several parts has to end, if the others are done after it until `until`."""
    if until is None:
        return None
    now = time.monotonic()
    return now + (until - now) * mine / max(mine + others, 1)


class _Training:
    """Jobs that stand at the same step, in training together."""

    def __init__(
        self,
        workspace: Workspace,
        jobs: list[Job],
        states: list[State],
        store: Store,
        folds: Folds,
        frames: Frames,
        should_stop: Callable[[], bool],
        logs: Sequence[str],
    ) -> None:
        self.jobs = jobs
        self.runs = [run_of(workspace, job) for job in jobs]
        self.store, self.folds, self.frames = store, folds, frames
        self.should_stop, self.logs = should_stop, logs
        self.trainer = self._trainer(states)

    def _trainer(self, states: list[State]) -> Trainer:
        v = self.jobs[0].variant
        samplers = [
            CropSampler(self.store, self.folds.training_rows(job.fold), crop=v.crop, batch=v.batch, seed=job.torch_seed)
            for job in self.jobs
        ]
        trainer = Trainer(v, self.frames, samplers, [job.torch_seed for job in self.jobs])
        if states:
            try:
                trainer.restore(states)
            except (KeyError, ValueError, RuntimeError) as error:
                where = checkpoints_of(self.runs)[0]
                raise DataError(
                    f"{where} does not fit this version of kaggle-hw4: {error}", start_over(self.runs)
                ) from error
        return trainer

    def run(self, until: float | None) -> dict[Job, HW4Error]:
        """Train to the end, or `until`, and write the artefacts; gives the jobs that are not done, and why."""
        failures: dict[Job, HW4Error] = {}
        while self.jobs:
            try:
                self._fit(until)
                break
            except PendingError as error:
                return failures | dict.fromkeys(self.jobs, error)
            except Diverged as error:
                for m in error.models:
                    failures[self.jobs[m]] = DataError(str(error), GENTLER)
                    log_failure(self.runs[m], error)
                healthy = [m for m in range(len(self.jobs)) if m not in error.models]
            # Out of the except, whose traceback holds the trainer: the GPU need not hold two.
            states = [self.trainer.state(m) for m in healthy]
            self.jobs, self.runs = [self.jobs[m] for m in healthy], [self.runs[m] for m in healthy]
            del self.trainer
            if healthy:
                self.trainer = self._trainer(states)
            del states  # they would stay on the GPU as long as the training
        for m, job in enumerate(self.jobs):
            try:
                self._finish(m)
            except UnusableModel as error:
                failures[job] = error
                log_failure(self.runs[m], error)
        return failures

    def _fit(self, until: float | None) -> None:
        """Train to the end, or `until`. Raises Stopped, Diverged, or PendingError when that is too early."""
        trainer, device = self.trainer, self.frames.device
        forget_peak(device)
        with ExitStack() as files:
            logs = [files.enter_context(log_from(run, trainer.step, self.logs)) for run in self.runs]

            def log(losses: list[float]) -> None:
                memory = gpu_memory(device)
                for write, loss in zip(logs, losses, strict=True):
                    line = {"step": trainer.step, "loss": round(loss, 5), "seconds": round(trainer.seconds, 2)}
                    write(line | memory)

            def validate() -> None:
                tick = stopping(self.should_stop)
                for m, job in enumerate(self.jobs):
                    if _validated(self.runs[m], trainer.step):
                        continue  # before a stop
                    held_out = self.folds.validation_rows(job.fold)
                    try:
                        logits = predict(trainer.averaged(m), self.frames, held_out, tick)
                    except Stopped:
                        return  # the loop sees it too, and writes its checkpoint
                    share = accuracy(logits, self.store.labels[held_out])
                    logs[m]({"step": trainer.step, "accuracy": round(share, 5)})

            held_out = max(int(self.store.lengths[self.folds.validation_rows(job.fold)].sum()) for job in self.jobs)
            looks = validation_steps(trainer.variant, held_out)
            if trainer.step in looks:  # a stop may have come during the validation
                validate()
                if self.should_stop():
                    raise Stopped(", ".join(map(str, self.jobs)))
            if not trainer.fit(
                save=self._save,
                log=log,
                validate=validate,
                validate_after=looks,
                should_stop=self.should_stop,
                until=until,
            ):
                raise Stopped(", ".join(map(str, self.jobs)))
            if trainer.step < _LEAST_SHARE * trainer.variant.steps:
                raise PendingError(
                    f"the time is up after {trainer.step:,} of {trainer.variant.steps:,} steps",
                    "Run the same command again: it goes on from the checkpoints.",
                )

    def _save(self) -> None:
        for m, (job, run) in enumerate(zip(self.jobs, self.runs, strict=True)):
            made_from = identity(job, self.store, self.folds)["hash"]
            next_checkpoint(run, self.trainer.state(m) | {"run": made_from})

    def _finish(self, m: int) -> None:
        """Write what is left of job `m`: weights, logits, result."""
        job, run = self.jobs[m], self.runs[m]
        model = self.trainer.averaged(m)
        with atomic_path(run.weights) as temporary:
            made_from = json.dumps(identity(job, self.store, self.folds))
            temporary.write_bytes(save(model.state_dict(), {"run": made_from}))
        training = {
            "steps": self.trainer.step,
            "train_seconds": round(self.trainer.seconds, 1),
            "together": len(self.jobs),
            "precision": str(self.trainer.dtype).removeprefix("torch."),
            "hardware": hardware(self.frames.device),
            "torch": torch.__version__,
            "code": code_version(),
            "weights": file_hash(run.weights),
        }
        write_logits(run, model, job, self.folds, self.frames, training, stopping(self.should_stop))
        for path in checkpoints_of([run]):
            path.unlink()
