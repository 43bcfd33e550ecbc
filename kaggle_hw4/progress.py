"""Where a training stands, by the end of its log: what `train` shows of its jobs, and `watch` of all."""

import os
from dataclasses import dataclass
from typing import Any

from kaggle_hw4.runs import Run, log_line

_TAIL_BYTES = 32_768  # of the log: some 350 lines, so that the last validation is among them
_RATE_LINES = 10  # whose steps and seconds give the speed


@dataclass(frozen=True)
class RunProgress:
    """The last logged figures; None what is not logged yet. `rate` in steps a second, `gpu_memory` in bytes.

    `host` is the machine that trained last, `failure` why it gave up; `damaged`: the log holds what is no line of it.
    """

    step: int = 0
    loss: float | None = None
    accuracy: float | None = None
    rate: float | None = None
    gpu_memory: int | None = None
    host: str | None = None
    failure: str | None = None
    damaged: bool = False


def read_progress(run: Run) -> RunProgress:
    """The end of the run's log, however long it is; a last line that is cut is left out."""
    try:
        with open(run.log, "rb") as file:
            first = log_line(file.readline(_TAIL_BYTES).decode("utf-8", errors="replace")) or {}
            begin = max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES)
            file.seek(begin)
            *texts, cut = file.read().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return RunProgress()
    lines = [log_line(text) for text in texts[1 if begin else 0 :]]
    good = [line for line in lines if line is not None]

    def last(key: str, kind: type | tuple[type, ...]) -> Any:
        return next((line[key] for line in reversed(good) if isinstance(line.get(key), kind)), None)

    number = (int, float)
    return RunProgress(
        step=max((line["step"] for line in good), default=0),
        loss=last("loss", number),
        accuracy=last("accuracy", number),
        rate=_rate(good),
        gpu_memory=last("gpu_memory", int),
        host=first.get("host"),
        failure=good[-1].get("failure") if good else None,
        damaged=None in lines or bool(cut and not cut.startswith("{")),
    )


def _rate(lines: list[dict[str, Any]]) -> float | None:
    timed = [line for line in lines if isinstance(line.get("seconds"), int | float)][-_RATE_LINES:]
    if len(timed) < 2 or timed[-1]["seconds"] <= timed[0]["seconds"]:
        return None
    return float((timed[-1]["step"] - timed[0]["step"]) / (timed[-1]["seconds"] - timed[0]["seconds"]))
