"""`watch`: every state of a job, terminals of every size, files that a kill or a copy left behind."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from filelock import FileLock
from jobs_done import Session, small
from rich.console import Console

from kaggle_hw4 import watch
from kaggle_hw4.errors import DataError
from kaggle_hw4.runs import Job, Run, run_of
from kaggle_hw4.training.logs import gpu_memory
from kaggle_hw4.training.session import announce
from kaggle_hw4.training.stopping import Stopped
from kaggle_hw4.variants import variant
from kaggle_hw4.watch import STATES, JobStatus, Watch
from kaggle_hw4.watch_views import watch_view
from kaggle_hw4.workspace import Workspace, write_json

STEPS = variant("sample").steps
LOG = [
    {"step": 0, "host": os.uname().nodename},
    {"step": 100, "loss": 3.25, "seconds": 10.0, "gpu_memory": 3 * 10**9},
    {"step": 200, "loss": 2.5, "seconds": 20.0, "gpu_memory": 3 * 10**9},
    {"step": 200, "accuracy": 0.4321},
]


def begun(root: Path, fold: int, log: list[dict[str, Any]] | bytes | None = None, name: str = "sample") -> Run:
    """A run with its record, and a log where one is given."""
    job = Job(name, variant("sample"), 0, fold)
    run = run_of(Workspace(root), job)
    made_from = {"variant": name, "recipe": job.variant.recipe(), "seed": 0, "fold": fold, "data": "d"}
    write_json(run.record, made_from)
    if log is not None:
        run.log.write_bytes(log if isinstance(log, bytes) else b"".join(json.dumps(x).encode() + b"\n" for x in log))
    return run


def seen(root: Path) -> dict[str, JobStatus]:
    return {job.name: job for job in Watch(Workspace(root)).look()}


def old(run: Run, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(run.log, (then, then))


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="locks are seen on Linux only")
def test_every_state_is_told_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path, 0)
    begun(tmp_path, 1, LOG)
    at_work, stalled, last = begun(tmp_path, 2, LOG), begun(tmp_path, 3, LOG), {"step": STEPS, "loss": 1.0}
    old(stalled, 3600)
    predicting = begun(tmp_path, 4, [*LOG, last])
    begun(tmp_path, 5, [*LOG, {"step": 200, "failure": "the loss is nan"}])
    done = begun(tmp_path, 6, [*LOG, last])
    write_json(done.result, {"steps": STEPS - 1, "accuracy": 0.75})
    begun(tmp_path, 7, LOG).record.write_text('{"variant": "sam')
    with FileLock(at_work.lock), FileLock(stalled.lock), FileLock(predicting.lock):
        # Nobody is made to wait: looking takes no lock.
        monkeypatch.setattr(fcntl, "flock", lambda *arguments: pytest.fail("a lock was taken"))
        jobs = seen(tmp_path)
        monkeypatch.undo()
    assert [job.state for job in jobs.values()] == list(STATES)
    by_state = {job.state: job for job in jobs.values()}
    assert {state: job.name[-1] for state, job in by_state.items()} == {
        "waiting": "0",
        "interrupted": "1",
        "running": "2",
        "stalled": "3",
        "predicting": "4",
        "failed": "5",
        "finished": "6",
        "damaged": "7",
    }
    running = by_state["running"]
    assert (running.step, running.steps, running.loss, running.accuracy) == (200, STEPS, 2.5, 0.4321)
    assert running.rate == pytest.approx(10)
    assert running.left == pytest.approx((STEPS - 200) / 10)
    assert running.gpu_memory == 3 * 10**9
    assert (by_state["finished"].step, by_state["finished"].accuracy) == (STEPS - 1, 0.75)
    assert by_state["failed"].note == "the loss is nan"
    assert "written nothing for 60 min" in by_state["stalled"].note
    assert "run.json cannot be read" in by_state["damaged"].note
    assert by_state["interrupted"].note == by_state["waiting"].note == ""


@pytest.mark.parametrize("host", ["another machine", os.uname().nodename])
def test_where_locks_cannot_be_seen_what_was_written_last_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    run = begun(tmp_path, 0, [{"step": 0, "host": host}, *LOG[1:]])
    run.lock.touch()
    if host == os.uname().nodename:
        monkeypatch.setattr(watch, "locked_files", lambda: None)
    assert seen(tmp_path)["sample-s0 fold 0"].state == "running"
    old(run, 3600)
    job = seen(tmp_path)["sample-s0 fold 0"]
    assert job.state == "interrupted"
    assert f"60 min ago by {host}; whether it still runs cannot be seen" in job.note


def test_a_real_training_is_seen_waiting_running_and_finished(session: Session) -> None:
    jobs = [Job("sample", small("sample"), 0, fold) for fold in (0, 1)]
    announce(session.workspace, jobs, session.store, session.folds)
    look = Watch(session.workspace).look
    assert [job.state for job in look()] == ["waiting", "waiting"]
    during: list[list[str]] = []

    def looked() -> bool:
        during.append([job.state for job in look()])
        return False

    session.do(jobs[0], looked)
    assert during[0] == ["running", "waiting"]
    assert [job.state for job in look()] == ["waiting", "finished"]
    with pytest.raises(Stopped):
        session.do(jobs[1], lambda: True)
    assert [job.state for job in look()] == ["interrupted", "finished"]


def test_a_training_that_gave_up_says_why_until_it_is_tried_again(session: Session) -> None:
    look = Watch(session.workspace).look
    bad = Job("sample", small("sample", lr=1e30, clip=1e30), 0, 0)
    with pytest.raises(DataError):
        session.do(bad)
    assert re.match(r"the loss is nan at step \d+ \(learning rate", look()[0].note)
    hindered = Job("sample", small("sample"), 1, 0)
    run_of(session.workspace, hindered).oof.mkdir(parents=True)
    with pytest.raises(DataError):
        session.do(hindered)
    (failed,) = [job for job in look() if job.name == "sample-s1 fold 0"]
    assert failed.state == "failed"
    assert "oof.npy: Is a directory" in failed.note
    with FileLock(run_of(session.workspace, hindered).lock):  # as long as others of its group train
        (failed,) = [job for job in look() if job.name == "sample-s1 fold 0"]
        assert failed.state == "failed"
    run_of(session.workspace, hindered).oof.rmdir()
    assert not any("failure" in line for line in session.do(hindered).log_lines())
    assert [job.state for job in look()] == ["failed", "finished"]


@pytest.mark.parametrize(
    ("log", "step", "damaged"),
    [
        (b"", 0, False),
        (b'{"step": 20, "loss": 1.5, "seconds": 1}\n{"step": 40, "lo', 20, False),  # being written, or cut by a kill
        (b'{"step": 20, "loss": 1.5, "seconds": 1}\n\x00\xff\xfe garbage\n{"step": 40, "loss": 1}\n', 40, True),
        (b'{"step": 20}\n[1, 2]\n7\n{"loss": 3}\n{"step": "x"}\n', 20, True),
        (bytes(range(256)) * 40, 0, True),
        (b'{"step": 20, "loss": "high", "seconds": null, "accuracy": []}\n', 20, False),
        (b'{"step": 1, "loss": 1.0}\n' * 5000 + b'{"step": 60, "loss": 0.5}\n', 60, False),
    ],
)
def test_a_log_of_any_kind_is_read_as_far_as_it_goes(tmp_path: Path, log: bytes, step: int, damaged: bool) -> None:
    run = begun(tmp_path, 0, log)
    (job,) = seen(tmp_path).values()
    assert job.step == step
    assert ("log.jsonl is damaged" in job.note) == damaged
    assert job.state in ("interrupted", "waiting")
    assert all(isinstance(line["step"], int) for line in run.log_lines())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"steps": 3', "\x00\x01"])
@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_damaged_file_is_named_and_hides_nothing_else(tmp_path: Path, name: str, content: str) -> None:
    begun(tmp_path, 0, LOG)
    (begun(tmp_path, 1, LOG).folder / name).write_text(content)
    jobs = seen(tmp_path)
    assert jobs["sample-s0 fold 0"].state == "interrupted"
    assert jobs["sample-s0 fold 1"].state == "damaged"
    assert name in jobs["sample-s0 fold 1"].note
    assert run("watch", root=tmp_path).exit_code == 0


def test_runs_from_elsewhere_are_shown_as_such(tmp_path: Path) -> None:
    write_json(tmp_path / "data" / "store" / "store.json", {"hash": "other"})
    begun(tmp_path, 0, LOG).folder.rename(tmp_path / "runs" / "sample-s0" / "fold9")
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "budget.json").write_text("{}")
    (job,) = seen(tmp_path).values()
    assert job.name == "sample-s0 fold 9"
    assert "made as sample-s0 fold 0; made from other data than the workspace's" in job.note


def many(members: int, folds: int) -> Iterator[JobStatus]:
    for number in range(members * folds):
        member, fold = divmod(number, folds)
        state = STATES[number % len(STATES)]
        note = "something is wrong with it, and it takes a long sentence to say what exactly that is " * 2
        yield JobStatus(
            name=f"transformer-simple-with-everything-s{member} fold {fold}",
            folder="f",
            state=state,
            step=69_930 + number % 70,
            steps=70_000,
            loss=10 + number / 1000,
            accuracy=number / 1000,
            rate=1234.5,
            left=3600 * 27 + number,
            gpu_memory=78 * 10**9 + number * 10**7,
            written=time.time() - 3600 * number,
            note=note if state in ("failed", "damaged") else "",
        )


def rendered(jobs: list[JobStatus], width: int, height: int | None) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(watch_view(jobs, console, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "columns"), [(60, 4), (80, 5), (160, 10)])
@pytest.mark.parametrize("height", [None, 24])
def test_no_line_is_too_long_and_no_figure_is_cut(width: int, columns: int, height: int | None) -> None:
    jobs = sorted(many(3, 5), key=lambda job: STATES.index(job.state))
    lines = rendered(jobs, width, height)
    assert max(map(len, lines)) <= width
    assert height is None or len(lines) <= height
    top = next(number for number, line in enumerate(lines) if line.startswith("job "))
    names = lines[top].split()
    assert names[1] == "state"
    assert {"acc", "left"} <= set(names)
    assert len(names) >= columns
    rows = list(takewhile(lambda line: not line.startswith("…"), lines[top + 1 :]))[: len(jobs)]
    assert len(rows) >= 5
    for job, row in zip(jobs, rows, strict=height is None):
        figures = {
            "%": f"{100 * job.step // 70_000}",
            "step": f"{job.step:,}/70,000",
            "loss": f"{job.loss:.3f}",
            "acc": f"{job.accuracy:.4f}",
            "steps/s": "1234.5",
            "left": f"27:00:{jobs and int(job.left or 0) - 27 * 3600:02}",
        }
        assert f" {job.state} " in row
        assert row.startswith("trans")
        assert job.name[-2:] in row  # the fold, which is a figure as well
        for column in set(names) & set(figures):
            assert re.search(rf"(?<!\S){re.escape(figures[column])}(?!\S)", row), (column, row)
    if width == 160:
        assert "78 GB" in rows[0] or "78.0 GB" in rows[0]
        assert jobs[0].name in rows[0]


def test_five_hundred_jobs_fit_a_terminal_and_the_hidden_ones_are_counted() -> None:
    jobs = sorted(many(100, 5), key=lambda job: STATES.index(job.state))
    lines = rendered(jobs, 80, 24)
    assert len(lines) <= 24
    assert lines[0].startswith("500 jobs: 63 running, 63 predicting")
    text = " ".join(lines)
    shown = [line for line in lines if line.startswith("trans") and " running " in line]
    (hidden,) = re.findall(r"… and (\d+) more: ((?:\d+ [a-z]+(?:, )?)+)", text)
    assert int(hidden[0]) + len(shown) == 500
    assert sum(map(int, re.findall(r"\d+", hidden[1]))) + len(shown) == 500
    assert any("more remarks" in line for line in lines)


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_runs = [begun(tmp_path, fold, LOG) for fold in range(20)]
    read: list[Run] = []
    real = watch.read_progress
    monkeypatch.setattr(watch, "read_progress", lambda run: read.append(run) or real(run))
    look = Watch(Workspace(tmp_path)).look
    assert len(look()) == len(read) == 20
    read.clear()
    with open(all_runs[7].log, "a", encoding="utf-8") as file:
        file.write('{"step": 300, "loss": 2.0, "seconds": 30}\n')
    assert max(job.step for job in look()) == 300
    assert read == [all_runs[7]]


def test_the_command_shows_a_table_or_json_and_what_to_do_where_there_is_nothing(tmp_path: Path) -> None:
    empty = run("watch", root=tmp_path)
    assert empty.exit_code == 0
    assert f"kaggle-hw4 --root {tmp_path} train --fold all" in empty.stdout  # not broken: it is to be copied
    assert json.loads(run("watch", "--json", root=tmp_path).stdout) == []
    assert list(tmp_path.iterdir()) == []
    begun(tmp_path, 10, LOG)
    begun(tmp_path, 9)
    shown = run("watch", "--once", root=tmp_path)
    assert shown.exit_code == 0
    assert "2 jobs: 1 interrupted, 1 waiting" in shown.stdout
    rows = json.loads(run("watch", "--json", root=tmp_path).stdout)
    assert [(row["name"], row["state"], row["step"]) for row in rows] == [
        ("sample-s0 fold 10", "interrupted", 200),
        ("sample-s0 fold 9", "waiting", 0),
    ]
    assert rows[0]["loss"] == 2.5


def in_terminal(command: list[str], columns: int, rows: int, until: Callable[[str], bool]) -> tuple[int, str]:
    """Run a command in a terminal of its own until its output fulfils `until`, then press Ctrl-C."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")} | {"TERM": "xterm"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    output, pressed, deadline = "", False, time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break  # the terminal is closed: the command has ended
        output += piece.decode(errors="replace")
        if until(output) and not pressed:
            os.killpg(process.pid, signal.SIGINT)
            pressed = True
    os.close(master)
    return process.wait(timeout=60), output


def test_live_in_a_terminal_it_ends_with_ctrl_c_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    begun(tmp_path, 0, LOG)
    command = [sys.executable, "-m", "kaggle_hw4", "--root", str(tmp_path), "watch"]
    code, output = in_terminal(command, 80, 24, lambda text: "Ctrl-C ends this view" in text)
    assert code == 0
    assert "Traceback" not in output
    assert "\x1b[?1049h" in output
    screen, after = output.split("\x1b[?1049l")
    assert "1 job: 1 interrupted" in screen
    assert "1 job: 1 interrupted" in after  # what was seen last stays
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # and the cursor


def test_the_memory_of_a_gpu_is_logged_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12345)
    assert gpu_memory(torch.device("cuda")) == {"gpu_memory": 12345}
    assert gpu_memory(torch.device("cpu")) == {}
