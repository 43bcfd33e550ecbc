"""`kaggle-hw4 train` and `predict`: what they refuse, plan and say."""

import json
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch
from command_line import refused, run

from kaggle_hw4.runs import Run
from kaggle_hw4.training.stopping import locked
from kaggle_hw4.workspace import write_json


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sample", ["sample takes crops of 128 frames, but the longest labelled utterance has"]),
        ("conformer-ful", ["no variant 'conformer-ful'", "Did you mean conformer-full"]),
    ],
)
def test_a_variant_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, name: str, words: list[str]
) -> None:
    tiny.store(tmp_path, longest=90)
    refused(run("train", "--variant", name, root=tmp_path), 2, *words)
    assert not (tmp_path / "runs").exists()


def test_predicting_where_the_memory_is_taken_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", "--variant", "sample", "--steps", "2", "--workers", "1", root=root).exit_code == 0

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("kaggle_hw4.training.artefacts.predict_again", full)
    refused(run("predict", root=root), 3, "cpu has too little memory: CUDA out of memory", "--device cpu")


def test_a_refit_takes_its_steps_from_cross_validation_and_refuses_without(root: Path) -> None:
    train = ["train", "--variant", "sample"]
    refused(run(*train, "--refit", root=root), 2, "sample-s0 is not trained on fold 0", "--fold all --variant sample")
    refused(run(*train, "--refit", "--steps", "3", root=root), 2, "takes the steps of its cross-validation")
    assert run(*train, "--steps", "3", "--workers", "1", root=root).exit_code == 0
    done = run(*train, "--refit", "--workers", "1", root=root)
    assert done.exit_code == 0, done.output
    assert "sample-s0: all labels; 3 steps" in done.stderr
    assert "without an accuracy of its own" in done.stderr
    assert json.loads((root / "runs" / "sample-s0" / "refit" / "result.json").read_text())["steps"] == 3
    assert run("predict", root=root).exit_code == 0
    assert run("ensemble", root=root).exit_code == 0


def test_a_refit_says_where_the_folds_ended_before_all_of_its_steps(root: Path) -> None:
    train = ["train", "--variant", "sample", "--workers", "1"]
    assert run(*train, "--steps", "3", root=root).exit_code == 0
    assert "early" not in run(*train, "--refit", "--dry-run", root=root).stderr
    result = root / "runs" / "sample-s0" / "fold1" / "result.json"
    write_json(result, json.loads(result.read_text()) | {"steps": 2})
    said = run(*train, "--refit", "--dry-run", root=root).stderr
    assert "sample-s0 ended early on fold 1: its refit takes all 3 steps." in said
    write_json(result, [])
    refused(run(*train, "--refit", "--dry-run", root=root), 3, "result.json is not the result of a run")


def test_folds_of_one_member_have_one_length(root: Path) -> None:
    train = ["train", "--variant", "sample", "--workers", "1"]
    assert run(*train, "--steps", "3", "--fold", "0,1,2", root=root).exit_code == 0
    refused(run(*train, "--steps", "2", "--fold", "4", root=root), 3, "steps 3 there, 2 now", "go on", "--steps 3")
    runs = root / "runs" / "sample-s0"
    assert not (runs / "fold4").exists()
    assert run(*train, "--steps", "3", root=root).exit_code == 0
    shutil.rmtree(runs / "fold4")  # and it comes back as two commands at once can make it
    runs.rename(root / "three")
    assert run(*train, "--steps", "2", "--fold", "4", root=root).exit_code == 0
    (runs / "fold4").rename(root / "three" / "fold4")
    runs.rmdir()
    (root / "three").rename(runs)
    remedy = f"Delete {runs / 'fold4'} and train again: kaggle-hw4 --root {root} train --fold all --variant sample "
    for options in (["--steps", "3"], ["--steps", "2"], ["--refit"]):
        refused(run(*train, *options, root=root), 3, f"{remedy}--steps 3")
    shutil.rmtree(runs / "fold4")
    assert run(*train, "--steps", "3", root=root).exit_code == 0
    assert run(*train, "--refit", "--dry-run", root=root).exit_code == 0


def test_commands_are_named_as_this_one_was_begun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies them gets the same workspace, and the variants of a script of one's own."""
    monkeypatch.setenv("KAGGLE_HW4_ROOT", str(root))
    refused(run("ensemble"), 3, "Run `kaggle-hw4 train --fold all`")  # the environment names it again
    monkeypatch.setattr(sys, "argv", ["my models.py"])
    train = ["train", "--variant", "sample", "--seed", "1", "--steps", "3", "--workers", "1", "--fold", "0"]
    begun = run(*train, root=root)
    own = f"python 'my models.py' --root {root}"
    assert f"Next: {own} train --fold all --variant sample --seed 1 --steps 3\n" in begun.stderr
    refit = ["train", "--variant", "sample", "--seed", "1", "--refit"]
    refused(run(*refit, root=root), 2, f"{own} train --fold all --variant sample --seed 1 --steps 3")
    assert run(*train[:-1], "1,2,3,4", root=root).exit_code == 0
    assert f"Next: {own} submit" in run(*train[:-2], root=root).stderr


def test_what_comes_next_is_not_what_was_just_done(root: Path) -> None:
    train = ["train", "--variant", "sample", "--steps", "2", "--workers", "1"]
    every = run(*train, "--fold", "0,1,2,3,4", root=root)
    assert every.stderr.endswith(f"Next: kaggle-hw4 --root {root} submit\n")
    other = ["--seed", "1", "--fold", "2"]
    left = f"Next: kaggle-hw4 --root {root} train --fold all --variant sample --seed 1 --steps 2\n"
    assert run(*train, *other, root=root).stderr.endswith(left)
    again = run(*train, root=root)  # `submit` would refuse: of the other seed folds are missing
    assert again.stderr.endswith(f"Next: kaggle-hw4 --root {root} ensemble sample-s0\n")
    predicted = run("predict", "sample-s0", root=root)
    assert predicted.stderr.endswith(f"Next: kaggle-hw4 --root {root} ensemble sample-s0\n")
    for command in ("data", "folds"):  # `train --fold all` would be refused: its steps are others
        shown = run(command, root=root)
        assert (shown.exit_code, "Next:" in shown.stderr) == (0, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "conformr-full"], ["Did you mean conformer-full", "transformer-simple"]),
        (["--fold", "5"], ["no fold '5'", "0, 1, 2, 3, 4, all"]),
        (["--fold", "first"], ["no fold 'first'"]),
        (["--fold", "٣"], ["no fold '٣'"]),
        (["--steps", "0"], ["--steps"]),
        (["--workers", "0"], ["--workers"]),
        (["--device", "abacus"], ["--device abacus"]),
        (["--device", "meta"], ["--device meta"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", "4294967296"], ["--seed"]),
    ],
)
def test_train_refuses_what_does_not_exist(root: Path, options: list[str], words: list[str]) -> None:
    refused(run("train", *options, root=root), 2, *words)
    assert not (root / "runs").exists()


def test_a_dry_run_shows_the_plan_and_writes_no_run(root: Path) -> None:
    result = run("train", "--variant", "sample", "--fold", "0,3", "--steps", "50", "--dry-run", root=root)
    assert result.exit_code == 0
    assert "2 jobs to do" in result.stderr
    assert "sample-s0: fold 0, 3; 100 steps" in result.stderr
    assert "of disk" in result.stderr
    assert not (root / "runs").exists()
    assert (root / "folds" / "folds.json").exists()


def test_a_killed_worker_that_still_looks_alive_leaves_nothing_in_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "fold0"
    folder.mkdir()
    undead, elsewhere = (folder / f".run.json.{host}-{os.getpid()}.tmp" for host in (platform.node(), "elsewhere"))
    for leftover in (undead, elsewhere):
        leftover.write_text("{")
    with locked(Run(folder), lambda: True):
        assert (undead.exists(), elsewhere.exists()) == (False, True)
