"""Recordings made by hand, and WAV files of them."""

from pathlib import Path

import numpy as np
import soundfile

from kaggle_hw4.data.frontend import SAMPLE_RATE


def tone(seconds: float, amplitude: float = 0.5, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A sine of 440 Hz, float32 (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def bursts(seed: int) -> np.ndarray:
    """About 5 s of noise that goes on and off, for as long as 10 to 300 ms and as loud as 0.2 % to full scale."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(160, 4800, 36)
    levels = 10 ** rng.uniform(-2.7, -0.8, 36) * (rng.random(36) < 0.7)
    wave = np.repeat(levels, lengths) * rng.uniform(-1, 1, lengths.sum())
    return (np.round(wave * 32768) / 32768).astype(np.float32)


def write_wav(path: Path, wave: np.ndarray, rate: int = SAMPLE_RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, wave, rate, subtype=subtype, format="WAV")
    return path
