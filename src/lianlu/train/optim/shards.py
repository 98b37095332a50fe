"""What one process holds of a parameter: all of it, or its shard of a DTensor.

Optimisers compute on these local tensors, because a sharded run then takes the very steps of an unsharded one, in one fused
call for parameters of different meshes, and without the cost of dispatching each operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

# the counterpart of DCP's planner; it knows the strided shards of FSDP over tensor parallel
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset as local_shape_and_offset


@dataclass(frozen=True)
class Region:
    """A block of a tensor."""

    shape: tuple[int, ...]
    offset: tuple[int, ...]

    def of(self, whole: Tensor) -> Tensor:
        """The view of `whole`."""
        for axis, (start, length) in enumerate(zip(self.offset, self.shape, strict=True)):
            whole = whole.narrow(axis, start if length else 0, length)
        return whole


@dataclass(frozen=True)
class Holding:
    """What a process holds: a region, of the copy with this number (several where the mesh repeats a parameter)."""

    region: Region
    copy: tuple[int, ...]


def local(tensor: Tensor) -> Tensor:
    """This process's part, sharing memory with `tensor`. To be called without gradients."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def locals_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`local` of each."""
    return [local(tensor) for tensor in tensors]


def holdings(parameter: DTensor) -> dict[int, Holding]:
    """What each process of the parameter's mesh holds of it, by global rank, in ascending order."""
    mesh = parameter.device_mesh
    repeated = [axis for axis, placement in enumerate(parameter.placements) if placement.is_replicate()]
    found = {}
    for rank in sorted(mesh.mesh.flatten().tolist()):
        place = (mesh.mesh == rank).nonzero()[0].tolist()
        region = Region(*local_shape_and_offset(parameter.shape, mesh.shape, place, parameter.placements))
        found[rank] = Holding(region, tuple(place[axis] for axis in repeated))
    return found


def group_of(parameter: DTensor) -> dist.ProcessGroup:
    """A group of the processes of the parameter's mesh, in ascending order; each of them has to call this."""
    if parameter.device_mesh.ndim == 1:
        return parameter.device_mesh.get_group()
    ranks = sorted(parameter.device_mesh.mesh.flatten().tolist())
    group: dist.ProcessGroup = dist.new_group(ranks, use_local_synchronization=True)
    return group


def columns(parameter: Tensor) -> int:
    """Where this process's part begins on the last axis."""
    if not isinstance(parameter, DTensor):
        return 0
    return holdings(parameter)[dist.get_rank()].region.offset[-1]


def column_groups(parameter: Tensor) -> list[dist.ProcessGroup]:
    """The groups of processes that divide the last axis with this one."""
    if not isinstance(parameter, DTensor):
        return []
    last = parameter.ndim - 1
    return [parameter.device_mesh.get_group(axis) for axis, p in enumerate(parameter.placements) if _shards(p, last)]


def zeros_by_row(parameter: Tensor, width: int) -> Tensor:
    """fp32 zeros of the parameter's shape but for the last axis, which has `width` elements and is held whole."""
    mine = local(parameter)
    zeros = torch.zeros(*mine.shape[:-1], width, device=mine.device)
    if not isinstance(parameter, DTensor):
        return zeros
    last = parameter.ndim - 1
    placements = [Replicate() if _shards(p, last) else p for p in parameter.placements]
    shape = torch.Size([*parameter.shape[:-1], width])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(zeros, parameter.device_mesh, placements, run_check=False, shape=shape, stride=stride)


def _shards(placement: object, axis: int) -> bool:
    return isinstance(placement, Shard) and placement.dim == axis
