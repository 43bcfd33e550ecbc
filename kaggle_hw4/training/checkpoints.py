"""The checkpoints of trainings: written whole, the one before the last kept, believed only if they are of this run."""

import io
from pathlib import Path

import torch

from kaggle_hw4.data.saved import load_saved
from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, first_line
from kaggle_hw4.folds import Folds
from kaggle_hw4.runs import Job, Run, identity, run_of
from kaggle_hw4.terminal import say
from kaggle_hw4.training.trainer import State
from kaggle_hw4.workspace import Workspace, atomic_path


def save_checkpoint(path: Path, state: State) -> None:
    """Write a checkpoint, whole or not at all."""
    buffer = io.BytesIO()  # torch.save reports a full disk as something else than an OSError
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> State:
    """The state saved there, on the CPU. Raises DataError when the file is not a checkpoint."""
    try:
        content = path.read_bytes()
        state: State = load_saved(content, len(content))
        if not isinstance(state, dict) or "run" not in state:
            raise ValueError("it is none of a training")
        return state
    except Exception as error:  # torch.load raises whatever its readers do
        raise DataError(f"{path} cannot be read ({first_line(error)})") from error


def next_checkpoint(run: Run, state: State) -> None:
    """Write a checkpoint, and keep the one before."""
    # Renamed first: a kill while the new one is written costs no more than one before it.
    if run.checkpoint.exists():
        run.checkpoint.replace(run.previous_checkpoint)
    save_checkpoint(run.checkpoint, state)


def saved_groups(
    workspace: Workspace, jobs: list[Job], store: Store, folds: Folds
) -> list[tuple[list[Job], list[State]]]:
    """The jobs in groups that stand at the same step, with the states that they go on from (none at step 0).

    Raises:
        DataError: a checkpoint is of another run, or all of a job's are damaged.
    """
    saved = [_saved(workspace, job, store, folds) for job in jobs]
    least = min((state["step"] if state else 0 for state in saved), default=0)
    groups: dict[int, tuple[list[Job], list[State]]] = {}
    for job, state in zip(jobs, saved, strict=True):
        if state and state["step"] > least:
            state = _before(run_of(workspace, job), state, least)
        members, states = groups.setdefault(state["step"] if state else 0, ([], []))
        members.append(job)
        states += [state] if state else []
    return list(groups.values())


def _before(run: Run, state: State, step: int) -> State:
    """The run's previous checkpoint if it stands at `step`, else `state`.

    A kill between the checkpoints of a group leaves it at two steps: a half minute again, and all train as one. As two
    groups they would take twice as long on a GPU.
    """
    try:
        before = load_checkpoint(run.previous_checkpoint)
    except DataError:
        return state
    return before if (before["run"], before.get("step")) == (state["run"], step) else state


def _saved(workspace: Workspace, job: Job, store: Store, folds: Folds) -> State | None:
    """The job's checkpoint, or the previous one where that is missing or damaged; None when it has neither."""
    run = run_of(workspace, job)
    damaged: list[str] = []
    for path in checkpoints_of([run]):
        try:
            state = load_checkpoint(path)
            break
        except DataError as error:
            damaged.append(error.cause)
    else:
        if damaged:
            raise DataError("; ".join(damaged), start_over([run]))
        return None
    if damaged:
        say(f"{damaged[0]}: {job} goes on from {path}")
        run.checkpoint.unlink()  # or it would become the previous one
    expected = identity(job, store, folds)["hash"]
    if state["run"] != expected:
        there, ours = state.get("architecture"), job.variant.architecture
        cause = f"belongs to the run {state['run']}, not {expected}"
        if there not in (None, ours):
            cause = f"holds another model ({there}) than {job} trains ({ours})"
        raise DataError(f"{path} {cause}", "Delete it: this training goes on from the one before, or starts over.")
    return state


def checkpoints_of(runs: list[Run]) -> list[Path]:
    """Those that are there, of each run the newest first."""
    return [path for run in runs for path in (run.checkpoint, run.previous_checkpoint) if path.exists()]


def start_over(runs: list[Run]) -> str:
    """What to do where checkpoints are of no use: all of them, or the next would be refused in the same way."""
    starts = "these trainings start" if len(runs) > 1 else "this training starts"
    return f"Delete {', '.join(map(str, checkpoints_of(runs)))}: {starts} over."
