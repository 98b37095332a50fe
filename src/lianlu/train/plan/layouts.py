"""Which layout fits which GPU, and how many of them it takes. Imports no torch.

For every kind of GPU the smallest number (1, 2, 4, ... 64) is looked for on which the run fits, over sharding none, gradient
and full, checkpointing none, selective and full, and tensor parallel sizes within a node; of the layouts that fit on that
number the fastest is shown, of equals the one that does least. `fits` leaves room for the driver's context and for what the
allocator cannot use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lianlu.train.plan.gpus import Gpu, gpus
from lianlu.train.plan.memory import memory
from lianlu.train.plan.setting import Checkpointing, Division, Setting, Sharding
from lianlu.train.plan.time import NODE, pace

COUNTS = (1, 2, 4, 8, 16, 32, 64)
SHARDINGS: tuple[Sharding, ...] = ("none", "gradient", "full")
CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", "selective", "full")
CONTEXT_BYTES = 700_000_000
USABLE = 0.94


@dataclass(frozen=True)
class Layout:
    """A run on GPUs of one kind: its setting, bytes a device, and tokens a second of all devices."""

    gpu: Gpu
    setting: Setting
    memory_bytes: int
    tokens_per_s: float


def fits(memory_bytes: float, gpu: Gpu) -> bool:
    """Whether a device of this kind holds what PyTorch allocates."""
    return memory_bytes <= USABLE * gpu.memory_bytes - CONTEXT_BYTES


def smallest(setting: Setting, gpu: Gpu, max_count: int = COUNTS[-1]) -> Layout | None:
    """The fastest layout on the smallest number of GPUs of this kind that fits, None if `max_count` are not enough."""
    for count in COUNTS:
        if count > max_count:
            return None
        found = [layout for layout in _layouts(setting, gpu, count) if fits(layout.memory_bytes, gpu)]
        if found:
            return max(found, key=lambda layout: layout.tokens_per_s)
    return None


def planned_gpus() -> list[Gpu]:
    """The kinds that plans list, the smallest memory first."""
    return sorted((gpu for gpu in gpus() if gpu.planned), key=lambda gpu: gpu.memory_bytes)


def describe(setting: Setting) -> str:
    """A layout in words, as the fields of a configuration: `sharding full, tensor 2, checkpointing full`."""
    division = setting.division
    parts = [f"sharding {division.sharding}"] if division.data * division.sequence > 1 else []
    parts += [f"{name} {size}" for name in ("tensor", "sequence", "pipeline") if (size := getattr(division, name)) > 1]
    if setting.checkpointing != "none":
        parts.append(f"checkpointing {setting.checkpointing}")
    return ", ".join(parts) or "plain"


def _layouts(setting: Setting, gpu: Gpu, count: int) -> Iterator[Layout]:
    for tensor in _tensor_sizes(setting, count):
        data = count // tensor
        for sharding in SHARDINGS if data > 1 else SHARDINGS[:1]:
            division = Division(data=data, sharding=sharding, tensor=tensor)
            for checkpointing in CHECKPOINTINGS:
                tried = replace(setting, gpu=True, division=division, checkpointing=checkpointing)
                yield Layout(gpu, tried, memory(tried).peak_bytes, pace(tried, gpu).tokens_per_s)


def _tensor_sizes(setting: Setting, count: int) -> list[int]:
    """Powers of two within a node that divide the key-value heads."""
    groups = setting.model.num_key_value_heads
    return [size for size in (1, 2, 4, 8) if size <= min(count, NODE) and groups % size == 0]
