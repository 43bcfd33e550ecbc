"""The training loop of one model, and the state from which it goes on."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from kaggle_hw4.data.crops import CropSampler
from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.training.schedules import ema_decay, learning_rate
from kaggle_hw4.variants import Variant
from kaggle_hw4.workspace import atomic_path

CHECKPOINT_SECONDS = 30.0  # a crash costs at most this much training, and the write
LOG_STEPS = 20
VALIDATIONS = 5  # over a training, the last after its end


class Trainer:
    """A model in training: weights, their running average, optimiser, step and random state."""

    def __init__(self, variant: Variant, n_speakers: int, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.variant = variant
        self.device = device
        self.model = SpeakerClassifier(variant, n_speakers).to(device)
        self.average = SpeakerClassifier(variant, n_speakers).to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=variant.lr)
        self.step = 0
        self.seconds = 0.0  # spent training, over all sessions
        # bf16 where the GPU computes in it; elsewhere it is emulated and slower than fp32.
        self.bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8

    def train_step(self, sampler: CropSampler) -> torch.Tensor:
        """One optimiser step on the batch of this step; returns its loss, a scalar on the device."""
        v = self.variant
        x, lengths, labels = sampler.batch(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, peak=v.lr, warmup=v.warmup, steps=v.steps)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.model(x, lengths), labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), v.clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        weight = 1 - ema_decay(self.step, self.variant.ema)
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        averaged, current = zip(*((a, c) for a, c in pairs if c.is_floating_point()), strict=True)
        torch._foreach_lerp_(averaged, current, weight)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def fit(
        self,
        sampler: CropSampler,
        *,
        save: Callable[[], None],
        log: Callable[[dict[str, Any]], None],
        validate: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Train to the variant's last step, or until `should_stop`; True when the last step is done.

        `save` is called every half minute and when stopping, `log` with the mean loss of the last
        steps, `validate` after every fifth of the steps.

        Raises:
            HW4Error: the loss is no longer finite.
        """
        began = saved = time.monotonic()
        logged_step, losses = self.step, torch.zeros((), device=self.device)
        while self.step < self.variant.steps:
            losses += self.train_step(sampler)
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            if self.step % LOG_STEPS == 0 or self.step == self.variant.steps:
                loss = losses.item() / (self.step - logged_step)
                if not torch.isfinite(losses):
                    lr = self.optimizer.param_groups[0]["lr"]
                    raise HW4Error(f"the loss is {loss} at step {self.step} (learning rate {lr:.2g})")
                log({"step": self.step, "loss": round(loss, 5), "seconds": round(self.seconds, 2)})
                logged_step, losses = self.step, torch.zeros((), device=self.device)
            if self.step % max(1, self.variant.steps // VALIDATIONS) == 0 and self.step < self.variant.steps:
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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()  # torch.save reports a full disk as something else than an OSError
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved there, on the CPU. Raises DataError when the file is not a checkpoint."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers do
        raise DataError(f"{path} cannot be read", f"Delete it: this training starts over. ({error})") from error
