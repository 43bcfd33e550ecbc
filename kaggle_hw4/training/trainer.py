"""The training loop of a group of models, and the state from which each of them goes on."""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaggle_hw4.data.crops import CropSampler, Frames
from kaggle_hw4.errors import first_line
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.recipe import Variant
from kaggle_hw4.terminal import say
from kaggle_hw4.training import augmentation
from kaggle_hw4.training.capture import Graphs, Kind, can_compile, worth_compiling
from kaggle_hw4.training.group import Group
from kaggle_hw4.training.losses import losses as losses_of
from kaggle_hw4.training.precision import LossScale, precision
from kaggle_hw4.training.schedules import average_weight, crop_lengths, learning_rate, margin

CHECKPOINT_SECONDS = 30.0  # a crash costs at most this much training, and the write
_PLANNED_STEPS = 256  # steps whose batches are drawn and sent to the device at once
# Errors that are no compiler's; before PyTorch 2.8 the second was a RuntimeError like others.
_OF_THE_GPU = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
State = dict[str, Any]


class Diverged(Exception):
    """The loss of some models is no longer finite; `models` are their places in the group."""

    def __init__(self, models: list[int], losses: list[float], step: int, rate: float) -> None:
        super().__init__(f"the loss is {losses[models[0]]} at step {step} (learning rate {rate:.2g})")
        self.models = models


class Trainer:
    """Models of one variant in training: weights, their running average, optimiser, step and random state.

    Model m starts from `seeds[m]` and sees the batches of `samplers[m]`; no model can tell whether it
    is trained alone or with others, but for rounding and the draws of dropout. On a GPU each step is one
    captured graph (training/capture.py), of compiled code where that pays, or as `compiled` says.
    """

    def __init__(
        self,
        variant: Variant,
        frames: Frames,
        samplers: Sequence[CropSampler],
        seeds: list[int],
        *,
        capture: bool = True,
        compiled: bool | None = None,
    ) -> None:
        self.variant, self.frames, self.samplers, self.seeds = variant, frames, list(samplers), seeds
        device = self.device = frames.device
        self.group = Group(variant, len(frames.store.speakers), seeds, device)
        self.average = self.group.weights.detach().clone()
        self.average_buffers = {name: buffer.clone() for name, buffer in self.group.buffers.items()}
        # Learning rate, weight of the average, margin.
        self._rates = torch.tensor([variant.lr, 1.0, 0.0], device=device)
        weights = self.group.weights
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            [weights], lr=self._rates[0], weight_decay=variant.weight_decay, fused=True, capturable=on_gpu
        )
        self.moments = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(weights),
            "exp_avg_sq": torch.zeros_like(weights),
        }
        self.optimizer.state[weights] = self.moments
        self.step = 0
        self.seconds = 0.0  # spent training, over all sessions
        self.losses = torch.zeros(len(seeds), device=device)  # summed since the last log
        self.dtype = precision(device)
        self.scale = LossScale(len(seeds), device) if self.dtype == torch.float16 else None
        self._inputs = torch.zeros(3, len(seeds), variant.batch, dtype=torch.int64, device=device)
        self._augmentation = augmentation.Augmentation(variant, device) if augmentation.augments(variant) else None
        self._draws = torch.zeros(len(seeds), variant.batch, augmentation.COLUMNS, device=device)
        self._planned = range(0)
        self._graphs = Graphs(self._compute, self._tensors, device) if capture and on_gpu else None
        self._forward: Callable[..., Tensor] = self.group
        wanted = worth_compiling(variant, len(seeds)) if compiled is None else compiled
        self.compiled = wanted and self._graphs is not None and can_compile(device)
        if self.compiled:
            torch.compiler.reset()  # it refuses to compile the same code for a ninth group
            self._forward = torch.compile(self.group.__call__, dynamic=False)

    def train_step(self) -> None:
        """One optimiser step of every model on its batch of this step; adds to `losses`. Nothing waits for the GPU."""
        if self.step not in self._planned:
            self._plan()
        place = self.step - self._planned.start
        self._inputs.copy_(self._batches[place])
        self._rates.copy_(self._rate_table[place])
        if self._augmentation:
            self._draws.copy_(self._draw_table[place])
        kind = int(self._crops[place]), bool(self._padded[place])
        if self._graphs is None:
            self._compute(*kind)
        else:
            self._replay(kind, self._graphs)
        self.step += 1

    def _replay(self, kind: Kind, graphs: Graphs) -> None:
        """The step as a graph; of what is not compiled, where the compiler fails."""
        try:
            graphs.step(kind)
        except _OF_THE_GPU:
            raise
        except Exception as error:  # whatever a compiler raises, as where the machine has none for C
            if not self.compiled:
                raise
            say(f"The steps are not compiled, and take twice as long: {first_line(error)}")
            self.compiled, self._forward = False, self.group
            graphs.step(kind)

    def _plan(self) -> None:
        """Draw the batches of the next steps and send them to the device, with the rates."""
        v = self.variant
        self._planned = range(self.step, min(self.step + _PLANNED_STEPS, max(v.steps, self.step + 1)))
        self._crops = crop_lengths(self._planned, v)
        drawn = [sampler.batches(self._planned.start, self._planned.stop, self._crops) for sampler in self.samplers]
        # (steps, [starts, lengths, labels], models, batch)
        table = torch.from_numpy(np.stack([np.stack(batches, axis=1) for batches in drawn], axis=2))
        rate = partial(learning_rate, peak=v.lr, warmup=v.warmup, steps=v.steps)
        rates = torch.tensor([[rate(step), average_weight(step, v), margin(step, v)] for step in self._planned])
        short = (table[:, 1] < torch.from_numpy(self._crops)[:, None, None]).flatten(1).any(1)
        padded = short.numpy() & (not v.start_over)
        self._padded = padded | (self.compiled and not v.start_over)  # one kind: each is compiled by itself
        self._batches, self._rate_table = table.to(self.device), rates.to(self.device)
        if self._augmentation:
            draws = [augmentation.draw(v, seed, self._planned) for seed in self.seeds]
            self._draw_table = torch.from_numpy(np.stack(draws, axis=1)).to(self.device)

    def _compute(self, crop: int, padded: bool) -> None:
        """The step on what lies in `_inputs`, `_draws` and `_rates`; on a GPU nothing in it depends on values."""
        starts, lengths, labels = self._inputs
        x = self.frames.gather(starts, lengths, crop, start_over=self.variant.start_over)
        real = lengths if padded else None
        share = None
        if self._augmentation:
            x, share = self._augmentation(x, real, self._draws)
        weights = self.group.weights
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False):
            logits = self._forward(x, real)
        losses = losses_of(logits, labels, share, self._rates[2], self.variant)
        self.optimizer.zero_grad()
        (losses if self.scale is None else self.scale.apply(losses)).sum().backward()
        gradient = weights.grad
        assert gradient is not None, "backward has run"
        with torch.no_grad():
            if self.scale:
                self.scale.take_out(gradient)
            norm = gradient.norm(dim=1, keepdim=True)
            gradient.mul_((self.variant.clip / (norm + 1e-6)).clamp_(max=1))
            self.optimizer.step()
            weight = self._rates[1]
            self.average.lerp_(weights, weight)
            for name, buffer in self.group.buffers.items():
                if buffer.is_floating_point():
                    self.average_buffers[name].lerp_(buffer, weight)
            self.losses += losses

    def _tensors(self) -> list[Tensor]:
        """All that a step changes."""
        buffers = [*self.group.buffers.values(), *self.average_buffers.values()]
        scale = [self.scale.value] if self.scale else []
        return [self.group.weights, self.average, *buffers, *self.moments.values(), self.losses, *scale]

    def averaged(self, m: int) -> SpeakerClassifier:
        """Model `m` with its averaged weights, which predict."""
        return self.group.model(m, self.average, self.average_buffers)

    def state(self, m: int) -> State:
        """All that model `m` needs to go on, alone or in another group."""
        return {
            "architecture": self.variant.architecture,
            "layout": self.group.layout(),
            "weights": self.group.weights.detach()[m].clone(),
            "average": self.average[m].clone(),
            "buffers": {name: buffer[m].clone() for name, buffer in self.group.buffers.items()},
            "average_buffers": {name: buffer[m].clone() for name, buffer in self.average_buffers.items()},
            "exp_avg": self.moments["exp_avg"][m].clone(),
            "exp_avg_sq": self.moments["exp_avg_sq"][m].clone(),
            "scale": self.scale.value[m].clone() if self.scale else None,
            "step": self.step,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    @torch.no_grad()
    def restore(self, states: list[State]) -> None:
        """Go on from the states of all models, which stand at one step.

        Raises:
            ValueError: a state is of another architecture.
        """
        for m, state in enumerate(states):
            if state["layout"] != self.group.layout():
                raise ValueError("its weights are laid out otherwise")
            self.group.weights[m] = state["weights"]
            self.average[m] = state["average"]
            for name, buffer in self.group.buffers.items():
                buffer[m] = state["buffers"][name]
                self.average_buffers[name][m] = state["average_buffers"][name]
            for name in ("exp_avg", "exp_avg_sq"):
                self.moments[name][m] = state[name]
            if self.scale and state["scale"] is not None:
                self.scale.value[m] = state["scale"]
        first = states[0]
        self.step, self.seconds = first["step"], first["seconds"]
        self.moments["step"].fill_(self.step)
        torch.set_rng_state(first["rng"])
        if self.device.type == "cuda" and first["cuda_rng"] is not None:
            torch.cuda.set_rng_state(first["cuda_rng"], self.device)

    def fit(
        self,
        *,
        save: Callable[[], None],
        log: Callable[[list[float]], None],
        validate: Callable[[], None],
        validate_after: Collection[int],
        should_stop: Callable[[], bool],
        until: float | None = None,
    ) -> bool:
        """Train to the variant's last step, or until `should_stop`; True when the training is over.

        It is over before the last step when the clock `time.monotonic` passes `until`. `save` is called
        every half minute and when stopping, `log` with each model's mean loss of the last steps,
        `validate` after the steps `validate_after`.

        Raises:
            Diverged: a loss is no longer finite.
        """
        steps = self.variant.steps
        log_every = max(20, steps // 1000)  # reading the losses waits for the GPU
        began = saved = time.monotonic()
        logged = self.step
        self.losses.zero_()
        while self.step < steps:
            self.train_step()
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            over = self.step == steps or (until is not None and now > until)
            if self.step % log_every == 0 or over:
                losses = (self.losses / (self.step - logged)).tolist()
                if bad := [m for m, loss in enumerate(losses) if not np.isfinite(loss)]:
                    raise Diverged(bad, losses, self.step, float(self._rates[0]))
                log(losses)
                logged = self.step
                self.losses.zero_()
            if over:
                break
            if self.step in validate_after:
                validate()
                began = time.monotonic()
            if should_stop():
                save()
                return False
            if now - saved > CHECKPOINT_SECONDS:
                save()
                began = saved = time.monotonic()
        save()
        return True
