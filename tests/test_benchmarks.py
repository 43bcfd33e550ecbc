"""The benchmark compares the same function on both sides, counts right and gives every figure; nothing is timed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ensemble, gpu, write_between
from benchmarks.__main__ import MARKERS, measure
from benchmarks.competition import Sizes, draw_lengths
from benchmarks.floors import forward_flops
from benchmarks.ours import our_model
from benchmarks.reference import predict_each, stock_model
from benchmarks.report import table
from kaggle_hw4.data.crops import Frames
from kaggle_hw4.inference import predict
from kaggle_hw4.variants import variant

BOTH = pytest.mark.parametrize("name", ["transformer-full", "conformer-full"])


@BOTH
def test_both_sides_compute_the_same(name: str, tmp_path: Path) -> None:
    content = tiny.files()
    store = tiny.packed(tiny.as_folder(tmp_path / "source", content), tmp_path / "store", "float32")
    utterances = [torch.load(tmp_path / "source" / path) for path in store.test_ids]
    cpu = torch.device("cpu")
    reference = predict_each(stock_model(name, 4), utterances, cpu)
    ours = predict(our_model(name, 4), Frames(store, cpu), store.test_rows)
    torch.testing.assert_close(torch.from_numpy(ours), reference, rtol=1e-4, atol=1e-5)


@BOTH
def test_operations_are_those_pytorch_counts(name: str) -> None:
    lengths = np.full(2, 128)
    model = stock_model(name, 600)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.train()(torch.zeros(2, 128, 40))
    # PyTorch does not count the weighted sum of the pooling, written as a product and a sum.
    uncounted = 2 * int(lengths.sum()) * variant(name).d_model
    assert forward_flops(variant(name), lengths, 600) == counter.get_total_flops() + uncounted


def test_lengths_are_like_the_real_ones() -> None:
    lengths = draw_lengths(100_000, np.random.default_rng(0))
    assert lengths.min() >= 91
    assert lengths.max() <= 7193
    assert np.median(lengths) == pytest.approx(540, rel=0.02)
    assert np.quantile(lengths, 0.95) == pytest.approx(1337, rel=0.03)
    assert lengths.mean() == pytest.approx(657, rel=0.03)


def test_a_tiny_run_gives_every_figure() -> None:
    found = measure(Sizes(speakers=3, train=2, test=3, rounds=2, batches=2, steps=1), "cpu", quick=True)
    ratios = {"loader", "transformer_step", "conformer_step", "inference", "inference_transformer"}
    packs = {"pack", "pack_tar", "pack_stored_zip", "pack_deflated_zip"}
    assert set(found) >= {f"{name}_ratio" for name in ratios | packs} | {
        "pack_us_per_file",
        "bf16",
        "ceilings",
        "date",
        "machine",
        "repeats",
        "threads",
        "torch",
    }
    numbers = list(_numbers({key: value for key, value in found.items() if key != "load_average"}))
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert all(found[f"{name}_ratio"] > 0 for name in ratios | packs)
    assert json.loads(json.dumps(found)) == found
    assert table(found).count("\n| ") == len(ratios | packs) + 1


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_the_table_goes_between_the_markers_of_docs(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    original = (Path(__file__).parents[1] / "docs" / "speed.md").read_text()
    page.write_text(original)
    for text in ("an old table", "a new table"):
        write_between(MARKERS, page, text)
    written = page.read_text()
    assert "a new table" in written
    assert "an old table" not in written
    assert written.split("<!--")[0] == original.split("<!--")[0]
    assert written.split("-->")[-1] == original.split("-->")[-1]


def test_the_gpu_benchmark_runs_and_finds_together_equal_to_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU, where nothing is captured: the same code on as little as can be."""
    monkeypatch.setattr(gpu, "_ROUNDS", 1)
    sizes = Sizes(speakers=3, train=2, test=3, rounds=1, batches=1, steps=1)
    found = gpu.measure(torch.device("cpu"), sizes=sizes, counts=(1, 2), steps=1)
    for figures in found["variants"].values():
        assert set(figures["together"]) == {"1", "2"}
        assert min(figures["stock_eager"], figures["ours_eager"], *figures["together"].values()) > 0
        assert figures["gradient_difference"] < 1e-4
        assert 0 < figures["share_of_floor"] < 1
    assert found["projected"]["training_minutes"] > 0
    assert "| conformer-full |" in gpu.lines(found)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_the_ensemble_benchmark_goes_through_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensemble.main(tmp_path, members=[2], utterances=400, output=tmp_path / "found.json")
    (found,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert set(found["methods"]) == {"equal", "greedy", "convex"}
    assert 0 < found["whole"]["peak_mb"] < ensemble.BOUND_MB
    shown = capsys.readouterr().out
    assert all(f"| {stage} |" in shown for stage in found["stages"])
