"""A predictor in one file: the models of an ensemble, how their logits are blended, and a model card.

The file is in the safetensors format: `<part>/<model>/<parameter>` are the weights, and the metadata has one entry,
`kaggle-hw4`, a JSON object with the configuration and the card. Reading it runs no code.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kaggle_hw4.data.crops import Utterances
from kaggle_hw4.errors import DataError, HW4Error, first_line
from kaggle_hw4.inference import predict
from kaggle_hw4.models.classifier import SpeakerClassifier
from kaggle_hw4.recipe import Variant
from kaggle_hw4.workspace import atomic_path, content_hash, with_checksum

FORMAT = 2
_KEY = "kaggle-hw4"
_AGAIN = "Write it with `kaggle-hw4 export`, and copy it whole."
# Frames looked at together; of a longer recording the mean of equal parts. No utterance of the competition has more,
# and attention takes memory by the square of them.
_LONGEST = 7_200


@dataclass(frozen=True)
class Part:
    """One member: a model for each fold, and the refit if there is one.

    Their mean logits are multiplied with `beta` (weight / temperature).
    """

    name: str
    variant: Variant
    beta: float
    states: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Predictor:
    """Names one of `speakers`; `dtype` is what the frames were rounded to that its models were trained on."""

    speakers: list[str]
    dtype: str
    parts: list[Part]
    card: dict[str, Any]

    def logits(
        self, mels: Sequence[np.ndarray], tick: Callable[[int, int], None] = lambda done, of: None
    ) -> np.ndarray:
        """Blended logits (utterances, speakers) float32 of log-mels, each (frames, 40); their softmax is a probability.

        `tick` is told how many models have been asked, of how many.
        """
        pieces = [piece for mel in mels for piece in np.array_split(mel, -(-len(mel) // _LONGEST))]
        owner = np.repeat(np.arange(len(mels)), [-(-len(mel) // _LONGEST) for mel in mels])
        lengths = np.array([len(piece) for piece in pieces])
        frames = np.concatenate(pieces).astype(self.dtype)
        utterances = Utterances(frames, np.cumsum(lengths) - lengths, lengths, torch.device("cpu"))
        total = np.zeros((len(pieces), len(self.speakers)), np.float32)
        models = [(part, state) for part in self.parts for state in part.states]
        for done, (part, state) in enumerate(models):
            v, model = part.variant, SpeakerClassifier(part.variant, len(self.speakers))
            model.load_state_dict(state)
            rows = np.arange(len(pieces))
            found = predict(model, utterances, rows, crops=v.test_crops, crop=v.longest_crop)
            total += np.float32(part.beta / len(part.states)) * found
            tick(done + 1, len(models))
        return np.stack([total[owner == i].mean(0) for i in range(len(mels))])

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; the same predictor gives the same bytes."""
        tensors = {
            f"{i}/{j}/{name}": tensor.contiguous()
            for i, part in enumerate(self.parts)
            for j, state in enumerate(part.states)
            for name, tensor in state.items()
        }
        parts = [
            {"name": part.name, "recipe": part.variant.recipe(), "beta": part.beta, "models": len(part.states)}
            for part in self.parts
        ]
        content = {"format": FORMAT, "weights": _hash(tensors), "dtype": self.dtype, "speakers": self.speakers}
        content |= {"parts": parts, "card": self.card}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {_KEY: json.dumps(with_checksum(content))})

    @staticmethod
    def load(path: Path) -> "Predictor":
        """Read a predictor.

        Raises:
            DataError: not there, not a predictor, damaged, or of a newer version.
        """
        if not path.is_file():
            raise DataError(
                f"there is no predictor {path}", "Make one with `kaggle-hw4 export`, or name it: --model FILE"
            )
        try:
            with safe_open(path, "pt") as file:
                content = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if content.get("format") != FORMAT:
                what = f"a predictor of format {content['format']}" if "format" in content else "no predictor"
                raise DataError(f"{path} is {what}; this version of kaggle-hw4 reads format {FORMAT}", _AGAIN)
            if content.pop("checksum", None) != content_hash(content):
                raise DataError(f"{path} is damaged: the checksum of its description differs", _AGAIN)
            tensors = load_file(path)
            if _hash(tensors) != content["weights"]:
                raise DataError(f"{path} is damaged: the checksum of its weights differs", _AGAIN)
            parts = [
                Part(
                    str(part["name"]),
                    Variant(**part["recipe"]),
                    float(part["beta"]),
                    [_below(tensors, f"{i}/{j}/") for j in range(part["models"])],
                )
                for i, part in enumerate(content["parts"])
            ]
            found = Predictor(list(content["speakers"]), str(np.dtype(content["dtype"])), parts, dict(content["card"]))
            for part in parts:
                for state in part.states:
                    _check_fits(part, state, len(found.speakers))
        except DataError:
            raise
        except (
            SafetensorError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
            HW4Error,
        ) as error:
            reason = first_line(error)
            raise DataError(f"{path} is no predictor, or damaged: {reason}", _AGAIN) from error
        return found


def _hash(tensors: dict[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 of names and bytes: safetensors has no checksum of its own."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].numpy().tobytes())
    return sha.hexdigest()[:16]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_fits(part: Part, state: dict[str, Tensor], speakers: int) -> None:
    """Raises RuntimeError when the weights are not those of the recipe."""
    with torch.device("meta"):
        model = SpeakerClassifier(part.variant, speakers)
    model.load_state_dict(state, assign=True)
