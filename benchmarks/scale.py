"""The whole way on as much data as the competition has: time and memory of every stage, and how they grow.

    python -m benchmarks.scale --lengths FILE --folder DIR [--share 1.0] [--output FILE.json]

FILE has the length of an utterance, in frames, on every line. Measures a tenth of the share and then the share, prints
a table and writes JSON. All utterances take 12 GB of disk; the archives stay in DIR for the next time.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load

from benchmarks import run_command
from kaggle_hw4.competition import N_MELS
from kaggle_hw4.data.crops import Frames
from kaggle_hw4.data.store import open_store
from kaggle_hw4.folds import load_folds
from kaggle_hw4.inference import predict
from kaggle_hw4.jobs.work import WORKER_ENVIRONMENT
from kaggle_hw4.machine import processor, usable_cores
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.runs import Run, job_of
from kaggle_hw4.terminal import say
from kaggle_hw4.variants import SETS
from kaggle_hw4.workspace import Workspace, atomic_path, content_hash, read_json, write_json

BOUND_MB = 1500  # of memory beyond the mapped store
STEPS = 50
_SPEAKERS, _TEST_SHARE = 600, 8_000 / 64_666
_SAMPLE_SECONDS = 0.05
Stages = dict[str, dict[str, float]]  # "seconds" and "peak_mb" of each


def main(
    lengths: Annotated[Path, typer.Option(help="File with a length in frames on every line.")],
    folder: Annotated[Path, typer.Option(help="For archives and workspaces.")],
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the utterances.")] = 1.0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures; goes on where it stands.")] = None,
) -> None:
    if sys.platform != "linux":
        sys.exit("error: this reads the memory of processes from /proc, which only Linux has.")
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": usable_cores(),
        "torch": torch.__version__,
        "bound_mb": BOUND_MB,
        "runs": read_json(output, "")["runs"] if output and output.exists() else [],
    }
    drawn = np.random.default_rng(0).permutation(np.loadtxt(lengths, dtype=np.int64))
    folder.mkdir(parents=True, exist_ok=True)
    for part in (share / 10, share):
        if part in [run["share"] for run in found["runs"]]:
            continue
        found["runs"].append({"share": part} | measure(drawn[: round(len(drawn) * part)], folder))
        found["runs"].sort(key=lambda run: run["share"])
        if output:
            write_json(output, found)
    print(table(found))


def measure(lengths: np.ndarray, folder: Path) -> dict[str, Any]:
    """All stages on a competition of utterances of these lengths, each in a process of its own."""
    archive = folder / f"competition-{content_hash(lengths.tolist())}.zip"
    frames = int(lengths.sum())
    store_size, archive_size = frames * N_MELS * 2, frames * N_MELS * 4 + len(lengths) * 2_000
    needed, free = store_size + (0 if archive.exists() else archive_size), shutil.disk_usage(folder).free
    if free < needed * 1.1:
        sys.exit(f"error: {folder} must have {needed * 1.1 / 1e9:.1f} GB free, and has {free / 1e9:.1f} GB.")

    stages: Stages = {}
    with tempfile.TemporaryDirectory(prefix="workspace-", dir=folder) as root:

        def stage(name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
            stages[name] = watch([sys.executable, *command], environment or {})
            say(f"{len(lengths):,} utterances, {name}: {stages[name]['seconds']} s, {stages[name]['peak_mb']} MB")

        def ours(*arguments: str) -> list[str]:
            return ["-m", "kaggle_hw4", "--root", root, *arguments]

        if not archive.exists():
            np.save(f"{root}/lengths.npy", lengths)
            stage("generate", _call("generate", f"{root}/lengths.npy", str(archive)))
        stage("pack", ours("data", "--from", str(archive)))
        stage("folds", ours("folds"))
        stage("open the store", _call("open_all", root))
        for name in SETS["default"]:
            options = ("--fold", "0", "--steps", str(STEPS), "--variant", name, "--workers", "1", "--device", "cpu")
            stage(f"train {name}", ours("train", *options))
            result = read_json(_run(root, name).result, "")
            stages[f"{STEPS} steps of {name}"] = {"seconds": result["train_seconds"]}
            stage(f"predict test, {name}", _call("predict_test", root, name), WORKER_ENVIRONMENT)
    return {"utterances": len(lengths), "frames": frames, "stages": stages}


def watch(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command: its wall time and the most memory that it and its children had at once, without mapped files."""
    began, peak = time.perf_counter(), 0
    known: list[int] = []  # a process that is just being started still has its parent's memory, which counted twice
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # its children are in its process group
    )
    try:
        while process.poll() is None:
            group = _group(process.pid)
            peak = max(peak, sum(_anonymous(pid) for pid in group if pid in known))
            known = group
            time.sleep(_SAMPLE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}.")
    return {"seconds": round(time.perf_counter() - began, 1), "peak_mb": round(peak / 1e6)}


def _group(leader: int) -> list[int]:
    """The processes of a group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(state[2]) == leader:
                members.append(int(entry.name))
    return members


def _anonymous(pid: int) -> int:
    """Bytes of memory of a process that are of no file: not the mapped store, nor the code of libraries."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def _call(function: str, *arguments: str) -> list[str]:
    """What calls a function of this module in a process of its own."""
    return ["-c", f"from benchmarks import scale; scale.{function}{arguments!r}"]


def generate(lengths_file: str, archive: str) -> None:
    """Write a zip with stored members, of utterances of these lengths: pieces of one noise and the speaker's mean.

    Speakers are 600, or as many as have 8 utterances each.
    """
    rng, lengths = np.random.default_rng(0), np.load(lengths_file)
    tests = round(len(lengths) * _TEST_SHARE)
    labelled = len(lengths) - tests
    speakers = min(_SPEAKERS, labelled // 8)
    noise = rng.standard_normal((int(lengths.max()) + 100_000, N_MELS), dtype=np.float32) * 3
    means = rng.normal(-2, 3, (speakers, N_MELS)).astype(np.float32)
    names = [f"id{number:05d}" for number in rng.permutation(10_000)[:speakers]]
    train: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    test: list[dict[str, Any]] = []
    with atomic_path(Path(archive)) as temporary, zipfile.ZipFile(temporary, "w") as written:
        for i, length in enumerate(lengths.tolist()):
            start = rng.integers(len(noise) - length)
            content = io.BytesIO()
            torch.save(torch.from_numpy(noise[start : start + length] + means[i % speakers]), content)
            entry = {"feature_path": f"uttr-{rng.bytes(16).hex()}.pt", "mel_len": length}
            written.writestr(f"Dataset/{entry['feature_path']}", content.getvalue())
            (train[names[i % speakers]] if i < labelled else test).append(entry)
        tables = {
            "metadata.json": {"n_mels": N_MELS, "speakers": train},
            "testdata.json": {"n_mels": N_MELS, "utterances": test},
            "mapping.json": {
                "speaker2id": {name: i for i, name in enumerate(names)},
                "id2speaker": {str(i): name for i, name in enumerate(names)},
            },
        }
        for name, table in tables.items():
            written.writestr(f"Dataset/{name}", json.dumps(table))


def open_all(root: str) -> None:
    workspace = Workspace(Path(root))
    load_folds(open_store(workspace.store), workspace.folds_file)


def predict_test(root: str, name: str) -> None:
    """The logits of the test utterances, by a trained model, as a worker of `kaggle-hw4 train` makes them."""
    torch.set_num_threads(1)
    store = open_store(Workspace(Path(root)).store)
    run = _run(root, name)
    model = SpeakerClassifier(job_of(run).variant, len(store.speakers))
    model.load_state_dict(load(run.weights.read_bytes()))
    predict(model, Frames(store, torch.device("cpu")), store.test_rows)


def _run(root: str, name: str) -> Run:
    return Run(Workspace(Path(root)).runs / f"{name}-s0" / "fold0")


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    runs = found["runs"]
    shares = [f"{100 * run['share']:g} %" for run in runs]
    counts = [f"{run['utterances']:,} utterances of {run['frames']:,} frames" for run in runs]
    lines = [
        f"{found['processor']}, {found['cores']} cores, torch {found['torch']}. "
        f"{shares[0]} are {counts[0]}, {shares[1]} are {counts[1]}.",
        "",
        f"| stage | {shares[0]}: s | MB | {shares[1]}: s | MB | growth of time |",
        "|---|---|---|---|---|---|",
    ]
    for name, large in runs[1]["stages"].items():
        small = runs[0]["stages"].get(name, {})  # an archive may be there from the last time
        figures = [stage.get(key, "") for stage in (small, large) for key in ("seconds", "peak_mb")]
        growth = f"{large['seconds'] / small['seconds']:.1f}" if small.get("seconds") else ""
        lines.append(f"| {name} | {' | '.join(map(str, figures))} | {growth} |")
    peak = max(stage.get("peak_mb", 0) for run in runs for stage in run["stages"].values())
    lines += [
        "",
        f"MB: the most memory that all processes of a stage had at once, beyond mapped files; {peak:,} at most "
        f"(bound: {found['bound_mb']:,}). A stage includes the start of Python and its imports; training includes "
        "calibration, validation and the prediction of the test utterances.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
