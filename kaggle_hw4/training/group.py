"""Models of one variant that are trained together: every tensor of theirs has a leading model dimension."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.models.layers import SelfAttention
from kaggle_hw4.recipe import Variant


class Group:
    """The weights of M models: `weights` (M, parameters) in one tensor, so that clipping, optimiser and
    average are one operation each (on CPU 8 ms of a conformer's step with a tensor per parameter), and
    `buffers`, name → (M, …). Model m is initialised from `seeds[m]` as it would be alone."""

    def __init__(self, variant: Variant, n_speakers: int, seeds: list[int], device: torch.device) -> None:
        models = []
        for seed in seeds:
            torch.manual_seed(seed)
            models.append(SpeakerClassifier(variant, n_speakers))
        self._new: Callable[[], SpeakerClassifier] = lambda: SpeakerClassifier(variant, n_speakers)
        self._skeleton = models[0].to(device)  # in training mode; its code runs on the tensors below, never on its own
        self._products: set[str] = set()  # weights of what autocast computes in bf16 or fp16
        for path, module in self._skeleton.named_modules():
            if hasattr(module, "stacked"):
                module.stacked = len(seeds) > 1
            # Not the projection's: what it gives is added to all along the layers.
            if isinstance(module, nn.Linear | SelfAttention) and path != "projection":
                self._products |= {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        self._layout = [(name, parameter.shape) for name, parameter in self._skeleton.named_parameters()]
        rows = [torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) for model in models]
        self.weights = nn.Parameter(torch.stack([row.to(device) for row in rows]))
        names = [name for name, _ in self._skeleton.named_buffers()]
        self.buffers = {name: torch.stack([model.get_buffer(name).to(device) for model in models]) for name in names}

    def __len__(self) -> int:
        return len(self.weights)

    def __call__(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Logits (M, batch, speakers) in training mode of log-mels (M, batch, time, 40), `lengths` (M, batch)."""
        weights = self._named(self.weights)
        if len(self) == 1:  # alone: the plain call; vmap adds nothing to it but its own work
            tensors = {name: tensor.squeeze(0) for name, tensor in (weights | self.buffers).items()}
            arguments = (x[0], None if lengths is None else lengths[0])
            logits: Tensor = functional_call(self._skeleton, tensors, arguments)
            return logits[None]

        def one(tensors: dict[str, Tensor], x: Tensor, lengths: Tensor | None) -> Tensor:
            answer: Tensor = functional_call(self._skeleton, tensors, (x, lengths))
            return answer

        if torch.is_autocast_enabled(x.device.type):
            # Under vmap a linear layer is a product and a sum, and autocast leaves the bias in fp32: the sum, and all
            # that is made of it, would be in fp32 too, and twice as large.
            low = self._named(self.weights.to(torch.get_autocast_dtype(x.device.type)))
            weights |= {name: low[name] for name in self._products}
        in_dims = (0, 0, None if lengths is None else 0)
        stacked: Tensor = vmap(one, in_dims, randomness="different")(weights | self.buffers, x, lengths)
        return stacked

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """`weights` (M, parameters) as views by name, each (M, …)."""
        parts = weights.split([shape.numel() for _, shape in self._layout], dim=1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self._layout, parts, strict=True)}

    def state_dict(self, m: int, weights: Tensor, buffers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Row `m` of tensors like `weights` and `buffers`, as the state of a SpeakerClassifier."""
        named = self._named(weights.detach()[m : m + 1]) | {name: b[m : m + 1] for name, b in buffers.items()}
        return {name: tensor[0].clone() for name, tensor in named.items()}

    def model(self, m: int, weights: Tensor, buffers: dict[str, Tensor]) -> SpeakerClassifier:
        """Model `m` by itself, with rows of tensors like `weights` and `buffers`."""
        with torch.device("meta"):  # not initialised: that would draw from the random state of the training
            model = self._new()
        model.load_state_dict(self.state_dict(m, weights, buffers), assign=True)
        return model.requires_grad_(False)

    def layout(self) -> list[Any]:
        """Names and shapes in the order in which they lie in `weights`."""
        return [[name, list(shape)] for name, shape in self._layout]
