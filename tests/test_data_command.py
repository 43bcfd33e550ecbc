"""`kaggle-hw4 data`: what it packs, refuses and cleans up."""

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
from command_line import refused, run
from filelock import FileLock

from kaggle_hw4.competition import competition
from kaggle_hw4.workspace import write_json


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


def test_leftovers_of_this_machine_only_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours, theirs = (tmp_path / f".a.json.{host}-{dead.pid}.tmp" for host in (platform.node(), "elsewhere"))
    for leftover in (ours, theirs):
        leftover.write_text("{")
    write_json(tmp_path / "a.json", {})
    assert (ours.exists(), theirs.exists()) == (False, True)


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
