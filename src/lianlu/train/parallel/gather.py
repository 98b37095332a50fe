"""Weights out of a divided model, one tensor at a time, and the results that are written of them.

Each is put together on all processes, handed on under the decoder's name and in its shape, and dropped; only the main process
writes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from lianlu.model.decoder import Decoder
from lianlu.model.lora_linear import lora_layers
from lianlu.model.save import save_model
from lianlu.train.parallel.fsdp import settle
from lianlu.train.parallel.pipeline import stage_of
from lianlu.train.parallel.place import decoder_name


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """A tensor put together, on the CPU; a collective for one that is divided."""
    if isinstance(tensor, DTensor):
        placements = list(tensor.placements)
        # shards first, then what tensor parallel processes hold: as they were divided, in reverse
        for axis in range(len(placements)):
            placements[axis] = Replicate()
            tensor = tensor.redistribute(placements=placements)
        tensor = tensor.to_local()
    return tensor.detach().cpu()


def gathered(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and whole tensors of a model's state, one by one; all processes have to take all of them."""
    stage = stage_of(model)
    return _gathered(model) if stage is None else stage.gathered(_gathered(model))


def _gathered(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    settle(model)
    for name, tensor in model.state_dict().items():
        full = whole(tensor)
        yield decoder_name(name), full.flatten(0, 1) if full.ndim == 3 else full


def save_whole(model: Decoder, folder: Path, is_main: bool) -> None:
    """Write the model as `save_model` does; all processes take part. Raises: ArtifactError when the disk refuses."""
    weights = gathered(model)
    if is_main:
        save_model(model, folder, weights=weights)
    deque(weights, maxlen=0)


@contextlib.contextmanager
def whole_adapters(model: Decoder) -> Iterator[None]:
    """Within it the adapters of a divided model are whole, on the CPU, on every process, and can be written."""
    settle(model)
    kept: list[tuple[nn.ParameterDict, str, nn.Parameter]] = []
    for _, layer in lora_layers(model):
        for table in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            for piece, parameter in list(table.items()):
                kept.append((table, piece, parameter))
                table[piece] = nn.Parameter(whole(parameter), requires_grad=False)
    try:
        yield
    finally:
        for table, piece, parameter in kept:
            table[piece] = parameter
