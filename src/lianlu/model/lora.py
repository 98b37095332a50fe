"""LoRA adapters: made, merged, saved and loaded; files are PEFT's, both ways.

An adapter is named after the linear layers of the Hugging Face model
(`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), also where our layer is fused. One trained on
InternLM2's fused wqkv can be written for the model's Llama form: its A serves the three projections, the rows of its B
are dealt out to them by group, exactly as those of the weight are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import write_json
from lianlu.formats.checkpoint import Tensors, read_json, write_safetensors
from lianlu.model import layouts
from lianlu.model.config import Architecture, ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.lora_linear import (
    FUSED,
    LoraLinear,
    attach,
    lora_layers,
    num_inputs,
    own_layouts,
    piece_names,
    piece_sizes,
    refuse_second,
    set_trainable,
)
from lianlu.model.lora_spec import ALL_LINEAR, LoraSpec, peft_table, read_peft
from lianlu.model.quantized import QuantizedLinear

__all__ = ["Adapter", "LayerUpdate", "LoraSpec", "add_lora", "load_adapter", "merge_adapter", "read_adapter", "save_adapter"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

# path of a foreign layer, its A, its B and its scaling
Piece = tuple[str, Tensor, Tensor, float]


def add_lora(model: Decoder, spec: LoraSpec, seed: int = 0) -> None:
    """Freeze `model` and put fresh updates on the targets of `spec`, in place: A random by `seed`, B zero.

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
                made = attach(model, f"layers.{layer}.{module}", layout, updates, dict.fromkeys(own, spec.alpha / spec.rank))
                made.dropout = spec.dropout
    model.requires_grad_(False)
    set_trainable(model)


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
            a_RI, b_OR = layer.stacked()
            weight_OI = layer.base.get_parameter("weight")
            weight_OI.copy_(weight_OI.float() + b_OR @ a_RI)
            setattr(model.get_submodule(owner), attribute, layer.base)
    model.requires_grad_(True)


def save_adapter(model: Decoder, folder: Path | str, base_name: str, layout: Architecture | None = None) -> None:
    """Write the adapter of `model` so that PEFT loads it; `base_name` says what model it belongs to.

    `layout` names the layers as that family does; by default as the adapter was made.
    Raises: ConfigError without an adapter or for names it cannot be written in; ArtifactError when the disk refuses.
    """
    folder = Path(folder)
    layers = list(lora_layers(model))
    if not layers:
        raise ConfigError("the model has no adapter to save", hint="add one with add_lora first")
    if layout not in (None, *own_layouts(model.config)):
        raise ConfigError(f"this adapter cannot be named as {layout} does", hint="leave the layout out")
    pieces = [piece for path, layer in layers for piece in _pieces(model, path, layer, layout)]
    tensors = {}
    for path, a, b, _ in pieces:
        tensors[f"{PREFIX}{path}.lora_A.weight"] = a.detach()
        tensors[f"{PREFIX}{path}.lora_B.weight"] = b.detach()
    write_safetensors(folder / ADAPTER_WEIGHTS, dict(sorted(tensors.items())))
    modules = {path: (a.shape[0], scaling * a.shape[0]) for path, a, _, scaling in pieces}
    write_json(folder / ADAPTER_CONFIG, peft_table(base_name, layers[0][1].dropout, modules))


@dataclass(frozen=True)
class LayerUpdate:
    """The updates of one fused layer as an adapter holds them, in fp32, under the names of `layout`."""

    layout: str
    updates: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scaling: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read: what it adds to which of our layers (`layers.3.mlp.down`)."""

    layers: dict[str, LayerUpdate]
    dropout: float


def read_adapter(config: ModelConfig, folder: Path | str) -> Adapter:
    """The adapter in `folder` (ours or PEFT's) for a model of this config; no model is touched.

    Raises: DataError that names the file for anything unknown, missing, mis-shaped or damaged.
    """
    folder = Path(folder)
    peft = read_peft(read_json(folder / ADAPTER_CONFIG), folder / ADAPTER_CONFIG)
    file = _weights_file(folder)
    tensors = Tensors(file)
    layers: dict[str, LayerUpdate] = {}
    known = _known_paths(config)
    for path in _paths(tensors, file):
        if path not in known:
            raise DataError(f"{file}: the model has no layer {path} to adapt", hint="the adapter belongs to another model")
        ours, layout, piece = known[path]
        a, b = _checked(config, file, tensors, path, known[path])
        layer = layers.setdefault(ours, LayerUpdate(layout))
        if layer.layout != layout:
            raise DataError(f"{file} adapts a layer under two families' names", hint="save the adapter in one layout")
        layer.updates[piece], layer.scaling[piece] = (a, b), peft.scaling(path, a.shape[0])
    return Adapter(layers, peft.dropout)


def load_adapter(model: Decoder, folder: Path | str) -> None:
    """Put the adapter in `folder` (ours or PEFT's) on `model`, in place; the base is frozen, the updates can be trained.

    Raises: DataError that names the file for anything unknown, missing, mis-shaped or damaged; ConfigError for a second adapter.
    """
    refuse_second(model)
    adapter = read_adapter(model.config, folder)
    for path, layer in adapter.layers.items():
        attach(model, path, layer.layout, layer.updates, layer.scaling).dropout = adapter.dropout
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


def _pieces(model: Decoder, path: str, layer: LoraLinear, layout: str | None) -> Iterator[Piece]:
    """The updates of one fused layer under the names of `layout`."""
    number = path.split(".")[1]
    names = layouts.LAYOUTS[layer.layout]
    theirs = layouts.LAYOUTS[layout or layer.layout]
    if theirs is names:
        for full in names.block[layer.module]:
            leaf = full.rpartition(".")[2]
            if leaf in layer.lora_A:
                yield f"{names.prefix}{number}.{full}", layer.lora_A[leaf], layer.lora_B[leaf], layer.scaling[leaf]
        return
    yield from _renamed(model, number, layer, theirs)


def _renamed(model: Decoder, number: str, layer: LoraLinear, theirs: layouts.Layout) -> Iterator[Piece]:
    own, wanted = piece_names(layer.layout, layer.module), theirs.block[layer.module]
    if len(wanted) < len(own):
        hint = "three updates do not fit into one of the same rank: keep the llama names, or merge"
        raise ConfigError("an adapter on q_proj, k_proj and v_proj cannot be written for wqkv", hint=hint)
    for index, leaf in enumerate(own):
        if leaf not in layer.lora_A:
            continue
        a, b, scaling = layer.lora_A[leaf], layer.lora_B[leaf], layer.scaling[leaf]
        if len(wanted) == len(own):
            yield f"{theirs.prefix}{number}.{wanted[index]}", a, b, scaling
            continue
        for full, rows in zip(wanted, layouts.split_qkv(b, model.config), strict=True):
            yield f"{theirs.prefix}{number}.{full}", a, rows, scaling


def _weights_file(folder: Path) -> Path:
    file = folder / ADAPTER_WEIGHTS
    if file.is_file():
        return file
    if (folder / "adapter_model.bin").is_file():
        hint = "unpickling can run any code, so lianlu never does it: save the adapter as safetensors"
        raise DataError(f"{folder} holds its adapter as a pickle file only", hint=hint)
    raise DataError(f"{folder} has no {ADAPTER_WEIGHTS}", hint="check the path; an adapter folder holds that file")


def _paths(tensors: Tensors, file: Path) -> list[str]:
    """Foreign layers with an update. Raises: DataError for tensors that are no LoRA weights."""
    paths: dict[str, None] = {}
    for name in tensors.names():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_[AB]\.weight", name)
        if match is None:
            raise DataError(f"{file}: unexpected tensor {name}", hint="only plain LoRA weights of linear layers are read")
        paths[match[1]] = None
    if not paths:
        raise DataError(f"{file} holds no LoRA weights", hint="check that the adapter was saved after training")
    return list(paths)


def _known_paths(config: ModelConfig) -> dict[str, tuple[str, str, str]]:
    """Foreign path -> (our path, layout, last name) for every linear layer of the blocks."""
    known = {}
    for layout in own_layouts(config):
        names = layouts.LAYOUTS[layout]
        for number in range(config.num_hidden_layers):
            for module in FUSED:
                for full in names.block[module]:
                    place = (f"layers.{number}.{module}", layout, full.rpartition(".")[2])
                    known[f"{names.prefix}{number}.{full}"] = place
    return known


def _checked(config: ModelConfig, file: Path, tensors: Tensors, path: str, place: tuple[str, str, str]) -> tuple[Tensor, Tensor]:
    """A and B of one layer, with shapes that fit."""
    ours, layout, leaf = place
    module = ours.split(".", 2)[2]
    names = piece_names(layout, module)
    size = piece_sizes(module, len(names), config)[names.index(leaf)]
    a, b = (tensors.tensor(f"{PREFIX}{path}.lora_{letter}.weight").float() for letter in "AB")
    width = num_inputs(module, config)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != width or b.shape != (size, a.shape[0]):
        raise DataError(
            f"{file}: the update of {path} has shapes {tuple(a.shape)} and {tuple(b.shape)}, "
            f"the layer has {width} inputs and {size} outputs",
            hint="the adapter belongs to another model",
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise DataError(f"{file}: the update of {path} holds values that are no numbers", hint="the adapter is damaged")
    return a.clone(), b.clone()
