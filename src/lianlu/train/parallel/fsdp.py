"""Data parallelism by FSDP2: every block is a unit whose weights are gathered when they are needed, the rest is the root.

    sharding   between forward and backward   weights   gradients, optimiser states   counterpart
    none       freed                          whole     whole                         DDP
    gradient   stay whole                     divided   divided                       ZeRO 1 and 2
    full       freed, gathered again          divided   divided                       ZeRO 3
    (shard_size below the data-parallel processes: replicas of such groups, HSDP or MiCS)

Gradients are summed, never averaged, in fp32 whatever the products are made in. On a GPU the gathered weights of full training
are bf16 under bf16; frozen weights are gathered as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard

from lianlu.model.decoder import Decoder
from lianlu.train.parallel.tensor import blocks

# What of a model is called besides `forward`, and reads weights of the root.
ENTRANCES = ("hidden",)


def shard_weights(model: Decoder, mesh: DeviceMesh, sharding: str, dtype: torch.dtype) -> None:
    """Divide a model on `meta` (adapters may be real) over `mesh`, in place; its parameters become DTensors."""
    policy = MixedPrecisionPolicy()
    whole = all(parameter.requires_grad for parameter in model.parameters())
    if mesh.device_type != "cpu" and whole and dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    parts = mesh.size(mesh.ndim - 1)

    def placement(parameter: nn.Parameter) -> Shard | None:
        return _stacked_placement(parameter, parts) if parameter.ndim == 3 else None

    for block in blocks(model):
        fully_shard(
            block, mesh=mesh, mp_policy=policy, reshard_after_forward=sharding != "gradient", shard_placement_fn=placement
        )
    # the output layer is read after `hidden` has returned, so the root stays whole until its gradients are made
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False, shard_placement_fn=placement)
    for name in ENTRANCES:
        register_fsdp_forward_method(model, name)
    for unit in units(model):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


def _stacked_placement(parameter: nn.Parameter, parts: int) -> Shard | None:
    """Which axis of a (2, F, D) weight is divided: the first that can be divided evenly; the pair only if none can."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return next((Shard(axis) for axis in (1, 2) if local.shape[axis] % parts == 0), None)


def units(model: nn.Module) -> Iterator[FSDPModule]:
    """The units of a model, root first."""
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def set_last(model: nn.Module, last: bool, sharding: str) -> None:
    """Say whether the micro-batch that comes is the last of its step.

    Only then do replicas exchange gradients, and are weights freed that stay whole between passes. Shards are summed at every
    micro-batch: to keep whole gradients until the last is what sharding is to avoid.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)
        model.set_is_last_backward(last)
        model.set_reshard_after_backward(last or sharding != "gradient")


def settle(model: nn.Module) -> None:
    """Free what was gathered: parameters are shards again."""
    for unit in units(model):
        unit.reshard()
