"""`train --engine ray`: the same results as the local engine, by whichever of them and however interrupted."""

import importlib.util
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from at_work import artefacts, finish, runs, start, under_way, until
from command_line import run

from kaggle_hw4 import __version__
from kaggle_hw4.data.store import open_store
from kaggle_hw4.errors import HW4Error, UnavailableError, UsageError
from kaggle_hw4.folds import make_folds
from kaggle_hw4.jobs.work import Options
from kaggle_hw4.runs import Job, run_of, with_steps
from kaggle_hw4.training.session import do_jobs
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness")
PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy")


def descendants(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found[1:]


def listening(pids: list[int]) -> set[str]:
    """The addresses, as /proc writes them, on which these processes accept connections."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue  # closed in between
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes}


@needs_ray
def test_ray_makes_the_same_as_local_and_keeps_to_this_machine(
    root: Path, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    for name in LOOPBACK_ONLY:
        monkeypatch.delenv(name)  # the command sees to that
    (root / "home").mkdir()
    monkeypatch.setenv("HOME", str(root / "home"))
    process = start(root, "--engine", "ray", "--workers", "1")
    until(lambda: under_way(root), 300)
    rays = descendants(process.pid)
    settings = [Path(f"/proc/{pid}/environ").read_bytes() for pid in rays]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in rays]
    assert listening(rays)
    assert listening(rays) <= LOOPBACK
    assert any(b"raylet" in command for command in commands)
    assert not any(b"127.0.0.1:9" in setting for setting in settings)
    assert any(b"RAY_USAGE_STATS_ENABLED=0" in setting for setting in settings)
    code, stderr = finish(process)
    assert code == 0, stderr
    assert "sample-s0 fold 1: accuracy" in stderr
    assert artefacts(root) == undisturbed
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in rays))
    assert not (root / "home" / ".ray").exists()  # a token there has `ray start` ask all others for it


class Direct:
    """A mailbox without Ray between: `mailbox.tell.remote(…)` is answered at once."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._mailbox, name))


@needs_ray
def test_what_a_node_writes_is_in_the_workspace_and_another_goes_on_with_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped on one node and ended on another: as if it had been done here, but for nothing."""
    from kaggle_hw4.jobs import ray_node

    monkeypatch.setattr(ray_node.ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray_node.ray, "put", lambda value: value)
    monkeypatch.setattr(ray_node, "_TELL_SECONDS", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(root / "node"))
    (root / "node").mkdir()
    here, away = Workspace(root), Workspace(root / "away")
    store = open_store(here.store)
    folds = make_folds(store, here.folds_file)
    job = Job("sample", replace(with_steps(variant("sample"), 12), crop=24, batch=6, layers=1), 0, 0)
    expected, run = run_of(here, job), run_of(away, job)
    assert not do_jobs(here, [job], store, folds, torch.device("cpu"))

    mailbox = ray_node.Mailbox(away.root, store.folder)
    source = ray_node.Source(root / "unseen", store.hash, store.dtype, folds, "cpu", Options(), __version__)

    def node(task: str) -> Any:
        files = {str(path.relative_to(away.runs)): path.read_bytes() for path in ray_node.files_in(run.folder)}
        mailbox.admit(task)
        return ray_node.work_on_node(task, Direct(mailbox), source, [job], files, None)

    tell = mailbox.tell

    def tired(task: str, files: ray_node.Files) -> bool | HW4Error:
        stop = tell(task, files)
        return stop or mailbox.heard()[task] > 5

    monkeypatch.setattr(mailbox, "tell", tired)
    assert node("first") == {}
    assert run.checkpoint.exists()
    assert not run.finished
    mailbox.dismiss("first")
    before = run.checkpoint.read_bytes()
    assert tell("first", {str(run.checkpoint.relative_to(away.runs)): b"late"}) is True
    assert run.checkpoint.read_bytes() == before  # who was given up writes no more
    monkeypatch.setattr(mailbox, "tell", tell)
    assert node("second") == {}
    assert {path.name for path in run.folder.iterdir()} == {p.name for p in expected.folder.iterdir()} - {".lock"}
    for artefact in ("weights", "oof", "test"):
        assert getattr(run, artefact).read_bytes() == getattr(expected, artefact).read_bytes()
    (copy,) = (root / "node").glob("*/*float16")
    assert (copy / "frames.bin").read_bytes() == (store.folder / "frames.bin").read_bytes()
    assert not list((root / "node").glob("*/task-*"))

    run.result.unlink()
    run.oof.unlink()
    run.oof.mkdir()  # in the way
    assert "oof.npy: Is a directory" in str(node("third"))
    wrong = replace(source, version="0")
    assert "Install the same version" in str(ray_node.measure_on_node(Direct(mailbox), wrong, job.variant, 1, 1))
    cost = ray_node.measure_on_node(Direct(mailbox), source, job.variant, 1, 1)
    assert cost.together == 1


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("engines", [("local", "ray"), ("ray", "local")])
def test_what_one_engine_began_the_other_ends_in_the_same(
    root: Path, undisturbed: list[bytes], engines: tuple[str, str]
) -> None:
    process = start(root, "--engine", engines[0], "--workers", "2")
    until(lambda: under_way(root), 300)
    os.killpg(process.pid, signal.SIGINT)
    code, stderr = finish(process)
    assert code == 130, stderr
    assert "Traceback" not in stderr
    assert any(run.checkpoint.exists() for run in runs(root))
    assert not all(run.finished for run in runs(root))
    code, stderr = finish(start(root, "--engine", engines[1], "--workers", "2"))
    assert code == 0, stderr
    assert " 0 begun" not in stderr
    assert artefacts(root) == undisturbed


@pytest.fixture(scope="module", autouse=True)
def on_loopback() -> Iterator[None]:
    """For the clusters that tests start. Ray reads it when it is imported, by whichever test is the first."""
    with pytest.MonkeyPatch.context() as patched:
        for name in LOOPBACK_ONLY:
            patched.setenv(name, "0")
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Ray cluster on 127.0.0.1: a head with one slot, where the command runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_TMPDIR", "/tmp")  # paths of sockets are short
        patched.setenv("TMPDIR", str(tmp_path_factory.mktemp("node")))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield cluster
        cluster.shutdown()


@needs_ray
@pytest.mark.slow
def test_a_node_killed_in_the_midst_of_training_changes_nothing(
    root: Path, undisturbed: list[bytes], cluster: Any
) -> None:
    """Two nodes, each with one of two trainings that go on from checkpoints; then there is one node."""
    process = start(root, "--workers", "2")
    until(lambda: all(under_way(root, [fold]) for fold in (0, 1)))
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process)[0] == 130
    stood = [steps(root, fold) for fold in (0, 1)]
    assert all(run.checkpoint.exists() for run in runs(root))
    node = cluster.add_node(num_cpus=1)
    process = start(root, "--engine", "ray", "--address", cluster.address)
    until(lambda: all(steps(root, fold) > stood[fold] for fold in (0, 1)), 300)
    assert not any(run.finished for run in runs(root))
    cluster.remove_node(node, allow_graceful=False)  # SIGKILL
    while process.poll() is None:
        assert all(steps(root, fold) >= stood[fold] for fold in (0, 1))  # from the checkpoint, not from the beginning
        time.sleep(0.05)
    code, stderr = finish(process)
    assert code == 0, stderr
    assert "its Ray worker was lost" in stderr
    assert artefacts(root) == undisturbed


def steps(root: Path, fold: int) -> int:
    return max((line["step"] for line in runs(root, [fold])[0].log_lines()), default=10**9)  # empty: being replaced


@needs_ray
@pytest.mark.slow
def test_a_node_that_does_not_see_the_data_is_sent_them_once(root: Path, cluster: Any) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from kaggle_hw4.jobs import ray_node

    store = open_store(root / "data" / "store")
    folds = make_folds(store, root / "folds" / "folds.json")
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(ray_node.Mailbox).options(scheduling_strategy=place, num_cpus=0).remote(root, store.folder)
        here = ray.remote(ray_node.store_here).options(scheduling_strategy=place)

        def seen(folder: Path) -> Path:
            source = ray_node.Source(folder, store.hash, store.dtype, folds, "cpu", Options(), __version__)
            return ray.get(here.remote(source, mailbox)).folder

        assert seen(store.folder) == store.folder
        sent = seen(root / "not" / "here")
        assert sent != store.folder
        assert {path.name: path.read_bytes() for path in sent.iterdir()} == {
            path.name: path.read_bytes() for path in store.folder.iterdir()
        }
        ray.kill(mailbox)  # who cannot be asked again
        assert seen(root / "not" / "here") == sent
        tiny.store(root / "other", seed=3)
        assert seen(root / "other" / "data" / "store") == sent  # other data under the path
    finally:
        ray.shutdown()


def test_without_ray_it_is_said_how_to_install_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("os.environ", os.environ.copy())  # which it changes
    result = run("train", "--variant", "sample", "--engine", "ray", root=root)
    assert result.exit_code == 2
    assert "pip install 'kaggle-hw4[ray]'" in result.stderr
    assert not (root / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--address", "127.0.0.1:6379"], "--address without --engine ray"),
        (["--engine", "ray", "--device", "cuda:1"], "Ray chooses the GPU"),
        (["--engine", "slurm"], "'local', 'ray'"),
    ],
)
def test_options_that_make_no_sense_are_refused(root: Path, options: list[str], words: str) -> None:
    result = run("train", "--variant", "sample", *options, root=root)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (root / "runs").exists()


@needs_ray
def test_an_address_where_nobody_answers_ends_it(root: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        code, stderr = finish(start(root, "--engine", "ray", "--address", address))
    assert code == 5
    assert f"nothing answers at {address}" in stderr
    assert "Traceback" not in stderr
    assert not (root / "runs").exists()


@needs_ray
def test_what_is_no_ray_cluster_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaggle_hw4.jobs import ray_cluster

    monkeypatch.setattr(ray_cluster, "_JOIN_SECONDS", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UnavailableError, match="no Ray cluster answered at"):
            ray_cluster._check(f"127.0.0.1:{silent.getsockname()[1]}")
        refused = "print('RPC error: InvalidAuthToken', file=sys.stderr); sys.exit(1)"
        monkeypatch.setattr(ray_cluster, "_JOINING", f"import sys; {refused}")
        with pytest.raises(UnavailableError, match="RAY_AUTH_MODE=token"):
            ray_cluster._check(f"127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(UsageError, match="no address 'here'"):
        ray_cluster._check("here")


@needs_ray
def test_a_head_that_is_gone_ends_it_and_one_that_comes_back_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaggle_hw4.jobs import ray_cluster

    monkeypatch.setattr(ray_cluster, "_HEAD_PAUSE", 0.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        context = SimpleNamespace(gcs_address=address)
        head = ray_cluster.Head(SimpleNamespace(get_runtime_context=lambda: context))
        head.check()
        listener.listen()
        monkeypatch.setattr(ray_cluster, "_HEAD_SECONDS", 0.0)
        head.check()
    with pytest.raises(UnavailableError, match=f"{address}, is gone(.|\\n)*Run the same command again"):
        head.check()
    assert head.gone


@needs_ray
def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trains in a notebook talks to Kaggle afterwards, maybe through a proxy."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    before = os.environ.copy()
    from kaggle_hw4.jobs.ray_cluster import connected

    with pytest.raises(UsageError, match="no address"), connected("nowhere", 1):
        pass
    assert os.environ.copy() == before
