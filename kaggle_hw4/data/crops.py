"""Batches of crops and of whole utterances, gathered from the packed store in one indexing operation."""

import numpy as np
import torch
from torch import Tensor

from kaggle_hw4.data.store import Store


class Frames:
    """The frames of a store, where batches are gathered: mapped on CPU, resident on a GPU."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._frames = torch.from_numpy(store.frames).to(device)

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Pieces of the store beginning at frame `starts` (batch,), `lengths` (batch,) frames long.

        Returns the log-mels (batch, longest, 40) float32 and the lengths (batch,), None when all are
        equal. Beyond its length a row repeats its last frame, which models must mask.
        """
        longest = int(lengths.max())
        steps = np.minimum(np.arange(longest), lengths[:, None] - 1)
        x = self._frames[torch.from_numpy(starts[:, None] + steps).to(self.device)].float()
        if int(lengths.min()) == longest:
            return x, None
        return x, torch.from_numpy(lengths).to(self.device)

    def whole(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The whole utterances at `rows` of the store."""
        return self.gather(self.store.offsets[rows], self.store.lengths[rows])

    def crops(self, rows: np.ndarray, crop: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """A random crop of `crop` frames of each utterance at `rows`; shorter ones are taken whole."""
        lengths = self.store.lengths[rows]
        starts = rng.integers(0, np.maximum(lengths - crop, 0), endpoint=True)
        return self.gather(self.store.offsets[rows] + starts, np.minimum(lengths, crop))


class CropSampler:
    """Training batches as a pure function of the step: any step can be had again, so resuming is exact.

    Each epoch visits every row once, in an order of its own.
    """

    def __init__(self, frames: Frames, rows: np.ndarray, *, crop: int, batch: int, seed: int) -> None:
        self.frames = frames
        self.rows = rows
        self.crop = crop
        self.batch_size = batch
        self.seed = seed
        self._order: tuple[int, np.ndarray] = (-1, rows)

    def batch(self, step: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Log-mels (batch, time, 40), lengths or None (see `Frames.gather`), and classes (batch,)."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rows = np.array([self._epoch(int(place) // len(self.rows))[place % len(self.rows)] for place in places])
        x, lengths = self.frames.crops(rows, self.crop, np.random.default_rng([self.seed, 1, step]))
        return x, lengths, torch.from_numpy(self.frames.store.labels[rows]).to(self.frames.device)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.rows)
            self._order = (epoch, order)
        return self._order[1]


def length_buckets(lengths: np.ndarray, *, tokens: int, attention: int) -> list[np.ndarray]:
    """Positions in `lengths` in batches of similar length, the longest first.

    A padded batch holds at most `tokens` frames, and at most `attention` pairs of frames per
    attention head, which bounds its memory; one utterance beyond these is a batch of its own.
    """
    buckets: list[np.ndarray] = []
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        longest = int(lengths[order[0]])
        count = max(1, min(tokens // longest, attention // longest**2))
        buckets.append(order[:count])
        order = order[count:]
    return buckets
