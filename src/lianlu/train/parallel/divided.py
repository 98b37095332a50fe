"""Tensors of a tensor parallel group: weights of which each process holds a part, and sums between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard


def enter(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """What all hold alike goes into work that is divided: its gradients are summed over the group."""
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


def leave(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum over the group of what each made; its gradient is the same for all."""
    return DTensor.from_local(x, mesh, [Partial()], run_check=False).redistribute(placements=[Replicate()]).to_local()


def local(parameter: Tensor) -> Tensor:
    """This process's part of a weight, as a plain tensor; differentiable."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def divided(whole: Tensor, mesh: DeviceMesh | None, placement: Placement) -> nn.Parameter:
    """A parameter on `meta` for a tensor like `whole`, divided evenly over the group (None: there is none) by `placement`."""
    meta = torch.empty(whole.shape, dtype=whole.dtype, device="meta")
    if mesh is None:
        return nn.Parameter(meta, requires_grad=whole.requires_grad)
    shape = list(meta.shape)
    if isinstance(placement, Shard):
        shape[placement.dim] //= mesh.size()
    part = torch.empty(shape, dtype=meta.dtype, device="meta")
    spread = DTensor.from_local(part, mesh, [placement], run_check=False, shape=meta.shape, stride=meta.stride())
    return nn.Parameter(spread, requires_grad=whole.requires_grad)
