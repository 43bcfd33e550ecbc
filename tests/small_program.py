"""Stands for `kaggle-hw4` and `python` while the pages' commands are tested: the real ones, on small things.

All that is done otherwise than written:
- `train` takes 3 steps, whatever --steps or --budget say, conformer-full where no variant is named, and one worker;
- `rehearsal make` makes 4 speakers of 12 utterances;
- `rehearsal serve` goes on in the background, and what it says to export is set for all that follows;
- `doctor` may find fault with the machine that the tests run on;
- nothing is installed.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["PAGES_STATE"])
SERVED, SERVERS = STATE / "served", STATE / "servers"


def small(words: list[str]) -> list[str]:
    """The arguments, with steps and sizes made small."""
    if "train" in words and "--help" not in words:
        words = words[:]
        for option in ("--steps", "--budget"):
            while option in words:
                place = words.index(option)
                words = words[:place] + words[place + 2 :]
        words += ["--workers", "1"] if "--variant" in words else ["--workers", "1", "--variant", "conformer-full"]
        return words if "--refit" in words else [*words, "--steps", "3"]
    if words[:2] == ["rehearsal", "make"]:
        return [*words, "--speakers", "4", "--utterances", "12"]
    return words


def serve(command: list[str]) -> None:
    """Start a server that outlives this process; its process is named in SERVERS."""
    with open(SERVED, "w") as said:
        server = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL, start_new_session=True)
    with open(SERVERS, "a") as file:
        file.write(f"{server.pid}\n")
    deadline = time.monotonic() + 60
    while "KAGGLE_API_TOKEN" not in SERVED.read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit("the server did not start")
        time.sleep(0.05)
    print(SERVED.read_text(), end="")


def main(program: str, words: list[str]) -> None:
    if words[:2] == ["-m", "pip"]:
        sys.exit("the pages' tests install nothing")
    if SERVED.exists():
        exports = [line.removeprefix("export ") for line in SERVED.read_text().splitlines()]
        os.environ.update(dict(shlex.split(line)[0].split("=", 1) for line in exports))
    module = ["-m", "kaggle_hw4"] if program == "kaggle-hw4" else []
    command = [sys.executable, *module, *small(words)]
    if words[:2] == ["rehearsal", "serve"] and "list" not in words:
        serve(command)
    elif words[-1:] == ["doctor"]:
        code = subprocess.run(command).returncode
        sys.exit(0 if code == 3 else code)
    else:
        os.execv(sys.executable, command)


if __name__ == "__main__":
    main(Path(sys.argv[0]).name, sys.argv[1:])
