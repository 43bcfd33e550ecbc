"""Logits of whole utterances, out of fold and test alike, and how good they are."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from kaggle_hw4.data.crops import Utterances, length_buckets, random_crops
from kaggle_hw4.machine import memory_errors
from kaggle_hw4.models.layers import ATTENTION_PAIRS

# Frames in one batch. On CPU what stays in the cache: against one utterance at a time with PyTorch's own layers
# 1.67 times as fast (1.35 with 16,384, 1.45 with ours one at a time). On a GPU a batch is hundreds of launches, which
# take milliseconds whatever its size: few batches (reckoned, not measured).
BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}


# Convolutions of fp32 in TF32, PyTorch's default on GPUs, would make logits depend on the batch in the third digit.
torch.backends.cudnn.allow_tf32 = False


@torch.inference_mode()
def predict(
    model: nn.Module,
    frames: Utterances,
    rows: np.ndarray,
    tick: Callable[[], None] = lambda: None,
    *,
    crops: int = 0,
    crop: int = 0,
) -> np.ndarray:
    """Logits (len(rows), speakers) float32 of the whole utterances at `rows`, in that order.

    With `crops`, where an utterance is longer than `crop` frames, the mean of these and of the mean
    over so many crops, spread evenly. `tick` is called after each batch. Where the memory does not
    suffice, batches become smaller.

    Raises:
        torch.OutOfMemoryError, MemoryError: not even one utterance fits.
    """
    logits = _predict_pieces(model, frames, frames.offsets[rows], frames.lengths[rows], tick)
    longer = np.flatnonzero(frames.lengths[rows] > crop)
    if crops and len(longer):
        logits[longer] = (logits[longer] + _predict_spread(model, frames, rows[longer], tick, crops, crop)) / 2
    return logits


def _predict_spread(
    model: nn.Module, frames: Utterances, rows: np.ndarray, tick: Callable[[], None], crops: int, crop: int
) -> np.ndarray:
    """Mean logits of `crops` crops of each utterance, from its beginning to its end."""
    shares = np.linspace(0, 1, crops) if crops > 1 else np.array([0.5])
    room = frames.lengths[rows] - crop
    starts = (frames.offsets[rows][:, None] + shares * room[:, None]).astype(np.int64).ravel()
    logits = _predict_pieces(model, frames, starts, np.full(len(starts), crop), tick)
    return logits.reshape(len(rows), crops, -1).mean(1)


def _predict_pieces(
    model: nn.Module, frames: Utterances, starts: np.ndarray, lengths: np.ndarray, tick: Callable[[], None]
) -> np.ndarray:
    """Logits of the pieces of the store that begin at frame `starts` (n,) and are `lengths` (n,) frames long."""
    model.eval()
    logits: np.ndarray | None = None
    tokens, attention = BATCH_TOKENS[frames.device.type], ATTENTION_PAIRS[frames.device.type]
    waiting = length_buckets(lengths, tokens=tokens, attention=attention)[::-1]
    while waiting:
        bucket = waiting.pop()
        try:
            with memory_errors():
                batch = model(*frames.pieces(starts[bucket], lengths[bucket])).float().cpu().numpy()
        except (torch.OutOfMemoryError, MemoryError):
            if len(bucket) == 1:
                raise
            left = np.concatenate([bucket, *reversed(waiting)])
            half = len(bucket) * int(lengths[bucket].max()) // 2
            smaller = length_buckets(lengths[left], tokens=half, attention=attention)
            waiting = [left[part] for part in reversed(smaller)]
            continue
        if logits is None:
            logits = np.empty((len(starts), batch.shape[1]), np.float32)
        logits[bucket] = batch
        tick()
    assert logits is not None, "nothing to predict"
    return logits


@torch.inference_mode()
def predict_crops(
    model: nn.Module, frames: Utterances, rows: np.ndarray, crop: int, tick: Callable[[], None]
) -> np.ndarray:
    """Logits of one random crop of each utterance, the course's way of validating: for comparison only."""
    starts, lengths = random_crops(frames, rows, crop, np.random.default_rng(0))
    return _predict_pieces(model, frames, starts, lengths, tick)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `logits` (n, speakers) whose largest is at `labels` (n,)."""
    return float((logits.argmax(1) == labels).mean())


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, nats."""
    from scipy.special import logsumexp

    return float((logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]).mean())
