"""What a GPU would refuse or do slowly, found without one: types that do not fit, code that does not compile."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from jobs_done import Session, small, trainer_of
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode

from kaggle_hw4 import variants, verbs
from kaggle_hw4.data.crops import Frames
from kaggle_hw4.errors import UsageError
from kaggle_hw4.jobs import calibrate
from kaggle_hw4.jobs.plan import choose_device
from kaggle_hw4.machine import memory_errors
from kaggle_hw4.recipe import Variant
from kaggle_hw4.runs import Job
from kaggle_hw4.training import session as session_module
from kaggle_hw4.training.capture import Graphs, Kind
from kaggle_hw4.training.group import Group
from kaggle_hw4.training.trainer import Diverged, State, Trainer
from kaggle_hw4.workspace import Workspace

NAMES = ("sample", "transformer-full", "conformer-full", *variants.SETS["best"])


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_types_fit_on_a_gpu(name: str, padded: bool, models: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's forward pass in its types there, on tensors that only say where they are."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    group = Group(replace(variants.variant(name), dropout=0.1), 7, list(range(models)), torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        group.weights = torch.nn.Parameter(torch.empty(group.weights.shape, device="cuda"))
        group.buffers = {
            name: torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda") for name, buffer in group.buffers.items()
        }
        x, lengths = torch.empty(models, 4, 140, 40, device="cuda"), torch.full((models, 4), 130, device="cuda")
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            assert torch.is_autocast_enabled("cuda")
            logits = group(x, lengths if padded else None)
    assert logits.shape == (models, 4, 7)
    assert logits.device.type == "cuda"


@pytest.mark.skipif(Version(torch.__version__) < Version("2.5"), reason="the compiler of PyTorch 2.4 breaks off")
@pytest.mark.parametrize("name", ["transformer-full", "conformer-full", "ecapa"])
def test_a_group_compiles_as_one_graph(name: str) -> None:
    """Where the compiler would break off it goes on uncompiled, and silently: on an H200 at nearly no gain."""
    group = Group(replace(variants.variant(name), layers=1, dropout=0.0), 7, [0, 1], torch.device("cpu"))
    torch.compiler.reset()
    forward = torch.compile(group.__call__, dynamic=False, fullgraph=True, backend="aot_eager")
    x, lengths = torch.randn(2, 4, 50, 40), torch.tensor([[50, 30, 20, 50]] * 2)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        compiled, plain = forward(x, lengths), group(x, lengths)
    torch.testing.assert_close(compiled, plain)


class Breaking:
    """Graphs of a step that can be made uncompiled only."""

    def __init__(self, trainer: Trainer, error: Exception) -> None:
        self.trainer, self.error = trainer, error

    def step(self, kind: Kind) -> None:
        if self.trainer.compiled:
            raise self.error
        self.trainer._compute(*kind)


def test_where_the_compiler_fails_training_goes_on_without(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, broken, crowded = (trainer_of(session, small("sample", dropout=0.0), [0]) for _ in range(3))
    broken.compiled = crowded.compiled = True
    broken._graphs = Breaking(broken, RuntimeError("no C compiler\nat all"))  # type: ignore[assignment]
    for trainer in (plain, broken):
        trainer.dtype = torch.float32
        trainer.train_step()
    torch.testing.assert_close(plain.losses, broken.losses)  # padded, for one graph to do for all; no other function
    assert "not compiled" in (told := capsys.readouterr().err)
    assert "no C compiler" in told
    crowded._graphs = Breaking(crowded, torch.OutOfMemoryError("full"))  # type: ignore[assignment]
    with pytest.raises(torch.OutOfMemoryError):  # fewer at once are the answer to that
        crowded.train_step()


def test_a_trainer_that_nobody_needs_leaves_the_gpu_at_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data and its graphs' memory are what the next one needs, and Python looks for circles when it likes."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    trainer = trainer_of(session, small("sample"), [0])
    trainer._graphs = Graphs(trainer._compute, trainer._tensors, trainer.device)
    alive = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert alive() is None
    finally:
        gc.enable()


def test_predicting_names_one_of_the_gpus(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch refuses to make `cuda` the current device: it has no number."""

    class Chosen(Exception):
        pass

    def choose(device: torch.device) -> None:
        raise Chosen(str(device))

    monkeypatch.setattr("kaggle_hw4.jobs.plan.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", choose)
    with pytest.raises(Chosen, match="cuda:0"):
        verbs.predict(Workspace(tmp_path), device="cuda")


def test_a_gpu_that_is_of_no_use_to_this_pytorch_is_no_gpu_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nFor debugging …")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", refuse)
    with pytest.raises(UsageError, match=r"--device auto cannot be used: .*no kernel image") as error:
        choose_device("auto")
    assert "debugging" not in error.value.cause
    assert "--device cpu" in error.value.remedy


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory\nCUDA kernel errors", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_memory_that_a_library_of_the_gpu_was_refused_is_memory(said: str) -> None:
    with pytest.raises(MemoryError, match=said.split("\n")[0]), memory_errors():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="misaligned"), memory_errors():
        raise RuntimeError("CUDA error: misaligned address")


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="PyTorch before 2.8 has no name for it")
def test_an_error_of_the_gpu_is_not_taken_for_the_compilers(session: Session) -> None:
    broken = trainer_of(session, small("sample", dropout=0.0), [0])
    broken.compiled = True
    broken._graphs = Breaking(broken, torch.AcceleratorError("CUDA error: unknown"))  # type: ignore[assignment]
    with pytest.raises(torch.AcceleratorError):  # its process is of no more use
        broken.train_step()


@pytest.mark.parametrize("sharing", [1, 2])
def test_each_process_on_a_gpu_has_the_data_and_its_context_for_itself(
    session: Session, monkeypatch: pytest.MonkeyPatch, sharing: int
) -> None:
    """Measured are two models with the longest crops: of 1 GB each, where 16 GB are free."""
    frames, gigabyte = Frames(session.store, torch.device("cpu")), 10**9
    made: list[tuple[int, int]] = []

    def trainer(v: Variant, frames: Frames, models: int, capture: bool) -> Any:
        made.append((v.longest_crop, models))
        return MagicMock()

    monkeypatch.setattr(calibrate, "_trainer", trainer)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: gigabyte)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: gigabyte + 2 * gigabyte)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * gigabyte, 0))
    v = small("sample", also_crops=(40,), final_share=0.1, final_crop=60)
    fitting = calibrate._fitting(v, frames, 5, sharing)
    assert made == [(60, 2)]
    assert fitting == {1: 13, 2: 6}[sharing]  # 0.85 × 16 GB, and the half of it less a context


def test_where_a_model_diverges_no_two_trainers_are_in_memory(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_of(session, small("sample"), [0]).train_step()  # what PyTorch makes once holds on to the first
    made: list[weakref.ref[Trainer]] = []
    new, fit = session_module._Training._trainer, Trainer.fit

    def noted(training: session_module._Training, states: list[State]) -> Trainer:
        assert not [trainer for trainer in made if trainer() is not None]
        made.append(weakref.ref(trainer := new(training, states)))
        return trainer

    def diverging(trainer: Trainer, **options: Any) -> bool:
        if len(trainer.seeds) == 2:
            raise Diverged([0], [float("nan")] * 2, 1, 0.1)
        return fit(trainer, **options)

    monkeypatch.setattr(session_module._Training, "_trainer", noted)
    monkeypatch.setattr(Trainer, "fit", diverging)
    gc.collect()
    gc.disable()
    try:
        failures = session.do_together([Job("diverging", small("sample"), seed, 0) for seed in (0, 1)])
    finally:
        gc.enable()
    assert [job.seed for job in failures] == [0]
    assert len(made) == 2
