"""Faults of the machine: kills at any moment, a full disk, flipped bits, cut files, a clock that jumps."""

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from jobs_done import Session, after, copy_of, small
from safetensors.torch import load_file

from kaggle_hw4.data.store import open_store
from kaggle_hw4.ensemble.blend import make_ensemble
from kaggle_hw4.ensemble.members import load_member
from kaggle_hw4.ensemble.recorded import read_record
from kaggle_hw4.ensemble.submission import recorded_name
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import load_folds
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.runs import Job, Run, run_of
from kaggle_hw4.training.artefacts import trained_model
from kaggle_hw4.training.checkpoints import load_checkpoint, save_checkpoint
from kaggle_hw4.training.stopping import Stopped
from kaggle_hw4.workspace import storage_errors, write_text


def survived(script: str, option: str, count: int) -> int:
    """How much a script beside this file says that it survived."""
    command = [sys.executable, str(Path(__file__).with_name(script)), option, str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) (kills|full disks) survived", done.stdout)
    assert found, done.stdout
    return int(found[1])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, with threads about")
@pytest.mark.parametrize("kills", [10, pytest.param(120, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_end_is_the_same_bit_by_bit(kills: int) -> None:
    assert survived("kills.py", "--kills", kills) >= 0.8 * kills  # a submission that is made cannot be killed any more


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
@pytest.mark.parametrize("most", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_write_ends_a_command_cleanly_and_it_goes_on_with_room(most: int) -> None:
    assert survived("full_disk.py", "--most", most) >= min(most, 10) * 4


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    folder, file = tmp_path / "log.jsonl", tmp_path / "folds"
    folder.mkdir()
    file.touch()
    with pytest.raises(DataError, match=f"^{re.escape(str(folder))}: Is a directory"), storage_errors(tmp_path):
        folder.read_bytes()
    with pytest.raises(DataError, match=f"^{re.escape(str(folder))}: Is a directory"):
        write_text(folder, "a line")
    with pytest.raises(DataError, match=f"^{re.escape(str(file))}: File exists"):
        write_text(file / "folds.json", "{}")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_what_cannot_be_written_is_said_by_name_and_what_was_there_stays(
    session: Session, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A disk that is read-only, a file or a folder that is."""
    monkeypatch.setattr("kaggle_hw4.training.trainer.CHECKPOINT_SECONDS", 0.0)
    job = Job("sample", small("sample"), 0, 0)
    with pytest.raises(Stopped):
        session.do(job, after(5))
    run = run_of(session.workspace, job)
    before = run.checkpoint.read_bytes()

    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(DataError, match=re.escape(f"cannot be written ({os.strerror(code)})")) as error:
            session.do(job)
        assert "--root" in error.value.remedy
    assert run.checkpoint.read_bytes() == before
    assert session.do(job).finished


# --- damaged artefacts -------------------------------------------------------------------------


def trained(root: Path) -> Session:
    """A member of three folds that has an ensemble, and a training that was stopped."""
    tiny.store(root)
    session = Session(root)
    for fold in range(3):
        session.do(Job("sample", small("sample"), 0, fold))
    make_ensemble(session.workspace, session.store, session.folds, ["sample-s0"], method="equal")
    with pytest.raises(Stopped):
        session.do(stopped(), after(5))
    Ledger(session.workspace.ledger).add(
        Row("hw4-1", tiny.SLUG, "n", "f.csv", "abc", "2023-04-01T00:00:00Z", "sent", 7)
    )
    return session


def stopped() -> Job:
    return Job("sample", small("sample"), 1, 0)


def run_0(s: Session) -> Run:
    return Run(s.workspace.runs / "sample-s0" / "fold0")


def csv(s: Session) -> Path:
    return next(s.workspace.submissions.glob("*.csv"))


def load(s: Session) -> Any:
    return load_member(s.workspace, s.store, s.folds, "sample-s0")


# By name: the file, how it is used, and the command that brings it back.
ARTEFACTS: dict[str, tuple[Callable[[Session], Path], Callable[[Session], Any], str]] = {
    "frames": (lambda s: s.store.folder / "frames.bin", lambda s: open_store(s.store.folder).frames, "data"),
    "index": (lambda s: s.store.folder / "index.csv", lambda s: open_store(s.store.folder), "data"),
    "store": (lambda s: s.store.folder / "store.json", lambda s: open_store(s.store.folder), "data"),
    "folds": (
        lambda s: s.workspace.folds_file,
        lambda s: load_folds(s.store, s.workspace.folds_file),
        "folds",
    ),
    "record": (lambda s: run_0(s).record, load, "train"),
    "result": (lambda s: run_0(s).result, load, "train"),
    "oof": (lambda s: run_0(s).oof, load, "predict"),
    "test": (lambda s: run_0(s).test, load, "predict"),
    "weights": (
        lambda s: run_0(s).weights,
        lambda s: trained_model(s.workspace, Job("sample", small("sample"), 0, 0), s.store, s.folds),
        "train",
    ),
    "csv": (csv, lambda s: recorded_name(s.workspace, csv(s)), "ensemble"),
    "csv's record": (lambda s: csv(s).with_suffix(".json"), lambda s: read_record(csv(s)), "ensemble"),
}


@pytest.fixture(scope="module")
def session_done(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return trained(tmp_path_factory.mktemp("trained"))


def damaged(content: bytes, rng: np.random.Generator) -> list[bytes]:
    """A bit flipped at each of several places, and the file cut at some."""
    flips = []
    for place in [0, len(content) - 1, *rng.integers(0, len(content), 12).tolist()]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        flips.append(bytes(changed))
    return [*flips, content[: len(content) // 2], content[:-2], b""]


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_damaged_artefact_is_refused_by_name_with_the_command_that_rebuilds_it(
    session_done: Session, name: str
) -> None:
    find, use, command = ARTEFACTS[name]
    path = find(session_done)
    content = path.read_bytes()
    use(session_done)
    try:
        for wrong in damaged(content, np.random.default_rng(len(name))):
            path.write_bytes(wrong)
            with pytest.raises(DataError) as error:
                use(session_done)
            assert path.name in error.value.cause
            assert f"kaggle-hw4 {command}" in error.value.remedy
    finally:
        path.write_bytes(content)


def test_a_damaged_checkpoint_is_refused_or_holds_the_same(session_done: Session) -> None:
    path = run_of(session_done.workspace, stopped()).checkpoint
    whole, content = load_checkpoint(path), path.read_bytes()
    refused = 0
    for wrong in damaged(content, np.random.default_rng(0)):
        path.write_bytes(wrong)
        try:
            found = load_checkpoint(path)
        except DataError:
            refused += 1
            continue
        for key, value in whole.items():  # the bit was of a time, or of padding
            same = torch.equal(value, found[key]) if isinstance(value, torch.Tensor) else str(value) == str(found[key])
            assert same, key
    path.write_bytes(content)
    assert refused >= 10


def test_from_a_damaged_checkpoint_training_goes_on_from_the_previous_one(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kaggle_hw4.training.trainer.CHECKPOINT_SECONDS", 0.0)
    job = Job("sample", small("sample"), 0, 0)
    undisturbed = copy_of(session, "elsewhere").do(job)
    with pytest.raises(Stopped):
        session.do(job, after(8))
    run = run_of(session.workspace, job)
    steps = [load_checkpoint(path)["step"] for path in (run.checkpoint, run.previous_checkpoint)]
    assert steps[0] > steps[1] > 0
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-100])
    with pytest.raises(Stopped):
        session.do(job, after(2))
    assert "goes on from" in capsys.readouterr().err
    assert load_checkpoint(run.previous_checkpoint)  # the damaged one has not taken its place
    assert session.do(job).weights.read_bytes() == undisturbed.weights.read_bytes()
    assert not run.checkpoint.exists()
    assert not run.previous_checkpoint.exists()


@pytest.mark.parametrize("odd", ["cut", "a list", "laid out otherwise"])
def test_where_no_checkpoint_is_of_use_all_are_named_and_without_them_training_starts_over(
    session: Session, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setattr("kaggle_hw4.training.trainer.CHECKPOINT_SECONDS", 0.0)
    job = Job("sample", small("sample"), 0, 0)
    with pytest.raises(Stopped):
        session.do(job, after(8))
    run = run_of(session.workspace, job)
    both = [run.checkpoint, run.previous_checkpoint]
    for path in both:
        state = load_checkpoint(path)
        if odd == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        elif odd == "a list":
            save_checkpoint(path, [1.0])  # type: ignore[arg-type]
        else:
            save_checkpoint(path, state | {"layout": []})
    with pytest.raises(DataError, match=r"checkpoint\.pt") as error:
        session.do(job)
    assert error.value.remedy.startswith(f"Delete {both[0]}, {both[1]}: this training starts over.")
    for path in both:
        path.unlink()
    assert session.do(job).finished


def test_a_changed_row_of_the_ledger_is_not_believed(session_done: Session) -> None:
    path = session_done.workspace.ledger
    content = path.read_bytes()
    for change in ("ref = 8", "csv_hash = 'abd'", "public = '0.9'", "state = 'complete'"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE submissions SET {change}")
        with pytest.raises(DataError, match=r"'hw4-1' in the ledger is not as it was written") as error:
            Ledger(path).all(tiny.SLUG)
        assert "kaggle-hw4 board --sync" in error.value.remedy
        path.write_bytes(content)
    for wrong in damaged(content, np.random.default_rng(0)):
        path.write_bytes(wrong)
        try:
            rows = Ledger(path).all(tiny.SLUG)
        except DataError:
            continue
        assert [row.id for row in rows] in (["hw4-1"], [])  # nothing at all, when the file is empty
    path.write_bytes(content)


# --- the clock ---------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("sample", small("sample"), 0, 0)
    undisturbed = copy_of(session, "elsewhere").do(job)
    jumps = iter(range(10**9))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e8)
    with pytest.raises(Stopped):
        session.do(job, after(5))
    run = session.do(job)
    assert load_file(run.weights).keys() == load_file(undisturbed.weights).keys()
    assert run.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert 0 <= run.read_result()["train_seconds"] < 60
