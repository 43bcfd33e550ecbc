"""`import kaggle_hw4`: the ten names, and the whole way by functions."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from desk import Desk, make_desk
from kaggle_support import Port
from sounds import tone, write_wav

import kaggle_hw4
from kaggle_hw4 import Variant, Workspace, blend, export, get_board, get_data, identify, register, send, train, variants
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.verbs import Trained, diff, explain, open_split, predict

SOURCE = Path(kaggle_hw4.__file__)


@pytest.fixture
def desk(tmp_path: Path, port: Port, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(tmp_path, port, monkeypatch, tiny.files())


@pytest.fixture
def own_variant() -> Iterator[str]:
    """A variant as somebody would register it in a script."""

    @register("mine")
    def mine() -> Variant:
        """a small one of my own"""
        return replace(variants.variant("conformer-full"), layers=1, d_model=16, crop=40, batch=8, steps=4, warmup=1)

    yield "mine"
    del variants._REGISTRY["mine"]


def test_the_whole_way_by_functions(desk: Desk, own_variant: str, tmp_path: Path) -> None:
    workspace = Workspace(desk.root)
    with pytest.raises(DataError, match="no data in"):
        train(workspace)
    store = get_data(workspace)  # through Kaggle's own client
    assert (len(store.speakers), len(store.train_rows), len(store.test_rows)) == (4, 24, 8)
    assert store.frames.shape == (store.total_frames, 40)
    assert open_split(workspace, k=2)[1].k == 2

    with pytest.raises(UsageError, match="no variant 'mien'"):
        train(workspace, "mien")
    assert train(workspace, own_variant, dry_run=True) == []
    done = train(workspace, own_variant, workers=1)
    assert [(one.member, one.fold) for one in done] == [("mine-s0", 0), ("mine-s0", 1)]
    assert all(is_dataclass(one) and (one.folder / "test.npy").exists() for one in done)
    assert sum(one.utterances for one in done) == 24
    assert train(workspace, [own_variant], workers=1) == done

    made = blend(workspace)
    assert [member.name for member in made.members] == ["mine-s0"]
    assert made.estimate.accuracy == pytest.approx(np.average([one.accuracy or 0 for one in done], weights=[12, 12]))
    assert send(workspace, made.name, dry_run=True) is None
    row = send(workspace, made.name)
    assert row is not None
    assert row.state == "complete"
    assert row.public is not None
    board = get_board(workspace, sync=True)
    assert [line.name for line in board.submissions] == [made.name]
    assert board.submissions[0].accuracy == made.estimate.accuracy
    assert explain(workspace, made.name, verify=True).broken is None
    assert diff(workspace, made.name, "mine-s0").difference.differ == 0

    predictor = export(workspace, made.name)
    assert predictor.speakers == store.speakers
    (named,) = identify([write_wav(tmp_path / "a.wav", tone(1.0))], workspace.predictor)
    assert named.speaker in store.speakers
    assert sum(candidate.probability for candidate in named.candidates) == pytest.approx(1.0)
    assert_legal_everywhere(workspace.root)


def assert_legal_everywhere(root: Path) -> None:
    """Every path can be one on Windows and macOS too: no reserved character or name, none that differs by case only."""
    paths = [path.relative_to(root) for path in root.rglob("*")]
    assert len(paths) > 20
    for path in paths:
        assert not set(path.name) & set('<>:"/\\|?*'), path
        assert not path.name.endswith((" ", ".")), path
        assert path.name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}, path
    assert len({str(path).lower() for path in paths}) == len(paths)


def test_the_ten_names_are_documented_and_no_module_hides_them() -> None:
    assert len(kaggle_hw4.__all__) == 10
    assert set(kaggle_hw4.__all__) <= set(dir(kaggle_hw4))
    modules = {module.name for module in pkgutil.iter_modules([str(SOURCE.parent)])}
    assert not modules & set(kaggle_hw4.__all__)
    for name in kaggle_hw4.__all__:
        found = getattr(kaggle_hw4, name)
        assert found.__doc__
        assert f"{name}" in (kaggle_hw4.__doc__ or "")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kaggle_hw4.nonsense  # noqa: B018


def test_a_type_checker_sees_the_names_that_are_given() -> None:
    """They are imported for it alone; each from where it is found at run time."""
    tree = ast.parse(SOURCE.read_text())
    (shown,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in shown.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(seen) == set(kaggle_hw4.__all__)
    for name, module in seen.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(kaggle_hw4, name)
    assert (SOURCE.parent / "py.typed").exists()


@pytest.mark.slow
def test_mypy_knows_their_types_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from kaggle_hw4 import Workspace, train\n"
        "reveal_type(train(Workspace(Path('x')))[0].accuracy)\n"
        "train('x')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--ignore-missing-imports", str(script)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "float | None" in said
    assert 'incompatible type "str"; expected "Workspace"' in said


def test_the_light_names_stay_light_and_the_heavy_ones_come_when_called() -> None:
    code = (
        "import sys; from kaggle_hw4 import Variant, Workspace, get_data, register, train;"
        "print({'torch', 'pandas', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_results_are_typed_dataclasses() -> None:
    assert is_dataclass(Trained)
    hints = {name: getattr(kaggle_hw4, name).__annotations__ for name in ("get_data", "train", "blend", "identify")}
    assert {name: hint["return"] for name, hint in hints.items()} == {
        "get_data": "Store",
        "train": list[Trained],
        "blend": "Ensemble",
        "identify": "list[Identification]",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"engine": "Ray"}, "no engine 'Ray'"),
        ({"variants": []}, "no variants"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [1.5]}, "seeds"),
        ({"seeds": [True]}, "seeds"),
        ({"seeds": [2**32]}, "seeds"),
        ({"seeds": 3}, "seeds 3"),
        ({"logs": "papyrus"}, "no log 'papyrus'"),
        ({"workers": 0}, "workers 0"),
        ({"workers": -1}, "workers -1"),
        ({"folds": 0}, "folds 0"),
        ({"budget": 50}, "budget 50"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    tiny.store(tmp_path)
    with pytest.raises(UsageError, match=words):
        train(Workspace(tmp_path), **arguments)
    assert not (tmp_path / "runs").exists()


def test_training_in_a_thread_is_refused(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool, pytest.raises(UsageError, match="in a thread"):
        pool.submit(train, Workspace(tmp_path)).result()


def test_a_seed_given_twice_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice in one group, a training would wait for itself."""
    tiny.store(tmp_path)
    train(Workspace(tmp_path), "sample", seeds=[3, 3], steps=30, dry_run=True, device="cpu")
    assert "sample-s3: fold 0, 1, 2, 3, 4; 150 steps" in capsys.readouterr().err


def test_seeds_may_be_numpys_and_the_process_is_afterwards_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.store(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS")
    environment, threads = dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        done = train(Workspace(tmp_path), "sample", folds="0", seeds=np.arange(7, 8), steps=2, workers=1, device="cpu")
        assert [one.member for one in done] == ["sample-s7"]
        assert torch.get_num_threads() == 3
        train(Workspace(tmp_path), "sample", seeds=[7], steps=2, workers=1, device="cpu")
        predict(Workspace(tmp_path), device="cpu")
        assert torch.get_num_threads() == 3
        assert dict(os.environ) == environment
    finally:
        torch.set_num_threads(threads)


def test_identify_of_no_candidates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="top 0"):
        identify([], tmp_path / "predictor.safetensors", top=0)
