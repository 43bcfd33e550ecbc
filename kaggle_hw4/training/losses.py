"""The loss of a batch: cross-entropy, of cosines with a margin."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kaggle_hw4.recipe import Variant

_LEAST_SQUARE = 1e-6  # of the sine of an angle: its root has no gradient at 0


def losses(logits: Tensor, labels: Tensor, margin: Tensor, v: Variant) -> Tensor:
    """Loss of each example: `logits` (n, speakers) without a margin, `labels` (n,), `margin` a scalar tensor."""
    logits = logits.float()
    if v.margin:
        logits = with_margin(logits, labels, margin, v)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=v.label_smoothing)


def with_margin(logits: Tensor, labels: Tensor, margin: Tensor, v: Variant) -> Tensor:
    """`logits` (n, speakers), scaled cosines, with those of the true speakers lowered by the margin.

    AM-softmax (Wang et al. 2018) lowers the cosine, AAM-softmax (Deng et al. 2019) adds to the angle; where
    that would pass 180° it lowers the cosine too, so that it never rises again.
    """
    places = labels[:, None]
    cosine = logits.gather(1, places) / v.scale
    if v.head == "am-softmax":
        lowered = cosine - margin
    else:
        sine = (1 - cosine.square()).clamp(min=_LEAST_SQUARE).sqrt()
        turned = cosine * margin.cos() - sine * margin.sin()
        lowered = torch.where(cosine > -margin.cos(), turned, cosine - margin * margin.sin())
    return logits.scatter(1, places, v.scale * lowered)
