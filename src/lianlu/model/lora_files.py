"""Files of LoRA adapters, PEFT's both ways: adapter_config.json and adapter_model.safetensors.

An adapter is named after the linear layers of the Hugging Face model
(`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), also where our layer is fused. One trained on
InternLM2's fused wqkv can be written for the model's Llama form: its A serves the three projections, the rows of its B (and
its magnitudes, under DoRA) are dealt out to them by group, exactly as those of the weight are.

lianlu.json lies beside PEFT's files and says what weights the adapter was trained on: those of the checkpoint ("original"),
or the same in NF4 or int8, whose rounding the adapter has learnt to make up for. PEFT does not look at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from torch import Tensor

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import write_json
from lianlu.formats.checkpoint import Tensors, read_json, write_safetensors
from lianlu.model import layouts
from lianlu.model.config import Architecture, ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.lora_linear import (
    FUSED,
    LayerUpdate,
    LoraLinear,
    lora_layers,
    num_inputs,
    own_layouts,
    piece_names,
    piece_sizes,
)
from lianlu.model.lora_spec import PeftConfig, Written, peft_table, read_peft
from lianlu.model.quantized import KINDS

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OWN_CONFIG = "lianlu.json"
PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
TrainedBase = Literal["original", "int8", "int4", "nf4", "nf4-single"]


@dataclass(frozen=True)
class Piece:
    """The update of one foreign layer, under its path."""

    path: str
    a_RI: Tensor
    b_OR: Tensor
    scaling: float
    magnitude_O: Tensor | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read: what it adds to which of our layers (`layers.3.mlp.down`)."""

    layers: dict[str, LayerUpdate]
    dropout: float
    rslora: bool = False

    @property
    def dora(self) -> bool:
        """Whether it has magnitudes, so that what it adds depends on the weights it is put on."""
        return any(layer.magnitudes for layer in self.layers.values())


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
    for piece in pieces:
        tensors[f"{PREFIX}{piece.path}.lora_A.weight"] = piece.a_RI.detach()
        tensors[f"{PREFIX}{piece.path}.lora_B.weight"] = piece.b_OR.detach()
        if piece.magnitude_O is not None:
            tensors[f"{PREFIX}{piece.path}.{MAGNITUDE}"] = piece.magnitude_O.detach()
    write_safetensors(folder / ADAPTER_WEIGHTS, dict(sorted(tensors.items())))
    first = layers[0][1]
    modules = {piece.path: (piece.a_RI.shape[0], piece.scaling) for piece in pieces}
    written = Written(base_name, first.dropout, first.rslora, bool(first.lora_magnitude_vector))
    write_json(folder / ADAPTER_CONFIG, peft_table(written, modules))
    write_json(folder / OWN_CONFIG, {"base": _base_of(first)})


def trained_base(folder: Path | str) -> TrainedBase | None:
    """What the adapter in `folder` was trained on: "original", "int8", "nf4", "nf4-single"; None where nobody wrote it down.

    Raises: DataError for a damaged lianlu.json.
    """
    file = Path(folder) / OWN_CONFIG
    if not file.is_file():
        return None
    named = read_json(file).get("base")
    for base in get_args(TrainedBase):
        if named == base:
            return cast(TrainedBase, base)
    raise DataError(f"{file}: base is {named!r}", hint=f"remove {OWN_CONFIG}: PEFT's files beside it are complete")


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
    for path in _paths(tensors, file, peft):
        if path not in known:
            raise DataError(f"{file}: the model has no layer {path} to adapt", hint="the adapter belongs to another model")
        ours, layout, leaf = known[path]
        piece = _checked(config, _Read(file, tensors, peft), path, known[path])
        layer = layers.setdefault(ours, LayerUpdate(layout))
        if layer.layout != layout:
            raise DataError(f"{file} adapts a layer under two families' names", hint="save the adapter in one layout")
        layer.updates[leaf], layer.scaling[leaf] = (piece.a_RI, piece.b_OR), piece.scaling
        if piece.magnitude_O is not None:
            layer.magnitudes[leaf] = piece.magnitude_O
    return Adapter(layers, peft.dropout, peft.rslora)


def _base_of(layer: LoraLinear) -> TrainedBase:
    return next((method for method, kind in KINDS.items() if type(layer.base) is kind), "original")


def _pieces(model: Decoder, path: str, layer: LoraLinear, layout: str | None) -> Iterator[Piece]:
    """The updates of one fused layer under the names of `layout`."""
    number = path.split(".")[1]
    names = layouts.LAYOUTS[layer.layout]
    theirs = layouts.LAYOUTS[layout or layer.layout]
    if theirs is names:
        for full in names.block[layer.module]:
            leaf = full.rpartition(".")[2]
            if leaf in layer.lora_A:
                yield _piece(layer, leaf, f"{names.prefix}{number}.{full}")
        return
    yield from _renamed(model, number, layer, theirs)


def _piece(layer: LoraLinear, leaf: str, path: str) -> Piece:
    magnitude_O = layer.update().magnitudes.get(leaf)
    return Piece(path, layer.lora_A[leaf], layer.lora_B[leaf], layer.scaling[leaf], magnitude_O)


def _renamed(model: Decoder, number: str, layer: LoraLinear, theirs: layouts.Layout) -> Iterator[Piece]:
    own, wanted = piece_names(layer.layout, layer.module), theirs.block[layer.module]
    if len(wanted) < len(own):
        hint = "three updates do not fit into one of the same rank: keep the llama names, or merge"
        raise ConfigError("an adapter on q_proj, k_proj and v_proj cannot be written for wqkv", hint=hint)
    for index, leaf in enumerate(own):
        if leaf not in layer.lora_A:
            continue
        if len(wanted) == len(own):
            yield _piece(layer, leaf, f"{theirs.prefix}{number}.{wanted[index]}")
            continue
        whole = _piece(layer, leaf, "")
        rows = layouts.split_qkv(whole.b_OR, model.config)
        magnitudes = (None,) * 3 if whole.magnitude_O is None else layouts.split_qkv(whole.magnitude_O, model.config)
        for full, b_OR, magnitude_O in zip(wanted, rows, magnitudes, strict=True):
            yield Piece(f"{theirs.prefix}{number}.{full}", whole.a_RI, b_OR, whole.scaling, magnitude_O)


def _weights_file(folder: Path) -> Path:
    file = folder / ADAPTER_WEIGHTS
    if file.is_file():
        return file
    if (folder / "adapter_model.bin").is_file():
        hint = "unpickling can run any code, so lianlu never does it: save the adapter as safetensors"
        raise DataError(f"{folder} holds its adapter as a pickle file only", hint=hint)
    raise DataError(f"{folder} has no {ADAPTER_WEIGHTS}", hint="check the path; an adapter folder holds that file")


def _paths(tensors: Tensors, file: Path, peft: PeftConfig) -> list[str]:
    """Foreign layers with an update. Raises: DataError for tensors that are no LoRA weights."""
    kinds = r"lora_[AB]\.weight" + (rf"|{MAGNITUDE}" if peft.dora else "")
    paths: dict[str, None] = {}
    for name in tensors.names():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.({kinds})", name)
        if match is None:
            raise DataError(f"{file}: unexpected tensor {name}", hint="only LoRA and DoRA weights of linear layers are read")
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


@dataclass(frozen=True)
class _Read:
    """An opened adapter."""

    file: Path
    tensors: Tensors
    peft: PeftConfig


def _checked(config: ModelConfig, read: _Read, path: str, place: tuple[str, str, str]) -> Piece:
    """The update of one layer, with shapes that fit."""
    ours, layout, leaf = place
    module = ours.split(".", 2)[2]
    names = piece_names(layout, module)
    size, width = piece_sizes(module, len(names), config)[names.index(leaf)], num_inputs(module, config)
    a, b = (read.tensors.tensor(f"{PREFIX}{path}.lora_{letter}.weight").float().clone() for letter in "AB")
    magnitude = read.tensors.tensor(f"{PREFIX}{path}.{MAGNITUDE}").float().clone() if read.peft.dora else None
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != width or b.shape != (size, a.shape[0]):
        raise DataError(
            f"{read.file}: the update of {path} has shapes {tuple(a.shape)} and {tuple(b.shape)}, "
            f"the layer has {width} inputs and {size} outputs",
            hint="the adapter belongs to another model",
        )
    if magnitude is not None and magnitude.shape != (size,):
        message = f"{read.file}: the magnitudes of {path} have shape {tuple(magnitude.shape)}, the layer has {size} outputs"
        raise DataError(message, hint="the adapter belongs to another model")
    if not all(tensor.isfinite().all() for tensor in (a, b, magnitude) if tensor is not None):
        raise DataError(f"{read.file}: the update of {path} holds values that are no numbers", hint="the adapter is damaged")
    return Piece(path, a, b, read.peft.scaling(path, a.shape[0]), magnitude)
