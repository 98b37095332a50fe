"""Writing a model as a Hugging Face folder, in the layout asked for, so that transformers loads it.

Weights are written first, config.json last. Under `norm_head` the normalised output layer is what is written, as InternLM2's
converter does; config.json keeps the switch, which changes nothing for readers that do not know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from lianlu.core.errors import ConfigError
from lianlu.core.files import write_json
from lianlu.formats.checkpoint import MAX_SHARD_BYTES, write_tensors
from lianlu.model import layouts
from lianlu.model.config import Architecture, ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.hf_config import QUANT_METHOD, to_hf, token_ids
from lianlu.model.load import CONFIG, GENERATION_CONFIG
from lianlu.model.quantized import Int4Linear, NF4Linear, is_quantized

INTERCHANGEABLE = frozenset({"internlm2", "llama"})


def save_model(
    model: Decoder,
    folder: Path | str,
    layout: Architecture | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    weights: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Write config.json, generation_config.json and safetensors into `folder`, in the dtype the model has.

    `layout` is a family whose names are used; by default the model's own. InternLM2 and Llama convert into each other.
    `weights` gives the whole weights by name where the model holds only parts of them.
    Raises: ConfigError for a layout that cannot hold the model or an open adapter; ArtifactError when the disk refuses.
    """
    folder = Path(folder)
    layout = layout or model.config.architecture
    _check(model, layout)
    tensors = model.state_dict().items() if weights is None else weights
    write_tensors(folder, _foreign_tensors(model.config, tensors, layout), max_shard_bytes)
    write_json(folder / GENERATION_CONFIG, {name: value for name, value in token_ids(model.config).items() if value is not None})
    table = to_hf(model.config, layout, str(model.norm.weight.dtype).removeprefix("torch."))
    if is_quantized(model):
        table["quantization_config"] = {"quant_method": QUANT_METHOD}
    write_json(folder / CONFIG, table)


def _check(model: Decoder, layout: Architecture) -> None:
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ConfigError("the model has an open adapter", hint="save the adapter by itself, or merge it first")
    if any(isinstance(module, Int4Linear | NF4Linear) for module in model.modules()):
        message = "int4 and NF4 weights are made while a model is loaded, there is no file format for them"
        raise ConfigError(message, hint="save it plain or int8")
    own = model.config.architecture
    if layout not in layouts.LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}", hint=f"choose one of {', '.join(layouts.LAYOUTS)}")
    if layout != own and not {layout, own} <= INTERCHANGEABLE:
        raise ConfigError(f"a {own} model has no place in the {layout} layout", hint=f"leave the layout out to keep {own}")


def _foreign_tensors(
    config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], layout: Architecture
) -> Iterator[tuple[str, Tensor]]:
    names = layouts.LAYOUTS[layout]
    for name, tensor in tensors:
        pieces = names.pieces(name)
        applied = F.normalize(tensor, dim=1) if name == "lm_head.weight" and config.norm_head else tensor
        yield from zip(pieces, layouts.split(name, applied, len(pieces), config), strict=True)
