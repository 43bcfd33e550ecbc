"""How a training goes, line by line: into `log.jsonl`, and into whatever else is asked for."""

import json
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from kaggle_hw4.errors import UsageError, first_line
from kaggle_hw4.progress import read_progress
from kaggle_hw4.runs import Run
from kaggle_hw4.workspace import write_text

Line = dict[str, Any]  # `step`, and figures by their names; `seconds` are those spent training


class Log(Protocol):
    """Something that takes the lines of one training, first those from before it was resumed."""

    def write(self, line: Line) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`log.jsonl`, which has the lines from before already."""

    def __init__(self, run: Run) -> None:
        self._file = open(run.log, "a", encoding="utf-8")  # noqa: SIM115 - open while the training runs

    def write(self, line: Line) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files in the run's folder `tensorboard`; the clock of their points counts the time spent training."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # The lines from before come again, so that nothing is missing when an earlier session did without.
        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=0, flush_secs=10)
        self._began, self._seconds = time.time(), 0.0

    def write(self, line: Line) -> None:
        """Every finite figure of the line as a scalar at its step."""
        self._seconds = line.get("seconds", self._seconds)
        for name, value in line.items():
            if name not in ("step", "seconds") and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(name, value, line["step"], walltime=self._began + self._seconds)

    def close(self) -> None:
        self._writer.close()


_LOGS: dict[str, Callable[[Run], Log]] = {"tensorboard": TensorBoard}  # each needs the package of its name


def check_logs(names: Sequence[str]) -> None:
    """Raises UsageError for a log that does not exist, or whose package is not installed."""
    for name in names:
        if name not in _LOGS:
            raise UsageError(f"no log {name!r}", f"There are: {', '.join(_LOGS)}.")
        if find_spec(name) is None:
            raise UsageError(f"{name} is not installed", f"Run: pip install 'kaggle-hw4[{name}]'")


@contextmanager
def log_from(run: Run, step: int, also: Sequence[str]) -> Iterator[Callable[[Line], None]]:
    """Go on with the run's logs, `log.jsonl` and those named, from the checkpoint at `step`."""
    kept = [line for line in run.log_lines() if line["step"] <= step and not {"host", "failure"} & line.keys()]
    before = [{"step": step, "host": socket.gethostname()}, *kept]
    # What was logged after the checkpoint is gone, it comes again; on a full disk, or killed, what was there is kept.
    write_text(run.log, "".join(json.dumps(line) + "\n" for line in before))
    with ExitStack() as files:
        logs: list[Log] = []
        for make in (*(_LOGS[name] for name in also), JsonLines):
            logs.append(make(run))
            files.callback(logs[-1].close)

        def write(line: Line) -> None:
            for log in logs:
                log.write(line)

        for line in before:
            for log in logs[:-1]:
                log.write(line)
        yield write


def log_failure(run: Run, error: Exception) -> None:
    """Note in the log of an unfinished run why its training gave up, for those who were not there to read it."""
    progress = read_progress(run)
    if run.finished or progress.failure:
        return
    reason = first_line(error)
    with suppress(OSError), open(run.log, "a", encoding="utf-8") as file:  # the disk may be what failed
        file.write(json.dumps({"step": progress.step, "failure": reason}) + "\n")


def forget_failure(run: Run) -> None:
    """Take what `log_failure` noted out of the log: the training is tried again."""
    if read_progress(run).failure:
        lines = [line for line in run.log_lines() if "failure" not in line]
        write_text(run.log, "".join(json.dumps(line) + "\n" for line in lines))


def gpu_memory(device: torch.device) -> Line:
    """The most that this process held of the GPU's memory since `forget_peak`, in bytes; nothing on a CPU."""
    return {"gpu_memory": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
