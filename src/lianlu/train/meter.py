"""What a run makes of its device: operations a second against the device's peak (MFU), and memory now and at most.

The operations are those of flops.py, exact for the lengths of the packed sequences. The peak is that of the data sheet where
plan/gpus.toml knows the GPU; on a processor, and on other GPUs, it is the best of a short series of products of the run's
number type, measured once a process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from lianlu.core import console, machine
from lianlu.kernels.linear import linear
from lianlu.model.config import ModelConfig
from lianlu.train.flops import Flops
from lianlu.train.parallel.layout import Layout
from lianlu.train.plan.gpus import find_gpu

MEASURED_S = 0.3
PRODUCT_SIZE = {"cpu": 1024, "cuda": 8192}


class Meter:
    """Utilisation and memory of one process; `flops` is None for a model whose operations nobody has counted."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self.flops = count_flops(model)
        self._device, self._dtype, self._num_ranks = layout.device, layout.dtype, layout.num_ranks

    def begin(self) -> str:
        """Start over with the largest memory; returns the formula and the peak that utilisation is measured with."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        if self.flops is None:
            return ""
        peak, source = device_peak(self._device, self._dtype)
        number = f"{self._num_ranks} x " if self._num_ranks > 1 else ""
        return f"MFU counts {self.flops.formula()}; of {number}{console.format_value(peak / 1e9)} GFLOP/s ({source})"

    def mfu(self, lengths: Sequence[int], num_targets: int, seconds: float) -> float | None:
        """The share of all devices' peak that a step of all processes reached."""
        if self.flops is None:
            return None
        peak, _ = device_peak(self._device, self._dtype)
        return self.flops.step(lengths, num_targets) / seconds / (peak * self._num_ranks)

    def memory_bytes(self) -> int:
        """What is in use now: of the GPU, else of the process."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return machine.resident_memory_bytes()

    def peak_memory_bytes(self) -> int:
        """The most that was in use: of the GPU since `begin`, else of the process in this stage."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return machine.peak_memory_bytes()


def count_flops(model: nn.Module) -> Flops | None:
    """The operations of a decoder, seen from what of it is trained; None for another module."""
    config = getattr(model, "config", None)
    layers = getattr(model, "layers", None)
    if not isinstance(config, ModelConfig) or not layers:
        return None
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    adapter = [count for name, count in trained.items() if "lora_" in name]
    if not adapter:
        return Flops(config)
    # a stage of a pipeline has some of the layers
    return Flops(config, sum(adapter) * config.num_hidden_layers // len(layers))


@cache
def device_peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s that products of `dtype` reach at most on `device`, and where the figure comes from."""
    precision = str(dtype).removeprefix("torch.")
    if device.type == "cuda" and (gpu := find_gpu(torch.cuda.get_device_name(device))):
        return gpu.flops[precision], f"data sheet of {gpu.title}, {precision}"
    return _measured(device, dtype), f"measured product, {precision}"


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = PRODUCT_SIZE.get(device.type, 1024)
    ones = torch.ones(size, size, dtype=dtype, device=device)
    best, began = 0.0, time.monotonic()
    with torch.no_grad():
        while time.monotonic() - began < MEASURED_S:
            started = time.perf_counter()
            linear(ones, ones)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best
