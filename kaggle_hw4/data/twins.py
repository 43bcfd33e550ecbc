"""Utterances that are the same recording: byte for byte, or nearly so (noise, another level, cut elsewhere)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kaggle_hw4.data.store import Store

# Nearest neighbours that are looked at frame by frame: a few ms each, so a minute for all of them.
_NEIGHBOURS, _MOST_PAIRS = 5, 20_000
_LIKENESS = 0.96  # correlation of frames; other recordings: real speech below 0.6, synthetic voices below 0.955
_OVERLAP = 0.5  # of the shorter utterance
_LONGEST = 2_000  # frames that are compared


@dataclass(frozen=True)
class Pair:
    """Two rows of the store; `likeness` is 1 for byte-identical ones, else the correlation of their frames."""

    a: int
    b: int
    likeness: float


def exact_twins(store: Store) -> list[Pair]:
    """Pairs of byte-identical utterances, each with the first of its content."""
    first: dict[str, int] = {}
    pairs = []
    for row, digest in enumerate(store.index["digest"]):
        if digest in first:
            pairs.append(Pair(first[digest], row, 1.0))
        else:
            first[digest] = row
    return pairs


def near_twins(store: Store, statistics: np.ndarray, tick: Callable[[str], None]) -> list[Pair]:
    """Pairs that are the same recording but not byte for byte, most alike first.

    Neighbours by pooled `statistics` (utterances, features) are compared frame by frame, at the
    shift that fits best. A recording is missed when another half of it is in each utterance.
    """
    from sklearn.neighbors import NearestNeighbors

    scaled = (statistics - statistics.mean(0)) / np.maximum(statistics.std(0), 1e-6)
    count = min(_NEIGHBOURS, len(scaled) - 1)
    distances, neighbours = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(scaled).kneighbors()
    digests = store.index["digest"].to_numpy()
    nearest = np.argsort(distances, axis=None, kind="stable")
    pairs: dict[tuple[int, int], None] = {}
    for place in nearest.tolist():
        a, b = place // count, int(neighbours.flat[place])
        if digests[a] != digests[b]:
            pairs[min(a, b), max(a, b)] = None
        if len(pairs) == _MOST_PAIRS:
            break
    found = []
    for done, (a, b) in enumerate(pairs):
        if done % 500 == 0:
            tick(f"near-twins: {done:,} of {len(pairs):,} pairs")
        likeness = _likeness(_frames(store, a), _frames(store, b))
        if likeness >= _LIKENESS:
            found.append(Pair(a, b, likeness))
    return sorted(found, key=lambda pair: -pair.likeness)


def _frames(store: Store, row: int) -> np.ndarray:
    """Frames (up to _LONGEST, 40), each mel around its mean: another level or microphone changes little."""
    start = store.offsets[row]
    frames = store.frames[start : start + min(store.lengths[row], _LONGEST)].astype(np.float32)
    centred: np.ndarray = frames - frames.mean(0)
    return centred


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two utterances (frames, 40) at the shift where it is highest, over enough overlap."""
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(len(a) + len(b), real=True)
    products = irfft((rfft(a, size, axis=0) * np.conj(rfft(b, size, axis=0))).sum(1), size)
    needed = int(_OVERLAP * min(len(a), len(b)))
    shifts = np.arange(needed - len(b), len(a) - needed + 1)  # where b begins, counted in a
    begin, end = np.maximum(shifts, 0), np.minimum(shifts + len(b), len(a))
    energy_a, energy_b = (np.concatenate([[0.0], (x.astype(np.float64) ** 2).sum(1).cumsum()]) for x in (a, b))
    norm = (energy_a[end] - energy_a[begin]) * (energy_b[end - shifts] - energy_b[begin - shifts])
    return float((products[shifts % size] / np.sqrt(np.maximum(norm, 1e-9))).max())
