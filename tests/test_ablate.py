"""Ablations: every row is a recipe, pairs are paired, nothing is trained twice, the table says what the figures say."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from filelock import FileLock

from benchmarks import ablate, run_command
from benchmarks.ablation_rows import ROWS, base_of, changes, words
from kaggle_hw4.data.store import open_store
from kaggle_hw4.folds import make_folds
from kaggle_hw4.inference import log_loss
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace

BASE = variant("conformer-full")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_changes_the_report_or_the_strong_set(row: str) -> None:
    strong = row == "linear-head" or (row.startswith("no-") and row != "no-average")
    base = base_of("ecapa") if strong else BASE
    assert replace(base, **changes(row)) != base
    assert words(row, base)


def test_a_base_may_be_changed_by_rows_first() -> None:
    assert base_of("ecapa") == variant("ecapa")
    assert base_of("ecapa+long-crops+no-masks").crop_lengths == (200, 250, 300)
    assert base_of("ecapa+long-crops+no-masks").time_mask == 0
    with pytest.raises(KeyError, match="longer"):
        base_of("ecapa+longer")


def figure(row: str, pair: int, accuracy: float, *, steps: int = 100) -> ablate.Figure:
    v = BASE if row == "base" else replace(BASE, **changes(row))
    return {"base": "conformer-full", "row": row, "steps": steps, "pair": pair, "data": "d", "recipe": v.recipe()} | {
        "epochs": steps / 100,
        "accuracy": accuracy,
        "log_loss": 1 - accuracy,
        "seconds": 10.0,
        "hardware": "a machine",
        "torch": "2",
    }


def test_differences_are_those_of_pairs_and_verdicts_follow_from_them() -> None:
    base = [figure("base", i, accuracy) for i, accuracy in enumerate((0.70, 0.75, 0.80))]
    gains = [figure("noise", i, accuracy) for i, accuracy in enumerate((0.72, 0.77, 0.821))]
    seems = [figure("gain", i, accuracy) for i, accuracy in enumerate((0.69, 0.70, 0.79))]
    mixed = [figure("mixup", i, accuracy) for i, accuracy in enumerate((0.69, 0.76, 0.80))]
    alone = [figure("dropout", 0, 0.9)]
    timed = {"base": "conformer-full", "row": "noise", "steps": 100, "data": "d", "ratio": 1.5}
    found = {c.row: c for c in ablate.compare([*base, *gains, *seems, *mixed, *alone], [timed, timed | {"steps": 200}])}
    assert set(found) == {"noise", "gain", "mixup", "dropout"}
    np.testing.assert_allclose(found["noise"].accuracy, [2, 2, 2.1])
    np.testing.assert_allclose(found["noise"].log_loss, [-0.02, -0.02, -0.021])
    assert (found["noise"].time, found["gain"].time) == (1.5, None)
    verdicts = [found[row].verdict for row in ("noise", "gain", "mixup", "dropout")]
    assert verdicts == ["gains", "seems to lose", "no difference seen", "open: one pair"]
    assert found["noise"].changed == "noise 0.3"
    assert found["noise"].confirmed == "screened only, n = 3"
    full = [figure(row, i, 0.7 + i / 10, steps=4400) for row in ("base", "noise") for i in range(2)]
    assert [c.confirmed for c in ablate.compare(full)] == ["full length, n = 2"]
    text = ablate.table([*base, *gains], [timed])
    line = "| noise | noise 0.3 | 100 (1) | +2.03 ± 0.06 | -0.020 ± 0.001 | 1.50 × | gains | screened only, n = 3 |"
    assert line in text
    assert "accuracy 0.7500 ± 0.0500" in text
    assert "accuracy 0.7000 (one run), log loss 0.300 (one run), 10 s a run" in ablate.table(base[:1], [])


def made_small(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny data with folds in `root`, and variants to match; gives the file for the figures."""
    tiny.store(root)
    workspace = Workspace(root)
    make_folds(open_store(workspace.store), workspace.folds_file, k=3)
    monkeypatch.setattr(ablate, "base_of", lambda name: replace(variant(name), crop=16, batch=4, layers=1, d_model=16))
    return root / "figures.json"


def test_what_another_process_trains_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = made_small(tmp_path, monkeypatch)
    folder = tmp_path / "ablations" / "runs" / "conformer-full-3-s0" / "fold0"
    folder.mkdir(parents=True)
    theirs = FileLock(folder / ".lock")
    theirs.acquire()
    ended: list[str] = []

    def note(message: str) -> None:
        ended.append(message.partition(":")[0])
        if len(ended) == 3:
            theirs.release()

    monkeypatch.setattr(ablate, "say", note)
    ablate.screen(["gain"], tmp_path, 3, "conformer-full", 2, "cpu", output)
    assert ended == ["gain 0", "base 1", "gain 1", "base 0"]


def test_rows_are_trained_once_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = made_small(tmp_path, monkeypatch)
    arguments = (["gain", "gain+no-average"], tmp_path, 3, "conformer-full", 2, "cpu", output)
    ablate.screen(*arguments)
    figures = json.loads(output.read_text())
    assert [(f["row"], f["pair"]) for f in figures] == [
        (row, pair) for pair in (0, 1) for row in ("base", "gain", "gain+no-average")
    ]
    assert figures[2]["recipe"]["gain"] == 3.0
    assert figures[2]["recipe"]["ema"] == 0.0
    times = ablate.load(ablate.times_beside(output))
    assert [(t["row"], t["steps"]) for t in times] == [("gain", 3), ("gain+no-average", 3)]
    assert all(0.1 < t["ratio"] < 10 for t in times)
    monkeypatch.setattr(ablate, "_train", None)  # nothing is trained again
    monkeypatch.setattr(ablate, "step_ratio", None)  # nor measured
    ablate.screen(*arguments)
    assert json.loads(output.read_text()) == figures


def test_log_loss_is_at_the_best_temperature() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=500)
    logits = rng.normal(size=(500, 5)).astype(np.float32)
    logits[np.arange(500), labels] += 1
    temperature, loss = ablate.tempered(30 * logits, labels)
    assert loss < log_loss(logits, labels) + 1e-3
    assert temperature == pytest.approx(30 * ablate.tempered(logits, labels)[0], rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nois", "--root", "."], "no row 'nois'"),
        (["noise"], "rows need a workspace"),
    ],
)
def test_mistakes_are_said_in_one_message(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny.store(tmp_path)
    workspace = Workspace(tmp_path)
    make_folds(open_store(workspace.store), workspace.folds_file, k=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments, "--output", str(tmp_path / "figures.json")])
    with pytest.raises(SystemExit) as end:
        run_command(ablate.main)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
