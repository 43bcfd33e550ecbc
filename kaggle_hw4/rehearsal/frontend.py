"""The front end of the competition: from a waveform to the log-mel tensor that its files hold."""

from functools import cache

import numpy as np
import torch
from torchaudio.transforms import MelSpectrogram

from kaggle_hw4.competition import N_MELS
from kaggle_hw4.errors import DataError

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
LOWEST_HZ = 50.0
FLOOR = 1e-9  # of the mel power: the smallest value is log 1e-9 = -20.7233
PEAK = 10 ** (-3 / 20)  # -3 dB of full scale
_SILENCE = 0.01  # of full scale, as the RMS over 20 ms
_RMS_WINDOW = SAMPLE_RATE // 50
_LONGEST_SILENCE = SAMPLE_RATE // 10  # a breath of 0.1 s may stay


def log_mel(wave: np.ndarray) -> torch.Tensor:
    """Natural-log mel spectrogram, float32 (mel_len, 40), of 16 kHz mono samples (samples,).

    `mel_len` is one more than the whole hops in what is left after removing silence.
    Raises DataError when the recording holds only zeros or less than 25 ms.
    """
    speech = remove_silence(normalise(wave))
    if len(speech) < WINDOW:
        raise DataError(
            f"the recording holds {1000 * len(speech) / SAMPLE_RATE:.0f} ms of sound; 25 ms are needed",
            "Give a longer recording.",
        )
    mel = _mel_spectrogram()(torch.from_numpy(speech.astype(np.float32)))
    return mel.clamp(min=FLOOR).log().T.contiguous()


def normalise(wave: np.ndarray) -> np.ndarray:
    """Scale samples to a peak of -3 dB. Raises DataError when all are zero or there are none."""
    peak = np.abs(wave).max(initial=0)
    if peak == 0:
        raise DataError("the recording is silent", "Give a recording with somebody speaking.")
    return wave * (PEAK / peak)


def remove_silence(wave: np.ndarray) -> np.ndarray:
    """Cut silence at the beginning, and elsewhere what exceeds 0.1 s of it (RMS over 20 ms below 1 %).

    Does what the effect `silence 1 0.1 1% -1 0.1 1%` of SoX is meant to do, to within its windows.
    """
    energy = np.convolve(np.square(wave, dtype=np.float64), np.full(_RMS_WINDOW, 1 / _RMS_WINDOW), "same")
    now = np.arange(len(wave))
    last_loud = np.maximum.accumulate(np.where(energy > _SILENCE**2, now, -_LONGEST_SILENCE - 1))
    return wave[now - last_loud <= _LONGEST_SILENCE]


@cache
def _mel_spectrogram() -> MelSpectrogram:
    return MelSpectrogram(SAMPLE_RATE, n_fft=WINDOW, hop_length=HOP, f_min=LOWEST_HZ, n_mels=N_MELS)
