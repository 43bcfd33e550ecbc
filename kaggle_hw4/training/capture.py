"""A training step as CUDA graphs: launched one by one, its thousand small kernels keep the GPU waiting."""

from collections.abc import Callable
from weakref import WeakMethod

import torch
from torch import Tensor

from kaggle_hw4.recipe import Variant

# Compiled, a step of ten conformers takes 5.2 ms instead of 11.6 on an H100, of ten transformers 2.8 instead of 6.1,
# but compiling took 60 and 27 s: as long as so many steps of a model save.
_WORTH_COMPILING = 100_000
COMPILED_SHARE = 0.5  # of the time of a step that is not compiled
COMPILING_SECONDS = 60.0  # for each length of crops
_COMPILES_FROM = (7, 0)  # the compute capability that PyTorch's compiler asks for

Kind = tuple[int, bool]  # length of the crops in frames; whether some are padded


def can_compile(device: torch.device) -> bool:
    """Whether it is a GPU that PyTorch compiles for."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _COMPILES_FROM


def compiled_from(models: int) -> int:
    """The least number of steps from which `models` trainings at once are compiled."""
    return -(-_WORTH_COMPILING // models)


def worth_compiling(variant: Variant, models: int) -> bool:
    """Whether `models` trainings at once of all steps of `variant` win back on a GPU what compiling takes."""
    return variant.steps >= compiled_from(models)


class Graphs:
    """The method `step` as one graph for each kind of batch, captured when the first of its kind comes.

    What `step` reads and writes stays where it is; the method `changed` gives all that it changes but the random state.
    """

    def __init__(self, step: Callable[[int, bool], None], changed: Callable[[], list[Tensor]], device: torch.device):
        # Weak: they are methods of who has these graphs, and in a circle all of its tensors would stay on the GPU until
        # Python looks for circles, which it does not do because a GPU is full.
        self._step, self._changed, self._device = WeakMethod(step), WeakMethod(changed), device
        self._graphs: dict[Kind, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def step(self, kind: Kind) -> None:
        """One step on a batch of this kind."""
        if kind not in self._graphs:
            self._graphs[kind] = self._captured(kind)
        self._graphs[kind].replay()

    def _captured(self, kind: Kind) -> torch.cuda.CUDAGraph:
        """The step as a graph. Warming up takes real steps, which are undone."""
        step, changed = self._step(), self._changed()
        assert step is not None, "their owner calls"
        assert changed is not None, "their owner calls"
        # Detached: a copy that remembers the weights would bind their gradient to the stream of now, not the graph's.
        before = [tensor.detach().clone() for tensor in changed()]
        random_state = torch.cuda.get_rng_state(self._device)
        side = torch.cuda.Stream(self._device)
        try:
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                for _ in range(3):
                    step(*kind)
            torch.cuda.current_stream(self._device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                step(*kind)
        finally:
            torch.cuda.current_stream(self._device).wait_stream(side)  # where it broke off, too
            with torch.no_grad():
                for tensor, value in zip(changed(), before, strict=True):
                    tensor.copy_(value)
            torch.cuda.set_rng_state(random_state, self._device)
        return graph
