"""The loss of a batch: cross-entropy, of cosines with a margin."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kaggle_hw4.recipe import Variant

_LEAST_SQUARE = 1e-6  # of the sine of an angle: its root has no gradient at 0


def losses(logits: Tensor, labels: Tensor, share: Tensor | None, margin: Tensor, v: Variant) -> Tensor:
    """Mean loss of the batch of each model, (models,).

    `logits` (models, batch, speakers) are without a margin, `labels` (models, batch), `margin` a scalar
    tensor. With mixup the crop before is in each crop: `share` (models, batch) is what is not of it.
    """
    each = _each(logits, labels, margin, v)
    if v.mixup and share is not None:
        each = share * each + (1 - share) * _each(logits, labels.roll(1, dims=1), margin, v)
    return each.mean(1)


def _each(logits: Tensor, labels: Tensor, margin: Tensor, v: Variant) -> Tensor:
    flat, truth = logits.flatten(0, 1).float(), labels.flatten()
    if v.margin or v.final_margin:
        flat = with_margin(flat, truth, margin, v)
    return F.cross_entropy(flat, truth, reduction="none", label_smoothing=v.label_smoothing).view_as(labels)


def with_margin(logits: Tensor, labels: Tensor, margin: Tensor, v: Variant) -> Tensor:
    """`logits` (n, speakers), scaled cosines, with those of the true speakers lowered by the margin.

    AM-softmax (Wang et al. 2018) lowers the cosine, AAM-softmax (Deng et al. 2019) adds to the angle; where
    that would pass 180° it lowers the cosine too, so that it never rises again.
    """
    # Not gathered and scattered by index, which --deterministic does on a GPU in a way that cannot be captured.
    true = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    cosine = logits.where(true, 0.0).sum(1, keepdim=True) / v.scale
    if v.head == "am-softmax":
        lowered = cosine - margin
    else:
        sine = (1 - cosine.square()).clamp(min=_LEAST_SQUARE).sqrt()
        turned = cosine * margin.cos() - sine * margin.sin()
        lowered = torch.where(cosine > -margin.cos(), turned, cosine - margin * margin.sin())
    return torch.where(true, v.scale * lowered, logits)
