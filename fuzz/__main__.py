"""`python -m fuzz TARGET … --seconds N`: no crash, no hang, no memory beyond the limit, only the documented error."""

import argparse
import contextlib
import multiprocessing
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["kaggle_hw4", "zipfile", "tarfile", "json", "pickletools", "numpy.lib"]):
    from fuzz.targets import SCRATCH, TARGETS, bench
from kaggle_hw4.errors import HW4Error

_HANG = 10  # seconds for one input
_MEMORY = 2048  # MiB of the process, of which PyTorch and pandas take 500
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FORBIDDEN = ("os.symlink", "os.link", "os.system", "subprocess.Popen", "socket.connect", "pickle.find_class")


def stays_inside(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: nothing may be written outside the scratch folder, linked, run or unpickled."""
    if event in _FORBIDDEN:
        raise AssertionError(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike) and (arguments[2] or 0) & _WRITES:
        path = Path(os.path.realpath(os.fsdecode(arguments[0])))
        assert path.is_relative_to(SCRATCH), f"{path} was opened to be written"


def _work(target: str, corpus: str, options: list[str], output: Path) -> None:
    """Fuzz in this process, which libFuzzer ends; what it says goes to `output`."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run = TARGETS[target].run

    def one(content: bytes) -> None:
        with contextlib.suppress(HW4Error):
            run(content)

    for i, seed in enumerate(TARGETS[target].seeds()):
        Path(corpus, f"seed{i}").write_bytes(seed)
        one(seed)  # what is imported late, is
    sys.addaudithook(stays_inside)
    atheris.Setup([sys.argv[0], *options, corpus], one)
    atheris.Fuzz()


def fuzz(target: str, seconds: float, seed: int, kept: Path) -> tuple[int, int, float, str]:
    """Inputs tried, MiB taken at most, seconds, and what went wrong ("" for nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, output = Path(folder, "corpus"), Path(folder, "output")
        corpus.mkdir()
        options = [f"-max_total_time={seconds:.0f}", f"-timeout={_HANG}", f"-rss_limit_mb={_MEMORY}", f"-seed={seed}"]
        options += ["-print_final_stats=1", f"-artifact_prefix={kept}/{target}-"]
        began = time.monotonic()
        process = multiprocessing.get_context("fork").Process(target=_work, args=(target, str(corpus), options, output))
        process.start()
        process.join()
        spent, said = time.monotonic() - began, output.read_text(errors="replace")
    found = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    wrong = said[-3000:] if process.exitcode or not found else ""
    return found.get("number_of_executed_units", 0), found.get("peak_rss_mb", 0), spent, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", metavar="TARGET", help=f"all, if none: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=30, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("."), help="where an input that fails is left")
    options = parser.parse_args()
    if unknown := set(options.target) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}")
    bench()  # once for all
    failed = []
    print("| target | inputs | seconds | MiB at most |\n|---|---|---|---|", flush=True)
    for target in options.target or TARGETS:
        inputs, memory, spent, wrong = fuzz(target, options.seconds, options.seed, options.keep)
        print(f"| {target} | {inputs:,} | {spent:.0f} | {memory:,} |", flush=True)
        if wrong:
            failed.append(target)
            print(wrong, file=sys.stderr, flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
