"""`make demo`: the whole way on synthetic voices, through the real commands and the official Kaggle client."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from queue import Queue

from kaggle_hw4.errors import HW4Error
from kaggle_hw4.rehearsal.server import client_environment, serve
from kaggle_hw4.terminal import duration, say
from kaggle_hw4.workspace import storage_errors

# Sized for four minutes on two cores. The real thing: 600 speakers, 5 folds, 70,000 steps.
SPEAKERS, UTTERANCES, FOLDS, STEPS = 20, 16, 3, 90


def main(folder: Path = Path("demo")) -> int:
    """Run the demo in `folder`; gives the exit code of the first command that fails, else 0."""
    try:
        with storage_errors(folder):
            return _demo(folder)
    except HW4Error as error:
        say(f"error: {error}")
        return error.exit_code


def _demo(folder: Path) -> int:
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    kaggle, home = folder / "kaggle", folder / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    environment["KAGGLE_HW4_ROOT"] = str(folder)

    _tell("A competition of synthetic voices, served on this machine in Kaggle's place:")
    made = _run(f"rehearsal make {kaggle.as_posix()} --speakers {SPEAKERS} --utterances {UTTERANCES}", environment)
    if made:
        return made
    environment |= client_environment(_start_server(kaggle), home.resolve())

    for comment, command in (
        ("The archive, through Kaggle's own client, checked and packed:", "data"),
        ("A speaker-stratified split:", f"folds --k {FOLDS}"),
        ("Four variants on every fold, a few steps each:", f"train --fold all --steps {STEPS}"),
        ("The ensemble, sent at most once, waited for and recorded:", "submit"),
        ("Cross-validation and leaderboard side by side:", "board"),
        ("All of it in pictures:", "report"),
    ):
        _tell(comment)
        if code := _run(command, environment):
            return code
    _tell(f"Done in {duration(time.monotonic() - began)}. Look at:")
    sent = max((folder / "submissions").glob("*.csv"), key=lambda path: path.stat().st_mtime)
    for path, what in (
        (folder / "report.html", "the pictures: open it in a browser"),
        (sent, "what was sent"),
        (sent.with_suffix(".json"), "what it was made from"),
        (folder / "runs" / "conformer-full-s0" / "fold0", "a training: record, log, weights, logits, result"),
        (folder / "folds" / "folds.json", "the split"),
        (kaggle / "labels.csv", "the answers, which a real competition keeps"),
    ):
        print(f"  {path!s:<42} {what}")
    print("These are synthetic voices: their scores say nothing about the real competition.")
    activate = "" if os.environ.get("VIRTUAL_ENV") else "source .venv/bin/activate; "
    print(f"To look around in it: {activate}export KAGGLE_HW4_ROOT={folder}; kaggle-hw4 board")
    print(f"Once more from the start: rm -r {folder} && make demo", flush=True)
    return 0


@cache
def _start_server(folder: Path) -> int:
    """Serve `folder` until this process ends; gives the port."""
    ready: Queue[int | Exception] = Queue()

    def work() -> None:
        try:
            serve(folder, on_ready=ready.put)
        except Exception as error:
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    port = ready.get(timeout=60)
    if isinstance(port, Exception):
        raise port
    return port


def _tell(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _run(command: str, environment: dict[str, str]) -> int:
    print(f"$ kaggle-hw4 {command}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "kaggle_hw4", *shlex.split(command)], env=environment)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the command was interrupted as well, and ends when its checkpoints are written
                continue
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
