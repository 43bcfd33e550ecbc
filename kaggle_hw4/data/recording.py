"""A WAV file as the front end takes it: 16 kHz, one channel."""

from math import gcd
from pathlib import Path

import numpy as np

from kaggle_hw4.data.frontend import SAMPLE_RATE
from kaggle_hw4.errors import DataError

_FORMATS = ("WAV", "WAVEX", "RF64")  # as libsndfile calls them
_LONGEST_SECONDS = 600
_LOWEST_RATE, _HIGHEST_RATE = 8_000, 192_000
_LONGEST_CYCLE = 2_000  # samples after which resampling repeats itself: filters grow with it
_CONVERT = "Convert it, say with `ffmpeg -i FILE -ac 1 -ar 16000 OUT.wav`."


def read_recording(path: Path) -> np.ndarray:
    """Samples (samples,) float32 at 16 kHz, the mean of one or two channels; integers become ±1 of full scale.

    Resampled with a Kaiser window so long that log-mels of 44.1, 48 or 96 kHz are within 0.0005 of those by way of
    SoX's `rate` in the mean (0.018 with torchaudio's default).

    Raises:
        DataError: not a readable WAV file, of more than two channels, 10 minutes, an unusual rate, empty, or not
            finite.
    """
    import soundfile

    if path.is_dir() or not path.exists():
        raise DataError(f"{path}: {'is a folder' if path.exists() else 'there is no such file'}", "Give a WAV file.")
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, kind = file.samplerate, file.channels, file.format
            _check(path, kind, rate, channels, file.frames / rate)
            # GSM, say, is decoded from its beginning only: how much there is must be said.
            samples = file.read(-1 if file.seekable() else file.frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
        raise DataError(f"{path} cannot be read as a WAV file: {reason}", _CONVERT) from error
    again = "Record or convert it again."
    if not len(samples):
        raise DataError(f"{path} holds no samples: it is empty, or its header was never finished", again)
    with np.errstate(over="ignore", invalid="ignore"):
        wave = _resampled(samples.mean(1), rate)
    if not np.isfinite(wave).all():  # in the file, or since: the sum of two may be too large
        raise DataError(f"{path} holds samples that are no finite numbers, or far too large", again)
    return wave


def _check(path: Path, kind: str, rate: int, channels: int, seconds: float) -> None:
    if kind not in _FORMATS:
        raise DataError(f"{path} is {kind}, not a WAV file", _CONVERT)
    if channels > 2:
        raise DataError(f"{path} has {channels} channels, not one or two", _CONVERT)
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE or rate // gcd(rate, SAMPLE_RATE) > _LONGEST_CYCLE:
        raise DataError(f"{path} has the unusual sample rate {rate} Hz", _CONVERT)
    if seconds > _LONGEST_SECONDS:
        raise DataError(f"{path} is {seconds:.0f} s long, more than {_LONGEST_SECONDS}", "Cut out who is to be named.")


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return samples
    import torch
    from torchaudio.functional import resample

    at_16_khz = resample(
        torch.from_numpy(samples),
        rate,
        SAMPLE_RATE,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )
    return np.asarray(at_16_khz.numpy())
