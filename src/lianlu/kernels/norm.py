"""Root-mean-square normalisation (Zhang & Sennrich 2019), computed in fp32 whatever the dtype of the input.

Rounding follows the Llama implementations: the normalised value is cast back before the weight is applied, so that a
bf16 model gives the numbers it was trained with.

Shapes: `...D` any leading axes, D the normalised axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis; the result has the dtype of `x`."""
    wide_D = x_D.float()
    scale_1 = torch.rsqrt(wide_D.square().mean(-1, keepdim=True) + eps)
    return weight_D * (wide_D * scale_1).to(x_D.dtype)
