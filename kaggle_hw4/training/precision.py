"""What a training computes in, and the scaled loss that fp16 needs."""

import torch
from torch import Tensor

from kaggle_hw4.machine import processor


def precision(device: torch.device) -> torch.dtype:
    """bf16 where the processor multiplies in it faster than in fp32, else fp16 on GPUs, fp32 on CPU.

    GPUs before compute capability 8 only emulate bf16. On a CPU AMX is fast, and AVX-512's bf16 product on an AMD
    (439 GFLOP/s against 105 in fp32 on an EPYC), but not on an Intel (83 against 160 on a Xeon).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    supported = [
        name
        for name in ("amx_tile", "avx512_bf16")
        if getattr(torch.cpu, f"_is_{name}_supported", lambda: False)()  # not in every version of PyTorch
    ]
    fast = "amx_tile" in supported or ("avx512_bf16" in supported and "amd" in processor().lower())
    return torch.bfloat16 if fast else torch.float32


class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018), one scale per model and nothing read back.

    A model whose gradient overflows takes a step with a gradient of zero and half the scale.
    """

    GROWTH = 2 ** (1 / 2000)  # per good step: doubled after 2,000

    def __init__(self, models: int, device: torch.device) -> None:
        self.value = torch.full((models,), 2.0**16, device=device)

    def apply(self, losses: Tensor) -> Tensor:
        """The losses (M,) to differentiate."""
        return losses * self.value

    def take_out(self, gradient: Tensor) -> None:
        """Undo the scale in `gradient` (M, parameters), in place, and adapt it."""
        gradient.div_(self.value[:, None])
        good = gradient.isfinite().all(1)
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        gradient.mul_(good[:, None])
        self.value.mul_(torch.where(good, self.GROWTH, 0.5))
