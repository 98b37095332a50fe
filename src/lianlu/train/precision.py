"""Where and in which number type training computes.

`auto` takes bfloat16 only where the hardware multiplies it natively (x86 with AVX512-BF16 or AMX, a GPU that supports
it): on a 2-core EPYC with AVX512-BF16 matrix products reach about 800 GFLOP/s in bfloat16 and 175 in float32, while
without such instructions PyTorch emulates bfloat16 and is slower than float32. Weights that are trained, their gradients
and the optimiser's state stay float32 in both cases; autocast makes the products bfloat16.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from lianlu.core import processes
from lianlu.core.machine import cpu_flags
from lianlu.train.config import Precision


def pick_device() -> torch.device:
    """The GPU if PyTorch sees one, else the CPU; of several processes on a machine each has a GPU of its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", processes.local_rank()) if processes.num_processes() > 1 else torch.device("cuda")


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The number type of matrix products for this setting on this device."""
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        return torch.bfloat16 if {"avx512_bf16", "amx_bf16"} & cpu_flags() else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def mixed(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to `dtype`, or nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
