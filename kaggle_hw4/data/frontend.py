"""The front end of the competition: from a waveform to the log-mel tensor that its files hold.

The data was made with SoX by way of torchaudio: `channels 1`, `rate 16000`, `norm -3`, `silence 1 0.1 1% -1 0.1 1%`,
then a mel spectrogram and its natural logarithm. Recordings and synthetic voices go through the same code here.
"""

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
_SILENT = 1e-30  # of full scale: nothing that is recorded
_SILENCE = 0.01  # of full scale, as the RMS over the last 20 ms
_RMS_WINDOW = SAMPLE_RATE // 50
_PERIOD = SAMPLE_RATE // 10  # so much sound starts a stretch that is kept, so much silence ends it


def log_mel(wave: np.ndarray) -> torch.Tensor:
    """Natural-log mel spectrogram, float32 (mel_len, 40), of 16 kHz mono samples (samples,).

    `mel_len` is one more than the whole hops in what is left after removing silence.
    Raises DataError when the recording is silent, or holds no 0.1 s of sound at a stretch.
    """
    speech = remove_silence(normalise(wave))
    if not len(speech):
        raise DataError(
            f"there is no 0.1 s of sound in the {len(wave) / SAMPLE_RATE:.2f} s of the recording",
            "Give a longer recording, without clicks louder than the speech.",
        )
    return spectrogram(speech)


def spectrogram(speech: np.ndarray) -> torch.Tensor:
    """As `log_mel`, of samples whose level is right and whose silence is removed: at least 25 ms of them."""
    mel = _mel_spectrogram()(torch.from_numpy(speech.astype(np.float32)))
    return mel.clamp(min=FLOOR).log().T.contiguous()


def normalise(wave: np.ndarray) -> np.ndarray:
    """Scale samples to a peak of -3 dB. Raises DataError when all are zero, or next to it, or there are none."""
    peak = np.abs(wave).max(initial=0)
    if peak < _SILENT:
        raise DataError("the recording is silent", "Give a recording with somebody speaking.")
    return wave * (PEAK / peak)


def remove_silence(wave: np.ndarray) -> np.ndarray:
    """Drop silence as the effect `silence 1 0.1 1% -1 0.1 1%` of SoX 14.4.2 does, sample by sample.

    A stretch that is kept starts with 0.1 s of sound and goes on until 0.1 s of silence, which is dropped; the RMS
    over the 20 ms up to a sample tells them apart. After a stretch that window starts empty.
    """
    power = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    least = _SILENCE**2 * _RMS_WINDOW
    now = np.arange(1, len(wave) + 1)
    loud = power[now] - power[np.maximum(now - _RMS_WINDOW, 0)] >= least
    edges = np.flatnonzero(np.diff(loud, prepend=False, append=False)).tolist()

    kept = np.zeros(len(wave), bool)
    start: int | None = None  # of the stretch under way
    heard, ended = 0, 0  # sound is heard from here on; where the last sound ended
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if start is not None and begin - ended >= _PERIOD:
            kept[start:ended] = True
            start, cleared = None, ended + _PERIOD
            # The empty window can only fill up: loud from where it holds enough, or when it is full again.
            heard = min(int(np.searchsorted(power, power[cleared] + least)) - 1, cleared + _RMS_WINDOW)
        if start is None and end - max(begin, heard) >= _PERIOD:
            start = max(begin, heard)
        ended = end
    if start is not None:
        kept[start : len(wave) if len(wave) - ended < _PERIOD else ended] = True
    return wave[kept]


@cache
def _mel_spectrogram() -> MelSpectrogram:
    return MelSpectrogram(SAMPLE_RATE, n_fft=WINDOW, hop_length=HOP, f_min=LOWEST_HZ, n_mels=N_MELS)
