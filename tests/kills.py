"""The way from the archive to the score, with every command killed at random moments and started again.

`python tests/kills.py --kills 120` in the environment that `make install` makes (Linux).

Every command runs in a process forked from this one, where all is imported already: it starts in milliseconds, so that
kills fall into its work. Its workers are forked as well, and checkpoints come every 0.3 s of training, not every 30 s.
The rest is the real thing: `data` by download, `train` with two workers, `predict`, `ensemble`, `submit`, and the
rehearsal server in Kaggle's place.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from desk import make_competition
from safetensors.torch import load_file

from kaggle_hw4 import cli, submit
from kaggle_hw4.data.store import open_store
from kaggle_hw4.ensemble.submission import recorded_name
from kaggle_hw4.jobs import local
from kaggle_hw4.jobs.calibrate import Cost
from kaggle_hw4.ledger import Ledger
from kaggle_hw4.rehearsal.server import client_environment, serve
from kaggle_hw4.runs import Run
from kaggle_hw4.training import trainer
from kaggle_hw4.training.checkpoints import load_checkpoint
from kaggle_hw4.version import code_version
from kaggle_hw4.workspace import Workspace, read_json

CHECKPOINT_SECONDS = 0.3
TRAIN = ["train", "--variant", "sample", "--fold", "all", "--steps", "80", "--workers", "2"]
# Each with its share of the kills.
WAY = [(["data"], 0.2), (["folds", "--k", "3"], 0.05), (TRAIN, 0.4), (["predict"], 0.1), (["ensemble"], 0.1)]
WAY += [(["submit"], 0.15)]
MADE = ("data", "folds", "runs")  # folders, by the first three: without them a command starts anew
_LONGEST = 300.0  # seconds for a command that nobody kills
_VOLATILE = ("train_seconds", "source", "file", "checksum")  # of JSON: times, and paths that name the folder


def started(root: Path, command: list[str]) -> int:
    """Start a command in a process group of its own; gives its process id."""
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # as the child does: whoever comes first, a kill finds the group
        return pid
    os.setpgid(0, 0)
    code = 1
    try:
        log = os.open(root.parents[1] / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv[0] = "kaggle-hw4"
        cli.app(["--root", str(root), *command], prog_name="kaggle-hw4")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a process that ends by itself within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        there, status = os.waitpid(pid, os.WNOHANG)
        if there:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


def finish(root: Path, command: list[str]) -> float:
    """Run a command to its end; gives the seconds it took."""
    began = time.monotonic()
    code = ended(started(root, command), _LONGEST)
    assert code == 0, f"{command} ended with {code}:\n" + (root.parents[1] / "output.txt").read_text()[-3000:]
    return time.monotonic() - began


def kill_and_check(root: Path, command: list[str], seconds: float, whole_machine: bool) -> bool:
    """Start a command and kill it after so long; False when it was done before. What it left is checked."""
    done = {path: path.stat().st_mtime_ns for path in root.glob("runs/*/*/result.json")}
    pid = started(root, command)
    if (code := ended(pid, seconds)) is not None:
        assert code == 0, f"{command} ended with {code}:\n" + (root.parents[1] / "output.txt").read_text()[-3000:]
        return False
    if whole_machine:  # with all its workers
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    check_whole(root)
    if command == TRAIN:
        assert done.items() <= {path: path.stat().st_mtime_ns for path in root.glob("runs/*/*/result.json")}.items()
    return True


def check_whole(root: Path) -> None:
    """Raises what a reader raises on an artefact under its final name that is not whole."""
    workspace = Workspace(root)
    if workspace.store.exists():
        assert open_store(workspace.store).frames.any()
    for path in (*root.glob("folds/folds.json"), *root.glob("runs/*/*/*.json"), *root.glob("submissions/*.json")):
        read_json(path, "")
    for folder in root.glob("runs/*/*"):
        run = Run(folder)
        for checkpoint in (run.checkpoint, run.previous_checkpoint):
            _if_there(checkpoint, load_checkpoint)
        _if_there(run.weights, load_file)
        _if_there(run.oof, np.load)
        _if_there(run.test, np.load)
    for csv in root.glob("submissions/*.csv"):
        recorded_name(workspace, csv)
    Ledger(workspace.ledger).all(tiny.SLUG)


def _if_there(path: Path, read: Callable[[Path], Any]) -> None:
    try:
        content = path.read_bytes()  # a worker whose command was killed may still be at it
    except FileNotFoundError:
        return
    copy = Path(tempfile.gettempdir()) / f"{os.getpid()}-{path.name}"
    copy.write_bytes(content)
    read(copy)
    copy.unlink()


def lost_seconds(root: Path) -> float:
    """The most training that is in a log, but not in a checkpoint; the next command does it again."""
    lost = [0.0]
    for folder in root.glob("runs/*/*"):
        run = Run(folder)
        logged = [line["seconds"] for line in run.log_lines() if "seconds" in line]
        if logged and not run.weights.exists():
            checkpoints = [path for path in (run.checkpoint, run.previous_checkpoint) if path.exists()]
            kept = max((load_checkpoint(path)["seconds"] for path in checkpoints), default=0.0)
            lost.append(logged[-1] - kept)
    return max(lost)


def content(root: Path) -> dict[str, Any]:
    """What is left in the end, without what tells the time or the folder."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir() or path.suffix in (".jsonl", ".sqlite") or path.name in (".lock", ".submit.lock"):
            continue
        if name.startswith("data/") and not name.startswith("data/store/"):
            continue  # the archive, and when it came
        found[name] = path.read_bytes()
        if path.suffix == ".json":
            value = json.loads(found[name])
            found[name] = {key: value[key] for key in value if key not in _VOLATILE}
    return found


def prepare() -> None:
    """Make the commands of this process and of those forked from it quick, as said above."""
    torch.set_num_threads(1)
    code_version()  # kept for all of them: the checkout may change while the tests run
    local._CONTEXT = get_context("fork")  # type: ignore[assignment]
    local.LocalEngine.costs = lambda self, jobs: lambda name, v: Cost(0.01, 1, 1)  # type: ignore[method-assign]
    trainer.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
    # How long it is looked for on Kaggle what a killed command may have sent: the server here answers at once.
    submit._SETTLE_SECONDS, submit._LOOKUP_SECONDS, submit._LOOKUP_PAUSE = 0.3, 0.2, 0.1


def assert_same(a: Path, b: Path) -> None:
    """Raises AssertionError, naming files, when not the same is left in two workspaces."""
    one, other = content(a), content(b)
    differ = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    assert not differ, f"the ends differ in {differ}"


def survive(folder: Path, kills: int, seed: int) -> None:
    """Go the way twice, once undisturbed. Raises AssertionError where the ends differ, or anything else is wrong."""
    prepare()
    speakers = make_competition(folder / "kaggle", tiny.files(speakers=6, train=12, test=4))
    calm, rough = folder / "calm" / "root", folder / "rough" / "root"
    for root in (calm, rough):
        root.mkdir(parents=True)
    rng, killed, worst = random.Random(seed), 0, 0.0
    for place, (command, share) in enumerate(WAY):
        use_server(folder, speakers, "calm")
        seconds = finish(calm, command)
        use_server(folder, speakers, "rough")
        wanted = max(1, round(share * kills))
        here = tries = 0
        while here < wanted and tries < 20 * wanted:
            tries += 1
            at = rng.uniform(0, 1.1 * seconds)
            if kill_and_check(rough, command, at, rng.random() < 0.7):
                here += 1
                worst = max(worst, lost_seconds(rough)) if command == TRAIN else worst
            elif command == ["submit"]:
                break  # what is sent is sent
            elif place < len(MADE):
                for name in MADE[place:]:
                    shutil.rmtree(rough / name, ignore_errors=True)
        killed += here
        finish(rough, command)
        print(f"{command[0]:<10} {here} kills in {tries} starts", flush=True)
    assert_same(calm, rough)
    assert not list(rough.rglob("*.tmp")), "a killed process left something behind"
    for name in ("calm", "rough"):
        entries = json.loads((folder / "servers" / name / "kaggle" / "server.json").read_text())
        assert len(entries) == 1, f"{len(entries)} submissions were made"
    assert worst < CHECKPOINT_SECONDS + 5, f"{worst:.1f} s of training were lost at once"
    print(f"{killed} kills survived; at most {worst:.2f} s of training lost, checkpoints every {CHECKPOINT_SECONDS} s")


_servers: dict[str, tuple[int, int]] = {}  # process id and port, by name


def use_server(folder: Path, competition: Path, name: str) -> None:
    """Point the client at a server of this name; it is started when there is none."""
    home = folder / "servers" / name / "home"
    if name not in _servers:
        home.mkdir(parents=True)
        kaggle = shutil.copytree(competition, home.parent / "kaggle")
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            serve(kaggle, on_ready=lambda port: os.write(theirs, b"%d\n" % port) and None)
            os._exit(0)
        os.close(theirs)
        with open(ours) as ready:
            _servers[name] = pid, int(ready.readline())
    os.environ.update(client_environment(_servers[name][1], home))


def stop_server(name: str) -> None:
    os.kill(pid := _servers.pop(name)[0], signal.SIGKILL)
    os.waitpid(pid, 0)


def stop_servers() -> None:
    for name in list(_servers):
        stop_server(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments; default: the time")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="kaggle-hw4-kills-"))
    try:
        survive(folder, options.kills, options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        stop_servers()


if __name__ == "__main__":
    main()
