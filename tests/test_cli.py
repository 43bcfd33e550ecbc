"""The command line: what it loads, what it says, how it ends."""

import errno
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch
from filelock import FileLock
from typer.testing import CliRunner, Result

from kaggle_hw4.cli import app
from kaggle_hw4.competition import competition
from kaggle_hw4.errors import DataError
from kaggle_hw4.runs import Run
from kaggle_hw4.training.stopping import locked
from kaggle_hw4.workspace import storage_errors, write_json

COMMANDS = [
    "data",
    "check",
    "folds",
    "variants",
    "train",
    "predict",
    "watch",
    "ensemble",
    "submit",
    "board",
    "diff",
    "explain",
    "export",
    "identify",
    "report",
    "doctor",
]


def run(*arguments: str, root: Path | None = None) -> Result:
    options = ["--root", str(root)] if root else []
    return CliRunner().invoke(app, [*options, *arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """One message on stderr, no traceback, the exit code of its kind."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with tiny data, packed from `source`."""
    tiny.store(tmp_path)
    return tmp_path


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import kaggle_hw4, kaggle_hw4.cli, sys;"
        "heavy = 'torch timm torchaudio soundfile kaggle pandas sklearn scipy matplotlib ray'.split();"
        "print(set(heavy) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_ray_is_not_imported_unless_it_is_asked_for() -> None:
    code = "import kaggle_hw4.jobs.command, sys; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize("command", [*COMMANDS, "rehearsal make", "rehearsal serve"])
def test_every_command_explains_itself(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert len(result.stdout) > 100


def test_every_command_of_this_list_and_no_other_exists() -> None:
    listing = run("--help").stdout.split("Commands:")[1].split("Exit codes:")[0]
    listed = [line.split()[0] for line in listing.splitlines() if line.strip()]
    assert listed == [*COMMANDS, "rehearsal"]


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


def test_data_packs_once_and_refuses_another_source(tmp_path: Path) -> None:
    source = tiny.as_zip(tmp_path / "a.zip", tiny.files())
    result = run("data", "--from", str(source), "--json", root=tmp_path)
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert (facts["speakers"], facts["train"], facts["test"], facts["dtype"]) == (4, 24, 8, "float16")
    assert f"Next: kaggle-hw4 --root {tmp_path} train --fold all" in result.stderr
    before = (tmp_path / "data/store/frames.bin").stat().st_mtime_ns
    for again in (("data",), ("data", "--from", str(source))):
        result = run(*again, root=tmp_path)
        assert result.exit_code == 0
        assert "packed already" in result.stderr
    assert (tmp_path / "data/store/frames.bin").stat().st_mtime_ns == before
    other = tiny.as_zip(tmp_path / "b.zip", tiny.files(seed=1))
    refused(run("data", "--from", str(other), root=tmp_path), 3, str(source), str(other))
    refused(run("data", "--dtype", "float32", root=tmp_path), 3, "dtype float16 there, float32 now")
    assert run("data", "--from", str(source), "--dtype", "float32", root=tmp_path / "b").exit_code == 0
    assert run("data", root=tmp_path / "b").exit_code == 0
    refused(run("data", "--competition", "ml2022spring-hw4", root=tmp_path), 3, "ml2022spring-hw4 now")


def test_a_source_that_has_changed_is_not_taken_for_what_was_packed(tmp_path: Path) -> None:
    source = tiny.as_zip(tmp_path / "a.zip", tiny.files())
    assert run("data", "--from", str(source), root=tmp_path).exit_code == 0
    tiny.as_zip(source, tiny.files(seed=1))
    refused(run("data", "--from", str(source), root=tmp_path), 3, f"{source} had ", " bytes, ")


def test_a_damaged_store_names_the_command_that_packs_the_same_again(tmp_path: Path) -> None:
    source = tiny.as_zip(tmp_path / "的 mine.zip", tiny.files())
    options = ["--competition", "ml2022spring-hw4", "--from", str(source), "--dtype", "float32"]
    assert run("data", *options, root=tmp_path).exit_code == 0
    train = ["train", "--variant", "sample", "--steps", "2", "--fold", "0", "--workers", "1"]
    assert run(*train, root=tmp_path).exit_code == 0
    header = tmp_path / "data/store/store.json"
    header.write_text(header.read_text().replace('"hash": "', '"hash": "0'))
    result = run("data", root=tmp_path)
    refused(result, 3, "its checksum differs")
    _, _, command = result.stderr.strip().rpartition(f"kaggle-hw4 --root {tmp_path} ")
    assert shlex.split(command) == ["data", *options]
    shutil.rmtree(header.parent)
    half = run("data", *options[:4], root=tmp_path)
    assert half.exit_code == 0
    refused(run(*train, root=tmp_path), 3, "dtype float32 there, float16 now", "with --dtype float32")
    shutil.rmtree(header.parent)
    assert run(*shlex.split(command), root=tmp_path).exit_code == 0
    assert run(*train, root=tmp_path).exit_code == 0
    source.unlink()
    (header.parent / "index.csv").write_text("")
    result = run("data", root=tmp_path)
    assert (
        f"kaggle-hw4 --root {tmp_path} data --competition ml2022spring-hw4 --dtype float32" in result.stderr
        # it is gone: no --from
    )


def test_what_a_killed_data_left_is_removed(tmp_path: Path) -> None:
    """Also of a process whose number is another's now, as in a container that was started again."""
    source = tiny.as_zip(tmp_path / "a.zip", tiny.files())
    for pid in (os.getpid(), 1):
        left = tmp_path / "data" / f".store.{platform.node()}-{pid}.tmp"
        left.mkdir(parents=True)
        (left / "frames.bin").write_bytes(bytes(100))
    assert run("data", "--from", str(source), root=tmp_path).exit_code == 0
    assert not list((tmp_path / "data").glob(".store.*"))


def test_bad_data_ends_with_3_and_usage_with_2(tmp_path: Path) -> None:
    content = tiny.files()
    del content["testdata.json"]
    source = tiny.as_zip(tmp_path / "a.zip", content)
    refused(run("data", "--from", str(source), root=tmp_path), 3, "testdata.json is missing")
    refused(run("data", "--from", str(tmp_path / "none.zip"), root=tmp_path), 2, "none.zip does not exist")
    refused(run("data", "--dtype", "int8", root=tmp_path), 2, "float16, float32")
    assert not (tmp_path / "data" / "store").exists()


@pytest.mark.parametrize("command", ["check", "folds", "train", "predict", "ensemble", "submit"])
def test_without_data_the_command_to_run_is_named(tmp_path: Path, command: str) -> None:
    refused(run(command, root=tmp_path), 3, "no data in", f"kaggle-hw4 --root {tmp_path} data")
    assert list(tmp_path.iterdir()) == []


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


def test_folds_are_shown_and_not_made_twice(root: Path) -> None:
    facts = json.loads(run("folds", "--k", "3", "--json", root=root).stdout)
    assert (facts["k"], facts["sizes"]) == (3, [8, 8, 8])
    assert json.loads(run("folds", "--json", root=root).stdout) == facts
    refused(run("folds", "--k", "4", root=root), 3, "k=3, seed=0, not k=4")
    refused(run("folds", "--seed", "1", root=root), 3, "not seed=1")
    refused(run("folds", "--k", "1", root=root), 2)


def test_variants_with_their_published_scores() -> None:
    rows = {row["name"]: row for row in json.loads(run("variants", "--json").stdout)}
    assert rows["conformer-full"]["private"] == 0.962
    assert rows["conformer-simple"]["private"] == 0.96125
    assert rows["transformer-full"]["sets"] == ["default"]
    assert "conformer-full" in run("variants").stdout


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


def test_an_ensemble_from_the_command_line(root: Path, tmp_path: Path) -> None:
    """Members from elsewhere, which `--add` takes three values for, more than once."""
    import numpy as np

    rng = np.random.default_rng(0)
    added: list[str] = []
    for name in ("ours", "theirs"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(24, 4)))
        np.save(tmp_path / f"{name}-test.npy", rng.normal(size=(8, 4)))
        added += ["--add", name, str(tmp_path / f"{name}.npy"), str(tmp_path / f"{name}-test.npy")]
    result = run("ensemble", *added, "--weights", "ours=1,theirs=3", "--json", root=root)
    assert result.exit_code == 0, result.stderr
    made = json.loads(result.stdout)
    assert {m["name"]: m["weight"] for m in made["members"]} == {"ours": 0.25, "theirs": 0.75}
    assert f"submit {made['name']}" in result.stderr
    shown = run("ensemble", *added, root=root).stdout
    for word in ("refitted without each fold", "best single member", "not better than equal weights (p =", "points"):
        assert word in shown
    refused(run("ensemble", "--add", "ours", "a.npy", root=root), 2)
    refused(run("ensemble", *added, "--weights", "ours=-1", root=root), 2, "negative")
    refused(run("ensemble", *added, "--method", "magic", root=root), 2, "equal, greedy, convex")
    other = run("ensemble", *added, "--method", "equal", "--json", root=root)
    sent = json.loads(other.stdout)["name"]
    told = run("diff", made["name"], sent, root=root)
    assert told.exit_code == 0
    assert "A slot can" in told.stdout
    assert json.loads(run("diff", sent, sent, "--json", root=root).stdout)["verdict"] == "same"
    refused(run("diff", sent, "nobody", root=root), 2, "nobody", sent)
    links = json.loads(run("explain", sent, "--verify", "--json", root=root).stdout)
    assert links["broken"] is None
    (root / "submissions" / f"{sent}.csv").write_text("Id,Category\n")
    refused(run("explain", sent, "--verify", root=root), 3, "the first link that does not match is file")
    findings = json.loads(run("check", "--json", root=root).stdout)
    assert {"twins", "near-twins", "speakers most confused"} <= {finding["name"] for finding in findings}


def test_an_empty_board_says_what_to_do(tmp_path: Path) -> None:
    result = run("board", root=tmp_path)
    assert result.exit_code == 0
    for word in ("boss", "0.93000", *(f"kaggle-hw4 --root {tmp_path} {verb}" for verb in ("data", "train", "submit"))):
        assert word in result.stdout
    content = json.loads(run("board", "--json", root=tmp_path).stdout)
    assert content["submissions"] == content["members"] == []
    assert content["baselines"]["simple"] == 0.66025
    assert "line,boss,,0.93" in run("board", "--csv", root=tmp_path).stdout


def test_a_submission_that_is_not_there_lists_what_is(root: Path) -> None:
    refused(run("submit", "mine", root=root), 2, "no submission 'mine'", "none yet")


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs a folder that even root cannot write to")
def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    source = tiny.as_zip(tmp_path / "a.zip", tiny.files())
    refused(run("data", "--from", str(source), root=Path("/sys/kernel")), 3, "cannot be written", "--root")


def test_a_file_that_cannot_be_read_is_named_and_no_other(tmp_path: Path) -> None:
    for path in (tmp_path / "else" / "a.pt", tmp_path / "ws"):
        with pytest.raises(DataError, match=f"^{path}: cannot be") as caught, storage_errors(tmp_path / "ws"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        assert ("read" in str(caught.value)) == (path.name == "a.pt")


def test_a_root_that_leads_in_circles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    result = run("board", root=tmp_path / "a")
    assert (result.exit_code in (2, 3), str(tmp_path / "a") in result.stderr) == (True, True), result.output


@pytest.mark.skipif(sys.platform != "linux", reason="file names need not be text on Linux only")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_what_an_encoding_does_not_know_is_replaced(tmp_path: Path, encoding: str) -> None:
    root = tmp_path / os.fsdecode(b"w\xff")
    root.mkdir()
    for command in (["board"], ["report", "--output", str(root / "r.html")], ["doctor"]):
        line = [sys.executable, "-m", "kaggle_hw4", "--root", str(root), *command]
        done = subprocess.run(line, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
        assert (done.returncode in (0, 3), b"Traceback" in done.stderr) == (True, False), done.stderr
    assert "w?" in (root / "r.html").read_text(encoding="utf-8")


def test_leftovers_of_this_machine_only_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours, theirs = (tmp_path / f".a.json.{host}-{dead.pid}.tmp" for host in (platform.node(), "elsewhere"))
    for leftover in (ours, theirs):
        leftover.write_text("{")
    write_json(tmp_path / "a.json", {})
    assert (ours.exists(), theirs.exists()) == (False, True)


def test_a_killed_worker_that_still_looks_alive_leaves_nothing_in_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "fold0"
    folder.mkdir()
    undead, elsewhere = (folder / f".run.json.{host}-{os.getpid()}.tmp" for host in (platform.node(), "elsewhere"))
    for leftover in (undead, elsewhere):
        leftover.write_text("{")
    with locked(Run(folder), lambda: True):
        assert (undead.exists(), elsewhere.exists()) == (False, True)


def test_data_says_that_it_waits_for_another(root: Path) -> None:
    lock = FileLock(root / "data" / ".pack.lock")
    lock.acquire()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(run, "data", root=root)
        time.sleep(0.5)
        assert not waiting.done()
        lock.release()
        result = waiting.result()
    refused(result, 0, "waiting for it", "packed already")


def test_a_workspace_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = tiny.as_zip(tmp_path / "a.zip", tiny.files())
    refused(run("data", "--from", str(source), root=tmp_path / "file"), 3, str(tmp_path / "file"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own refusal: every frame is written to /dev/full."""
    import builtins

    real = builtins.open

    def full(file: object, *arguments: object, **options: object) -> object:
        return real("/dev/full" if str(file).endswith("frames.bin") else file, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", full)
    source = tiny.as_zip(tmp_path / "a.zip", tiny.files())
    refused(run("data", "--from", str(source), root=tmp_path), 3, "no space left")
    assert [path.name for path in (tmp_path / "data").iterdir()] in ([], [".pack.lock"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_nobody_takes_is_told_from_the_workspaces_disk(options: list[str]) -> None:
    """A full disk below stdout is named; a reader that has gone, as in `| head -1`, has what it wants."""
    command = [sys.executable, "-m", "kaggle_hw4", "variants", *options]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: stdout cannot be written: No space left")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_root_comes_from_the_environment_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_HW4_ROOT", str(root))
    assert json.loads(run("folds", "--json").stdout)["file"] == str(root / "folds" / "folds.json")


@pytest.mark.parametrize("damage", ["{}", "[]", "garbage"])
def test_a_board_on_damaged_artefacts_names_them(root: Path, damage: str) -> None:
    run("folds", root=root)
    (root / "runs" / "sample-s0").mkdir(parents=True)
    (root / "folds" / "folds.json").write_text(damage)
    refused(run("board", root=root), 3, "folds.json")


@pytest.mark.parametrize("name", ["", "a/b", "../../zz", "https://www.kaggle.com/competitions/"])
def test_what_can_be_no_competition_is_refused(tmp_path: Path, name: str) -> None:
    refused(run("data", "--competition", name, root=tmp_path), 2, "is no competition")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "ml2023springhw4",
        "https://www.kaggle.com/competitions/ml2023springhw4",
        "https://www.kaggle.com/competitions/ml2023springhw4/leaderboard?tab=public",
        "www.kaggle.com/c/ml2023springhw4/",
    ],
)
def test_a_competition_is_known_by_slug_or_address(name: str) -> None:
    assert competition(name).slug == "ml2023springhw4"
    assert competition(name).baselines["boss"] == 0.93


def test_the_root_after_the_command_is_told_where_it_belongs(tmp_path: Path) -> None:
    refused(run("board", "--root", str(tmp_path), root=tmp_path), 2, "kaggle-hw4 --root DIR COMMAND")
