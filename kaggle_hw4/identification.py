"""Who speaks in a recording: a WAV file through the front end to a predictor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_hw4.data.frontend import HOP, SAMPLE_RATE, log_mel
from kaggle_hw4.data.recording import read_recording
from kaggle_hw4.errors import DataError
from kaggle_hw4.predictor import Predictor


@dataclass(frozen=True)
class Candidate:
    """A speaker, and the probability that it is this one, given that it is one of the predictor's."""

    speaker: str
    probability: float


@dataclass(frozen=True)
class Identification:
    """`candidates`, the most probable first, for `seconds` of sound that are left of `file` without silence."""

    file: Path
    seconds: float
    candidates: list[Candidate]

    @property
    def speaker(self) -> str:
        return self.candidates[0].speaker

    def as_json(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "seconds": self.seconds,
            "speaker": self.speaker,
            "candidates": [vars(candidate) for candidate in self.candidates],
        }


def identify_recordings(
    files: Sequence[Path], predictor: Predictor, top: int, tick: Callable[[int, int], None]
) -> list[Identification]:
    """The `top` most probable speakers of each WAV file, in the order of the files.

    Raises:
        DataError: a file cannot be read, or holds no sound; none is named then.
    """
    from scipy.special import softmax

    mels = [_features(path) for path in files]
    found = []
    for path, mel, p in zip(files, mels, softmax(predictor.logits(mels, tick), axis=1), strict=True):
        best = np.argsort(-p, kind="stable")[:top]
        candidates = [Candidate(predictor.speakers[i], float(p[i])) for i in best]
        found.append(Identification(path, (len(mel) - 1) * HOP / SAMPLE_RATE, candidates))
    return found


def _features(path: Path) -> np.ndarray:
    wave = read_recording(path)
    try:
        return np.asarray(log_mel(wave).numpy())
    except DataError as error:
        raise DataError(f"{path}: {error.cause}", error.remedy) from error
