"""The layers of our encoders. Everywhere `x` is (batch, time, d) and `mask` is (batch, time), True where a
frame is real, or None when all are: no layer lets a padded frame reach a real one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaggle_hw4.models.convolutions import DepthwiseConv

# Pairs of frames of one head that are looked at together in prediction: with 4 heads in fp32 64 MB of scores, on a GPU
# 512 MB, which leaves its batches large.
ATTENTION_PAIRS = {"cpu": 4_000_000, "cuda": 32_000_000}


class Dropout(nn.Dropout):
    """`nn.Dropout` from 16-bit draws: on CPU stock dropout is a serial draw per element, a quarter of a step."""

    stacked = False  # under vmap, which has no rule for it: set by training/group.py

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.stacked or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = draws >= round(self.p * 2**16) - 2**15
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameters, and their names, of `nn.MultiheadAttention`."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, time, d = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, time, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        keys = None if mask is None else mask[:, None, None, :]
        if self.training:
            # Dropout of the weights keeps PyTorch off its fused attention, and its own path is slower than this
            # (216 against 147 ms a step). Without dropout the fused one is no faster on 128 frames in fp32, five
            # times slower in bf16 on CPU, and knows no vmap there.
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            if keys is not None:
                with torch.no_grad():  # in place and unrecorded: the softmax sends nothing back to where it gave 0
                    scores.add_(torch.zeros_like(keys, dtype=scores.dtype).masked_fill_(~keys, float("-inf")))
            y = self.dropout(scores.softmax(-1)) @ v
        else:
            # A long utterance asks its queries in pieces: 7,193 frames would have 0.8 GB of scores where no fused
            # attention is at hand.
            piece = max(1, ATTENTION_PAIRS[x.device.type] // (batch * time))
            parts = [F.scaled_dot_product_attention(part, k, v, attn_mask=keys) for part in q.split(piece, dim=2)]
            y = torch.cat(parts, dim=2)
        return self.out_proj(y.transpose(1, 2).reshape(batch, time, d))


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (batch, time, d) whose statistics are those of the real frames only."""

    stacked = False  # under vmap, whose rule wants all tensors of one type on a GPU: set by training/group.py

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        frames = x.flatten(0, 1)
        if not self.training or (mask is None and not self.stacked):
            return super().forward(frames).view_as(x)
        return normalised(frames, (0,), None if mask is None else mask.reshape(-1, 1), self).view_as(x)


def normalised(x: Tensor, dims: tuple[int, ...], mask: Tensor | None, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    """x normalised as `norm` does in training, over `dims`, by the statistics of where `mask` is True.

    In sums over all, not x[mask], whose shape depends on values: a GPU would have to wait for it. And in fp32,
    whatever x is in: bf16 counts 4,071 frames as 4,064.
    """
    momentum = norm.momentum
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert momentum is not None
    wide = x.to(norm.running_mean.dtype)
    count = x.numel() // norm.num_features
    n: Tensor | int
    if mask is None:
        n = count
        centred = wide - (mean := wide.mean(dims, keepdim=True))
        var = centred.square().mean(dims, keepdim=True)
    else:
        real = mask.to(wide.dtype)
        n = real.sum() * (count // mask.numel())
        centred = wide - (mean := (wide * real).sum(dims, keepdim=True) / n)
        var = (centred.square() * real).sum(dims, keepdim=True) / n
    others = n.sub(1).clamp(min=1) if isinstance(n, Tensor) else max(n - 1, 1)  # a single frame has a variance of 0
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        for running, now in ((norm.running_mean, mean), (norm.running_var, var * (n / others))):
            running.mul_(1 - momentum).add_(now.flatten(), alpha=momentum)
    gain = (var + norm.eps).rsqrt() * norm.weight.view_as(mean)
    return torch.addcmul(norm.bias.view_as(mean), centred, gain).to(x.dtype)


class TransformerLayer(nn.Module):
    """Transformer encoder layer with ReLU (Vaswani et al. 2017), post-norm unless `pre_norm`.

    The parameters, their names and the function of `nn.TransformerEncoderLayer(batch_first=True)`.
    """

    def __init__(self, d: int, heads: int, feedforward: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = SelfAttention(d, heads, dropout)
        self.linear1 = nn.Linear(d, feedforward)
        self.linear2 = nn.Linear(feedforward, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.self_attn(self.norm1(x), mask))
            return x + self.dropout(self._feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.self_attn(x, mask)))
        return self.norm2(x + self.dropout(self._feed_forward(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class HalfFeedForward(nn.Sequential):
    """The conformer's feed-forward module; its output enters the residual stream at half strength."""

    def __init__(self, d: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(d),
            nn.Linear(d, hidden),
            nn.SiLU(),
            Dropout(dropout),
            nn.Linear(hidden, d),
            Dropout(dropout),
        )


class ConvolutionModule(nn.Module):
    """The conformer's convolution module; its pointwise convolutions are linear layers."""

    def __init__(self, d: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(d)
        self.pointwise1 = nn.Linear(d, 2 * d)
        self.depthwise = DepthwiseConv(d, kernel)
        self.batch_norm = FrameBatchNorm(d)
        self.pointwise2 = nn.Linear(d, d)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = F.glu(self.pointwise1(self.layer_norm(x)), dim=-1)
        x = F.silu(self.batch_norm(self.depthwise(x, mask), mask))
        return self.dropout(self.pointwise2(x))


class ConformerLayer(nn.Module):
    """Conformer layer (Gulati et al. 2020) as in torchaudio: the same function on full-length input.

    On padded input torchaudio's convolution reads the padding (pytorch/audio #4205); ours does not.
    """

    def __init__(self, d: int, heads: int, feedforward: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.ffn1 = HalfFeedForward(d, feedforward, dropout)
        self.self_attn_layer_norm = nn.LayerNorm(d)
        self.self_attn = SelfAttention(d, heads, dropout)
        self.self_attn_dropout = Dropout(dropout)
        self.conv_module = ConvolutionModule(d, kernel, dropout)
        self.ffn2 = HalfFeedForward(d, feedforward, dropout)
        self.final_layer_norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = torch.add(x, self.ffn1(x), alpha=0.5)
        x = x + self.self_attn_dropout(self.self_attn(self.self_attn_layer_norm(x), mask))
        x = x + self.conv_module(x, mask)
        x = torch.add(x, self.ffn2(x), alpha=0.5)
        return self.final_layer_norm(x)


# Where torchaudio keeps what we keep elsewhere.
_TORCHAUDIO_NAMES = (
    ("ffn1.sequential.", "ffn1."),
    ("ffn2.sequential.", "ffn2."),
    ("conv_module.sequential.0.", "conv_module.pointwise1."),
    ("conv_module.sequential.2.", "conv_module.depthwise."),
    ("conv_module.sequential.3.", "conv_module.batch_norm."),
    ("conv_module.sequential.5.", "conv_module.pointwise2."),
)


def from_torchaudio(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `torchaudio.models.Conformer` as the state of an `nn.ModuleList` of our layers."""
    converted = {}
    for name, value in state.items():
        name = name.removeprefix("conformer_layers.")
        for theirs, ours in _TORCHAUDIO_NAMES:
            name = name.replace(theirs, ours)
        pointwise = name.endswith(("pointwise1.weight", "pointwise2.weight"))
        converted[name] = value.squeeze(-1) if pointwise else value
    return converted
