"""Weights into a divided model, one tensor at a time: no process ever holds the whole model.

The model is on `meta`, its weights come by the names of the decoder, and each process keeps its part of each.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from lianlu.core.errors import EngineError
from lianlu.model.decoder import Decoder

# parts of names that wrappers of a layer add
WRAPPERS = (".base.", "._orig_mod.", "._checkpoint_wrapped_module.")


def decoder_name(name: str) -> str:
    """The name of a weight in a decoder without adapters and wrappers."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, ".")
    return name


def place(model: Decoder, weights: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Fill a model on `meta` from whole tensors by name, in its own dtypes and shapes; what is real already stays.

    Every process must be given the same tensors. Raises: EngineError for a weight that never comes.
    """
    empty = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_meta}
    names = {decoder_name(name): name for name in empty}
    state: dict[str, Tensor] = {}
    for given, whole in weights:
        name = names.get(given)
        if name is not None:
            state[name] = _part(whole, empty[name], device)
    if len(state) < len(empty):
        raise EngineError(f"no weights came for {', '.join(sorted(set(empty) - set(state))[:5])}")
    model.load_state_dict(state, strict=False, assign=True)


def _part(whole: Tensor, like: Tensor, device: torch.device) -> Tensor:
    """What this process keeps of a tensor that is to be placed as `like`."""
    whole = whole.reshape(like.shape)
    if not isinstance(like, DTensor):
        return whole.to(device, like.dtype)
    part = whole
    # inner axes of the mesh were divided first (tensor parallel), outer ones divide what those left (FSDP)
    for axis in reversed(range(like.device_mesh.ndim)):
        placement = like.placements[axis]
        if isinstance(placement, Shard | _StridedShard):
            part = _chunk(part, placement.dim, like.device_mesh.size(axis), like.device_mesh.get_local_rank(axis))
    kept = torch.empty(part.shape, dtype=like.dtype, device=device).copy_(part)
    return DTensor.from_local(kept, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


def _chunk(tensor: Tensor, dim: int, count: int, number: int) -> Tensor:
    """Piece `number` of `count`, of rounded-up size as long as there is something left."""
    size = -(-tensor.shape[dim] // count)
    start = min(number * size, tensor.shape[dim])
    return tensor.narrow(dim, start, min(size, tensor.shape[dim] - start))
