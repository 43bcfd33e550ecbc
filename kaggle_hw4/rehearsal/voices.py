"""Speakers synthesised from scratch: a source-filter voice for rehearsing speaker identification.

A glottal source (pulses and breath) and a hiss for consonants excite formant resonators, as in
D. H. Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980). Vowel targets are
the men's means of G. E. Peterson & H. L. Barney, "Control methods used in a study of the vowels",
JASA 24 (1952); the other targets follow Klatt's tables, rounded. Filtering happens frame by frame in
the short-time spectrum, where a time-varying filter is one product.

Who speaks is in the `Speaker`. Sentence, mood, channel, level and noise are drawn anew for every
utterance, by the same law for everyone, so that they tell nothing about the speaker.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

SAMPLE_RATE = 16_000
_HOP, _N_FFT = 128, 512  # 8 ms: formants move slowly enough for that
_FREQUENCIES = np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
_Z = np.exp(-2j * np.pi * _FREQUENCIES / SAMPLE_RATE)  # one sample's delay, on the unit circle
_UPPER_FORMANTS = (3500.0, 4500.0, 5500.0, 6500.0)  # a neutral tube of 17.5 cm; the lower three move
_BANDWIDTHS = (70.0, 90.0, 150.0, 220.0, 280.0, 350.0, 450.0)


class Phone(NamedTuple):
    """Targets of one sound: formants and hiss in Hz, length in seconds, amplitudes of the two sources."""

    formants: tuple[float, float, float]
    seconds: float
    voice: float = 0.0
    hiss: float = 0.0
    hiss_hz: float = 0.0
    hiss_width: float = 1000.0


_PHONES = {
    "i": Phone((270, 2290, 3010), 0.11, 0.8),
    "ɪ": Phone((390, 1990, 2550), 0.08, 0.9),
    "ɛ": Phone((530, 1840, 2480), 0.10, 1.0),
    "æ": Phone((660, 1720, 2410), 0.13, 1.0),
    "ɑ": Phone((730, 1090, 2440), 0.13, 1.0),
    "ɔ": Phone((570, 840, 2410), 0.13, 1.0),
    "ʊ": Phone((440, 1020, 2240), 0.09, 0.9),
    "u": Phone((300, 870, 2240), 0.11, 0.8),
    "ʌ": Phone((640, 1190, 2390), 0.09, 1.0),
    "ɝ": Phone((490, 1350, 1690), 0.12, 0.9),
    "m": Phone((250, 1100, 2200), 0.07, 0.35),
    "n": Phone((250, 1600, 2600), 0.06, 0.35),
    "l": Phone((350, 1050, 2800), 0.06, 0.5),
    "r": Phone((330, 1150, 1500), 0.06, 0.5),
    "w": Phone((300, 650, 2200), 0.06, 0.45),
    "j": Phone((270, 2200, 3000), 0.06, 0.45),
    "s": Phone((320, 1400, 2530), 0.10, 0.0, 1.0, 6200, 1300),
    "ʃ": Phone((300, 1800, 2700), 0.11, 0.0, 1.2, 3300, 1000),
    "f": Phone((340, 1100, 2080), 0.09, 0.0, 0.25, 5000, 4000),
    "z": Phone((300, 1400, 2530), 0.08, 0.3, 0.5, 6200, 1300),
    "v": Phone((300, 1100, 2080), 0.06, 0.35, 0.1, 5000, 4000),
    "h": Phone((500, 1500, 2500), 0.06, 0.05, 0.2, 1500, 1200),
    "p": Phone((400, 1100, 2150), 0.02, 0.0, 0.5, 1000, 1500),
    "t": Phone((400, 1600, 2600), 0.03, 0.0, 1.0, 4500, 1800),
    "k": Phone((350, 1900, 2600), 0.03, 0.0, 0.8, 2200, 900),
    "b": Phone((300, 1000, 2100), 0.02, 0.3, 0.3, 800, 1200),
    "d": Phone((300, 1700, 2600), 0.02, 0.3, 0.6, 4200, 1800),
    "g": Phone((300, 1900, 2300), 0.02, 0.3, 0.5, 2000, 900),
    "_": Phone((400, 1500, 2500), 0.05),  # closed lips or tongue before a stop
    " ": Phone((500, 1500, 2500), 0.28),  # a pause
}
_NAMES = list(_PHONES)
_VOWELS = _NAMES[:10]
_ONSETS = ["", *"mnlrwjsʃfzvh", "_p", "_t", "_k", "_b", "_d", "_g", "_tr", "_kl", "s_t"]
_CODAS = ["", "", "", "n", "m", "s", "l", "r", "_t", "_k", "z"]


@dataclass(frozen=True, eq=False)
class Speaker:
    """What stays the same whenever this person speaks. Multipliers are around 1."""

    pitch: float  # Hz, in a neutral mood
    pitch_range: float  # standard deviation of the intonation, semitones
    tract: float  # multiplies every formant: above 1 for a short vocal tract
    accent: np.ndarray  # (phones, 3) multipliers: this person's own way with every sound
    upper: np.ndarray  # (4,) multipliers of the formants that do not move
    bandwidth: float  # multiplier
    breath: float  # breath noise beside the pulses, amplitude
    tilt: float  # fall of the source's spectrum, dB per octave
    sibilance: float  # multiplies the frequency of hisses
    jitter: float  # random change of the pitch from frame to frame, relative
    shimmer: float  # random change of the pulses' amplitude, relative
    rate: float  # multiplies the speed of speech
    drawl: float  # multiplies the length of vowels
    pausing: float  # probability of a pause after a syllable


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """Draw a person: about half have long tracts and low voices, with much overlap."""
    small = rng.random() < 0.5
    own = rng.normal(0, 0.025, 3)  # a bias of each formant, beside that of each sound
    return Speaker(
        pitch=(190 if small else 120) * 2 ** rng.normal(0, 0.25),
        pitch_range=rng.uniform(1.0, 3.5),
        tract=(1.13 if small else 1.0) * (1 + rng.normal(0, 0.04)),
        accent=1 + own + rng.normal(0, 0.035, (len(_PHONES), 3)),
        upper=1 + rng.normal(0, 0.03, len(_UPPER_FORMANTS)),
        bandwidth=rng.uniform(0.8, 1.4),
        breath=10 ** rng.uniform(-2.2, -0.8),
        tilt=rng.normal(6.5, 1.5),
        sibilance=1 + rng.normal(0, 0.06),
        jitter=rng.uniform(0.003, 0.015),
        shimmer=rng.uniform(0.02, 0.15),
        rate=rng.uniform(0.85, 1.2),
        drawl=rng.uniform(0.85, 1.25),
        pausing=rng.uniform(0.03, 0.12),
    )


def utterance(speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """One utterance of random syllables over a random channel.

    Returns a waveform, float32 (samples,), 16 kHz, in steps of 16 bits within ±1; mostly 1 to 6 seconds.
    """
    phones, edges = _sentence(speaker, rng)
    frames = int(np.ceil(edges[-1] * SAMPLE_RATE / _HOP))
    samples = (frames - 1) * _HOP + _N_FFT
    phone = phones[np.searchsorted(edges, np.arange(frames) * _HOP / SAMPLE_RATE, side="right")]
    table = [_PHONES[name] for name in _NAMES]

    def track(values: list[float], smooth_ms: float) -> np.ndarray:
        """The course of a target, frame by frame, as sluggish as the organ it belongs to."""
        spread = smooth_ms / 1000 * SAMPLE_RATE / _HOP
        return gaussian_filter1d(np.array(values)[phone], spread, truncate=3, mode="nearest")

    voice, hiss = track([p.voice for p in table], 10), track([p.hiss for p in table], 6)
    formants = [track([p.formants[n] * speaker.accent[i, n] for i, p in enumerate(table)], 20) for n in range(3)]
    pulses = _pulses(speaker, _pitch(speaker, phone, rng), rng)[:samples]
    effort = rng.normal(0, 1.5)  # speaking up flattens the source's spectrum
    octaves = np.log2(np.maximum(_FREQUENCIES, 200) / 200)
    source = 10 ** (-(speaker.tilt + effort) * octaves / 20)

    glottis = _spectrum(pulses + speaker.breath * rng.normal(0, 1, samples)) * source * voice[:, None]
    speech = glottis * _resonances(speaker, formants)
    centre = track([p.hiss_hz * speaker.sibilance for p in table], 6)[:, None]
    width = track([p.hiss_width for p in table], 6)[:, None]
    shape = np.exp(-0.5 * ((_FREQUENCIES - centre) / width) ** 2)
    speech += 0.08 * hiss[:, None] * shape * _spectrum(rng.normal(0, 1, samples))
    return _recording(speech, rng)


def _sentence(speaker: Speaker, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random syllables: indices of the sounds, and the time (s) at which each one ends."""
    target = np.clip(2.6 * np.exp(rng.normal(0, 0.45)), 1.0, 6.5)
    rate = speaker.rate * np.exp(rng.normal(0, 0.08))
    names: list[str] = []
    lengths: list[float] = []
    while sum(lengths) < target:
        syllable = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for name in syllable + " " * (rng.random() < speaker.pausing):
            stretch = (speaker.drawl if name in _VOWELS else 1.0) * np.exp(rng.normal(0, 0.2))
            names.append(name)
            lengths.append(_PHONES[name].seconds * stretch / rate)
    return np.array([_NAMES.index(name) for name in [*names, " "]]), np.cumsum([*lengths, 0.1])


def _pitch(speaker: Speaker, phone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pitch in Hz of each frame: mood, a falling line, accents as slow as syllables, jitter."""
    frames = len(phone)
    accents = gaussian_filter1d(rng.normal(0, 1, frames), 12, mode="wrap")
    accents /= accents.std() + 1e-9
    mood, fall = rng.normal(0, 1.2), np.linspace(1.5, -1.5, frames)
    semitones = mood + fall + speaker.pitch_range * accents
    return speaker.pitch * 2 ** (semitones / 12) * (1 + rng.normal(0, speaker.jitter, frames))


def _pulses(speaker: Speaker, pitch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A train of pulses at the pitch of each frame, (frames · hop + window,) samples, shimmering."""
    samples = len(pitch) * _HOP + _N_FFT
    phase = np.cumsum(np.interp(np.arange(samples) / _HOP, np.arange(len(pitch)), pitch) / SAMPLE_RATE)
    at = np.flatnonzero(np.diff(np.floor(phase)))
    late = (phase[at + 1] % 1) / (phase[at + 1] - phase[at])  # how far before the next sample it falls
    strength = 1 + rng.normal(0, speaker.shimmer, len(at))
    # Equal power at every pitch; a pulse between two samples is shared by both.
    strength *= np.sqrt(1 / np.maximum(phase[at + 1] - phase[at], 1e-4))
    train = np.zeros(samples)
    train[at] += strength * late
    train[at + 1] += strength * (1 - late)
    return train


def _resonances(speaker: Speaker, lower: list[np.ndarray]) -> np.ndarray:
    """Response (frames, bins) of the vocal tract: Klatt's digital resonators in cascade."""
    upper = [np.full_like(lower[0], f * u) for f, u in zip(_UPPER_FORMANTS, speaker.upper, strict=True)]
    gain, poles = np.ones((len(lower[0]), 1)), np.ones((len(lower[0]), len(_Z)), complex)
    for formant, bandwidth in zip([*lower, *upper], _BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth * speaker.bandwidth / SAMPLE_RATE)
        b = 2 * radius * np.cos(2 * np.pi * formant * speaker.tract / SAMPLE_RATE)[:, None]
        gain *= 1 - b + radius**2  # unit gain at 0 Hz
        poles *= 1 - b * _Z + radius**2 * _Z**2
    return gain / poles


def _recording(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Send the spectrum (frames, bins) of clean speech over a random channel; returns the waveform."""
    mel = np.log1p(_FREQUENCIES / 700) / np.log1p(SAMPLE_RATE / 2 / 700)
    ripples = np.arange(1, 5)
    tone = (rng.normal(0, 2.5, 4) / np.sqrt(ripples)) @ np.cos(np.pi * ripples[:, None] * mel)  # dB
    low, high = rng.uniform(40, 250), rng.uniform(3400, 8500)
    band = 1 / np.sqrt((1 + (low / (_FREQUENCIES + 1)) ** 4) * (1 + (_FREQUENCIES / high) ** 16))
    speech = speech * 10 ** (tone / 20) * band

    power = np.sum(np.abs(speech) ** 2, axis=1)
    loudness = power[power > 0.05 * power.max()].mean()
    colour = (1 + _FREQUENCIES / 300) ** -rng.uniform(0, 1.5)
    noise = _spectrum(rng.normal(0, 1, (len(speech) - 1) * _HOP + _N_FFT)) * colour
    noise *= np.sqrt(loudness / np.mean(np.sum(np.abs(noise) ** 2, axis=1)) / 10 ** rng.uniform(1.0, 4.0))
    if rng.random() < 0.5:  # like many codecs, half of the recordings are silent where nobody speaks
        noise *= (power > 0)[:, None]

    wave = _waveform(speech + noise)
    wave *= rng.uniform(0.05, 0.95) / np.abs(wave).max()
    return (np.round(wave * 32768) / 32768).astype(np.float32)


def _spectrum(wave: np.ndarray) -> np.ndarray:
    """Short-time spectrum (frames, bins) of a waveform of (frames - 1) · hop + window samples."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, _N_FFT)[::_HOP]
    return np.fft.rfft(frames * np.hanning(_N_FFT + 1)[:-1])


def _waveform(spectrum: np.ndarray) -> np.ndarray:
    """Overlap-add: the inverse of `_spectrum` but for a constant factor and the very edges."""
    frames, overlap = len(spectrum), _N_FFT // _HOP
    blocks = np.fft.irfft(spectrum, _N_FFT).reshape(frames, overlap, _HOP)
    wave = np.zeros((frames + overlap - 1, _HOP))
    for shift in range(overlap):
        wave[shift : shift + frames] += blocks[:, shift]
    return wave.ravel()
