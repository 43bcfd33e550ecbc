"""The command line: what it loads, what it says, how it ends."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from command_line import refused, run

from kaggle_hw4.errors import DataError
from kaggle_hw4.workspace import storage_errors

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


@pytest.mark.parametrize("command", ["check", "folds", "train", "predict", "ensemble", "submit"])
def test_without_data_the_command_to_run_is_named(tmp_path: Path, command: str) -> None:
    refused(run(command, root=tmp_path), 3, "no data in", f"kaggle-hw4 --root {tmp_path} data")
    assert list(tmp_path.iterdir()) == []


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


def test_the_root_after_the_command_is_told_where_it_belongs(tmp_path: Path) -> None:
    refused(run("board", "--root", str(tmp_path), root=tmp_path), 2, "kaggle-hw4 --root DIR COMMAND")
