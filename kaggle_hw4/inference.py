"""Logits of whole utterances, out of fold and test alike, and how good they are."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from kaggle_hw4.data.crops import Frames, length_buckets
from kaggle_hw4.models.layers import ATTENTION_PAIRS

# Frames in one batch. On CPU what stays in the cache: against one utterance at a time with PyTorch's own layers
# 1.67 times as fast (1.35 with 16,384, 1.45 with ours one at a time). On a GPU what keeps it busy.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


# Convolutions of fp32 in TF32, PyTorch's default on GPUs, would make logits depend on the batch in the third digit.
torch.backends.cudnn.allow_tf32 = False


@torch.inference_mode()
def predict(model: nn.Module, frames: Frames, rows: np.ndarray, tick: Callable[[], None] = lambda: None) -> np.ndarray:
    """Logits (len(rows), speakers) float32 of the whole utterances at `rows` of the store, in that order.

    `tick` is called after each batch.
    """
    model.eval()
    logits: np.ndarray | None = None
    tokens = BATCH_TOKENS[frames.device.type]
    for bucket in length_buckets(frames.store.lengths[rows], tokens=tokens, attention=ATTENTION_PAIRS):
        batch = model(*frames.whole(rows[bucket])).float().cpu().numpy()
        if logits is None:
            logits = np.empty((len(rows), batch.shape[1]), np.float32)
        logits[bucket] = batch
        tick()
    assert logits is not None, "no utterances to predict"
    return logits


@torch.inference_mode()
def predict_crops(model: nn.Module, frames: Frames, rows: np.ndarray, crop: int) -> np.ndarray:
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
