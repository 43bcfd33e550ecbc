"""Ours against PyTorch's own layers, in pairs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from benchmarks import paired
from kaggle_hw4.data.store import open_store
from kaggle_hw4.errors import UsageError
from kaggle_hw4.folds import make_folds
from kaggle_hw4.training.precision import precision
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace


def test_pairs_are_trained_once_and_never_mixed_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.store(tmp_path)
    workspace = Workspace(tmp_path)
    make_folds(open_store(workspace.store), workspace.folds_file, k=3)
    monkeypatch.setattr(paired, "variant", lambda name: replace(variant(name), layers=1, d_model=16, batch=4))
    output = tmp_path / "pairs.json"
    paired.main(tmp_path, output, "conformer-full", steps=2, seeds=1)
    found = json.loads(output.read_text())
    assert [(pair["fold"], pair["seed"]) for pair in found["pairs"]] == [(0, 0), (1, 0), (2, 0)]
    assert found["precision"] == str(precision(torch.device("cpu"))).removeprefix("torch.")
    differences = [100 * (pair["ours"] - pair["stock"]) for pair in found["pairs"]]
    assert found["difference_points"] == pytest.approx(sum(differences) / 3)
    assert found["lower_95"] <= found["difference_points"] <= found["upper_95"]

    monkeypatch.setattr(paired, "_pair", lambda *_: pytest.fail("trained again"))
    paired.main(tmp_path, output, "conformer-full", steps=2, seeds=1)
    with pytest.raises(UsageError, match="another variant, length or precision"):
        paired.main(tmp_path, output, "conformer-full", steps=3, seeds=1)
