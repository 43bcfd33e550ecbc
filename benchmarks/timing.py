"""A clock, and processes that take turns being timed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.competition import Sizes

Task = Callable[[], list[float]]  # does one round; returns seconds, one figure per repeat


def timed(work: Callable[[], object], *, repeats: int = 1, together: int = 1) -> list[float]:
    """Wall time of one call, `repeats` times over: each is the mean of as many calls as are timed `together`."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(together):
            work()
        seconds.append((time.perf_counter() - began) / together)
    return seconds


class Side:
    """A process with an environment of its own that does the tasks it is asked for, and sleeps otherwise."""

    def __init__(self, name: str, folder: Path, sizes: Sizes, device: str, environment: dict[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(folder), json.dumps(asdict(sizes)), device],
            cwd=Path(__file__).resolve().parents[1],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        self._answer()

    def do(self, task: str) -> list[float]:
        """The times of one round of `task`. Raises RuntimeError when the process died."""
        assert self._process.stdin is not None
        print(task, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmark's {self.name} process ended with {self._process.wait()}")
        return json.loads(line)
