"""LoRA adapters on a model: made, merged, and put on from files (`lora_files`)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.lora_files import ADAPTER_CONFIG, Adapter, read_adapter, save_adapter
from lianlu.model.lora_linear import (
    FUSED,
    LayerUpdate,
    LoraLinear,
    attach,
    lora_layers,
    merged_weight,
    num_inputs,
    own_layouts,
    piece_names,
    piece_sizes,
    refuse_second,
    set_trainable,
)
from lianlu.model.lora_spec import ALL_LINEAR, LoraSpec
from lianlu.model.quantized import QuantizedLinear

__all__ = [
    "ADAPTER_CONFIG",
    "Adapter",
    "LayerUpdate",
    "LoraSpec",
    "add_lora",
    "load_adapter",
    "merge_adapter",
    "read_adapter",
    "save_adapter",
    "with_magnitudes",
]


def add_lora(model: Decoder, spec: LoraSpec, seed: int = 0) -> None:
    """Freeze `model` and put fresh updates on the targets of `spec`, in place: A random by `seed`, B zero.

    With `dora` the magnitudes are the norms of the rows that the weights have now; on `meta`, see `with_magnitudes`.
    Raises: ConfigError for a target the model does not have, or an adapter that is already there.
    """
    refuse_second(model)
    layout, chosen = _targets(model.config, spec)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(model.config.num_hidden_layers):
        for module in FUSED:
            names = piece_names(layout, module)
            sizes = piece_sizes(module, len(names), model.config)
            own = {name: size for name, size in zip(names, sizes, strict=True) if name in chosen}
            if own:
                width = num_inputs(module, model.config)
                updates = {name: _fresh(spec.rank, width, size, generator) for name, size in own.items()}
                update = LayerUpdate(layout, updates, dict.fromkeys(own, spec.scaling))
                made = attach(model, f"layers.{layer}.{module}", update)
                made.dropout, made.rslora = spec.dropout, spec.rslora
                if spec.dora:
                    made.add_magnitudes()
    model.requires_grad_(False)
    set_trainable(model)


def with_magnitudes(model: Decoder, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """What fills a model on `meta` that has a fresh DoRA adapter: its weights by the decoder's names, each layer's magnitudes."""
    waiting = {path: layer for path, layer in lora_layers(model) if layer.lora_magnitude_vector}
    parts: dict[str, dict[str, Tensor]] = {path: {} for path in waiting}
    for name, tensor in weights:
        yield name, tensor
        path, _, kind = name.rpartition(".")
        if path in waiting:
            parts[path][kind] = tensor
            if len(parts[path]) == len(waiting[path].base.state_dict()):
                yield from _magnitudes(path, waiting.pop(path), parts.pop(path))


def _magnitudes(path: str, layer: LoraLinear, parts: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The lengths of the rows of a base that has these tensors."""
    twin = copy.deepcopy(layer)
    meta = layer.base.state_dict()
    twin.base.load_state_dict({name: part.to(meta[name].dtype) for name, part in parts.items()}, assign=True)
    twin.add_magnitudes()
    for piece, magnitude_O in twin.lora_magnitude_vector.items():
        yield f"{path}.lora_magnitude_vector.{piece}", magnitude_O.detach()


def merge_adapter(model: Decoder) -> None:
    """Add the updates to the weights, in fp32 before rounding to the model's dtype, and drop them; the model is whole again.

    Raises: ConfigError where there is no adapter, or the base is quantised.
    """
    layers = list(lora_layers(model))
    if not layers:
        raise ConfigError("the model has no adapter to merge", hint="load one with load_adapter first")
    if any(isinstance(layer.base, QuantizedLinear) for _, layer in layers):
        raise ConfigError("an adapter cannot be merged into quantised weights", hint="merge into the plain model, then quantise")
    with torch.no_grad():
        for path, layer in layers:
            owner, _, attribute = path.rpartition(".")
            weight_OI = layer.base.get_parameter("weight")
            weight_OI.copy_(merged_weight(weight_OI, layer.module, model.config, layer.update()))
            setattr(model.get_submodule(owner), attribute, layer.base)
    model.requires_grad_(True)


def load_adapter(model: Decoder, folder: Path | str) -> None:
    """Put the adapter in `folder` (ours or PEFT's) on `model`, in place; the base is frozen, the updates can be trained.

    Raises: DataError that names the file for anything unknown, missing, mis-shaped or damaged; ConfigError for a second adapter.
    """
    refuse_second(model)
    adapter = read_adapter(model.config, folder)
    for path, layer in adapter.layers.items():
        made = attach(model, path, layer)
        made.dropout, made.rslora = adapter.dropout, adapter.rslora
    model.requires_grad_(False)
    set_trainable(model)


def _fresh(rank: int, width: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A as PEFT draws it (uniform within 1 / sqrt(inputs)), B zero."""
    bound = width**-0.5
    return torch.empty(rank, width).uniform_(-bound, bound, generator=generator), torch.zeros(size, rank)


def _targets(config: ModelConfig, spec: LoraSpec) -> tuple[str, frozenset[str]]:
    """The layout whose names the targets are, and the names."""
    known = {layout: [name for module in FUSED for name in piece_names(layout, module)] for layout in own_layouts(config)}
    if spec.target == ALL_LINEAR:
        return config.architecture, frozenset(known[config.architecture])
    for layout, names in known.items():
        if spec.target and set(spec.target) <= set(names):
            return layout, frozenset(spec.target)
    choices = " or ".join(", ".join(names) for names in known.values())
    raise ConfigError(f"targets {', '.join(spec.target) or '(none)'} do not fit the model", hint=f"choose among {choices}")
