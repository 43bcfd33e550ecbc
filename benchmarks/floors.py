"""How fast it could be: the operations and bytes a task cannot do without, and how fast this machine does either."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.competition import Sizes
from benchmarks.reference import stock_model
from benchmarks.timing import Task, timed
from kaggle_hw4.competition import N_MELS
from kaggle_hw4.training.precision import precision
from kaggle_hw4.variants import Variant, variant

# (rows, inner, columns): the largest products of a step on 32 crops of 128 frames, at d_model 80.
_PRODUCTS = ((4096, 80, 256), (4096, 256, 80), (4096, 80, 240))
_COPIED_BYTES = 2**28  # more than most caches hold
_STORED, _PLAIN = 2 * N_MELS, 4 * N_MELS  # bytes of a frame in the store (fp16), and in a file or a batch (fp32)


@dataclass(frozen=True)
class Ceilings:
    """What one thread reaches: matrix products in fp32 and in bf16, and a copy (bytes read plus bytes written)."""

    fp32_gflops: float
    bf16_gflops: float
    copy_gb_per_s: float


@dataclass(frozen=True)
class Cost:
    """What one unit of a task (a batch, a step, an utterance, a file) takes at the least."""

    flops: float
    bytes: float
    bf16: bool = False  # what the products are in; else fp32

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds, if reckoning and moving overlap perfectly."""
        gflops = ceilings.bf16_gflops if self.bf16 else ceilings.fp32_gflops
        return max(self.flops / gflops, self.bytes / ceilings.copy_gb_per_s) / 1e9


def ceiling_tasks(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, Task]:
    """Seconds per GFLOP of products, and per GB of a copy."""
    source, target = torch.zeros(2, _COPIED_BYTES, dtype=torch.uint8, device=device)

    def copy() -> list[float]:
        return [seconds / (2 * _COPIED_BYTES / 1e9) for seconds in timed(partial(target.copy_, source), repeats=3)]

    return {
        "fp32": partial(_time_products, torch.float32, device),
        "bf16": partial(_time_products, torch.bfloat16, device),
        "copy": copy,
    }


def _time_products(dtype: torch.dtype, device: torch.device) -> list[float]:
    best = float("inf")
    for rows, inner, columns in _PRODUCTS:
        a = torch.ones(rows, inner, dtype=dtype, device=device)
        b = torch.ones(inner, columns, dtype=dtype, device=device)
        product = torch.empty(rows, columns, dtype=dtype, device=device)
        [seconds] = timed(partial(torch.mm, a, b, out=product), together=20)
        best = min(best, seconds / (2 * rows * inner * columns / 1e9))
    return [best]


def step_cost(name: str, n_speakers: int) -> Cost:
    """Of a training step: three times the forward pass, whose batch is read once.

    Per weight eight fp32 values move: the gradient is written; AdamW reads four values and writes three.
    """
    v = variant(name)
    crops = np.full(v.batch, v.crop)
    weights = sum(parameter.numel() for parameter in stock_model(name, n_speakers).parameters())
    moved = int(crops.sum()) * _PLAIN + 8 * 4 * weights
    bf16 = precision(torch.device("cpu")) == torch.bfloat16
    return Cost(3 * forward_flops(v, crops, n_speakers), moved, bf16)


def inference_cost(name: str, lengths: np.ndarray, n_speakers: int) -> Cost:
    """Per utterance, of a forward pass over utterances of `lengths`."""
    return Cost(forward_flops(variant(name), lengths, n_speakers) / len(lengths), lengths.mean() * (_STORED + _PLAIN))


def batch_cost(v: Variant) -> Cost:
    """Of a batch of crops from the store."""
    return Cost(0, v.batch * v.crop * (_STORED + _PLAIN))


def packing_cost(lengths: np.ndarray) -> Cost:
    """Per file, of reading it and writing the store. What an archive asks for besides is not counted."""
    return Cost(0, lengths.mean() * (_PLAIN + _STORED))


def forward_flops(v: Variant, lengths: np.ndarray, n_speakers: int) -> float:
    """Operations of the products and convolutions of a variant with full pooling and a linear head.

    Each multiplication with its addition counts two. `lengths` (batch,) are in frames, without padding.
    """
    d = v.d_model
    feed_forward = 2 * d * v.feedforward
    projections = 4 * d * d  # queries, keys, values, output
    convolution = 2 * d * d + d * v.kernel + d * d
    layer = projections + (feed_forward if v.backbone == "transformer" else 2 * feed_forward + convolution)
    pooling = d * v.attention_size + v.attention_size + d
    per_frame = N_MELS * d + v.layers * layer + pooling
    attention = v.layers * 2 * d  # per pair of frames: scores and weighted values
    return 2.0 * (per_frame * lengths.sum() + attention * (lengths**2).sum() + d * n_speakers * len(lengths))
