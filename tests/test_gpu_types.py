"""What a GPU would refuse, found without one: a step's forward pass on tensors that only say where they are."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kaggle_hw4 import variants
from kaggle_hw4.training.group import Group

NAMES = ("sample", "transformer-full", "conformer-full", *variants.SETS["best"])


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_types_fit_on_a_gpu(name: str, padded: bool, models: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast, vmap and convolutions there want other types than on a CPU: all of it in the types of training."""
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
