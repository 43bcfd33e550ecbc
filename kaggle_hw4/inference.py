"""Logits of whole utterances, out of fold and test alike, and how good they are."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from kaggle_hw4.data.crops import Utterances, length_buckets
from kaggle_hw4.models.layers import ATTENTION_PAIRS

# Frames in one batch. On CPU what stays in the cache: against one utterance at a time with PyTorch's own layers
# 1.67 times as fast (1.35 with 16,384, 1.45 with ours one at a time). On a GPU what keeps it busy.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


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
    over so many crops, spread evenly. `tick` is called after each batch.
    """
    logits = _predict_whole(model, frames, rows, tick)
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
    size = max(1, BATCH_TOKENS[frames.device.type] // crop)
    parts = []
    for first in range(0, len(starts), size):
        batch = starts[first : first + size]
        x, _ = frames.pieces(batch, np.full(len(batch), crop))
        parts.append(model(x).float().cpu().numpy())
        tick()
    return np.concatenate(parts).reshape(len(rows), crops, -1).mean(1)


def _predict_whole(model: nn.Module, frames: Utterances, rows: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
    model.eval()
    logits: np.ndarray | None = None
    tokens = BATCH_TOKENS[frames.device.type]
    for bucket in length_buckets(frames.lengths[rows], tokens=tokens, attention=ATTENTION_PAIRS):
        batch = model(*frames.whole(rows[bucket])).float().cpu().numpy()
        if logits is None:
            logits = np.empty((len(rows), batch.shape[1]), np.float32)
        logits[bucket] = batch
        tick()
    assert logits is not None, "no utterances to predict"
    return logits


@torch.inference_mode()
def predict_crops(model: nn.Module, frames: Utterances, rows: np.ndarray, crop: int) -> np.ndarray:
    """Logits of one random crop of each utterance, the course's way of validating: for comparison only."""
    model.eval()
    rng = np.random.default_rng(0)
    chunks = [rows[i : i + 128] for i in range(0, len(rows), 128)]
    return np.concatenate([model(*frames.crops(chunk, crop, rng)).float().cpu().numpy() for chunk in chunks])


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows of `logits` (n, speakers) whose largest is at `labels` (n,)."""
    return float((logits.argmax(1) == labels).mean())


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, nats."""
    from scipy.special import logsumexp

    return float((logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]).mean())
