"""How the processes of a run are laid out: sizes from the configuration and the number of processes, meshes from sizes.

The number of processes is never in a file. Those left over by pipeline, sequence and tensor parallelism see different data;
they are divided into replicas of groups that share one copy of the sharded state. Processes are numbered so that tensor
parallel ones are neighbours, then sequence, shard, replica, pipeline: what talks most sits on one machine.

Two meshes say the same about the processes, each in the words of its users: `grid` has all five axes; `weights` has those
that hold weights, in which sequence parallel processes are shards (or replicas) like others, since they hold the same
weights and their gradients are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import gcd

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig
from lianlu.train.config import ParallelConfig

AXES = ("pipeline", "replica", "shard", "sequence", "tensor")


@dataclass(frozen=True)
class Sizes:
    """Processes along each axis."""

    pipeline: int
    replica: int
    shard: int
    sequence: int
    tensor: int

    @property
    def num_data(self) -> int:
        """Processes, or groups of them, that see different examples."""
        return self.replica * self.shard


def sizes_of(config: ParallelConfig, num_processes: int) -> Sizes:
    """Sizes that fill `num_processes`. Raises: ConfigError that says which numbers do."""
    together = config.pipeline * config.sequence * config.tensor
    if num_processes % together:
        named = f"pipeline {config.pipeline} x sequence {config.sequence} x tensor {config.tensor}"
        raise ConfigError(
            f"{num_processes} processes cannot be divided into groups of {together} ({named})",
            hint=f"start a multiple of {together} processes, or choose sizes whose product divides {num_processes}",
        )
    num_data = num_processes // together
    if config.sharding == "none":
        return Sizes(config.pipeline, num_data, 1, config.sequence, config.tensor)
    shard = config.shard_size or num_data
    if num_data % shard:
        fitting = ", ".join(str(size) for size in divisors(num_data))
        raise ConfigError(
            f"parallel.shard_size {shard} does not divide the {num_data} data-parallel processes",
            hint=f"choose one of {fitting}, or 0 for all of them",
        )
    return Sizes(config.pipeline, num_data // shard, shard, config.sequence, config.tensor)


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    return [size for size in range(1, number + 1) if number % size == 0]


def check_shape(sizes: Sizes, config: ModelConfig) -> None:
    """Raises: ConfigError if a model of this shape cannot be divided so; it names the sizes that can."""
    counts = {
        "key-value heads": config.num_key_value_heads,
        "feed-forward units": config.intermediate_size,
        "tokens of the vocabulary": config.vocab_size,
    }
    for name, count in counts.items():
        _require("tensor", sizes.tensor, count, f"the model's {count} {name}", gcd(*counts.values()))
    heads = config.num_attention_heads // sizes.tensor
    _require("sequence", sizes.sequence, heads, f"the {heads} query heads of a process", heads)


def _require(field: str, size: int, count: int, what: str, common: int) -> None:
    if count % size:
        fitting = ", ".join(str(number) for number in divisors(common)[:12])
        raise ConfigError(f"parallel.{field} {size} does not divide {what}", hint=f"choose one of {fitting}")


@cache
def meshes_of(sizes: Sizes, sharding: str, device_type: str) -> Meshes:
    """The meshes for these sizes: made once (a collective), and shared by the training stages of a recipe."""
    return Meshes(sizes, sharding, device_type)


class Meshes:
    """The meshes of one run; making them is a collective."""

    def __init__(self, sizes: Sizes, sharding: str, device_type: str) -> None:
        self.sizes = sizes
        shape = tuple(getattr(sizes, axis) for axis in AXES)
        self.grid: DeviceMesh = init_device_mesh(device_type, shape, mesh_dim_names=AXES)
        copies, parts = sizes.replica, sizes.shard * sizes.sequence
        if sharding == "none":
            copies, parts = copies * sizes.sequence, 1
        self._weights = init_device_mesh(
            device_type, (sizes.pipeline, copies, parts, sizes.tensor), mesh_dim_names=("pipeline", "replica", "shard", "tensor")
        )
        self._copies = copies

    def place(self, axis: str) -> int:
        """The number of this process along an axis of `grid`."""
        return self.grid.get_local_rank(axis)

    def is_first(self, besides: set[str]) -> bool:
        """Whether this process is the first on all axes over which weights are divided or repeated, `besides` apart."""
        return all(self._weights.get_local_rank(axis) == 0 for axis in {"replica", "shard", "tensor"} - besides)

    @cached_property
    def weights(self) -> DeviceMesh:
        """The mesh that FSDP divides weights over: (replica, shard), or (shard) where there are no replicas."""
        return self._weights["replica", "shard"] if self._copies > 1 else self._weights["shard"]

    @cached_property
    def tensor(self) -> DeviceMesh | None:
        """The mesh that matrices are divided over, if they are."""
        return self._weights["tensor"] if self.sizes.tensor > 1 else None

    @cached_property
    def sequence(self) -> DeviceMesh | None:
        """The mesh that the tokens of a micro-batch are divided over, if they are."""
        return self.grid["sequence"] if self.sizes.sequence > 1 else None
