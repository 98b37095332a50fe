"""Opening a model: a Hugging Face folder (InternLM2, Llama, Qwen2, Qwen3; plain or our int8) or a GGUF file.

Weights are read one by one, fused into the decoder's form, and cast or quantised, so that no more than one of them is
there in full width beside the model. Every tensor of the decoder must be there in the right shape and nothing else may
be: a checkpoint that does not fit is refused with the names that do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lianlu.core import machine
from lianlu.core.errors import ConfigError, DataError
from lianlu.formats import gguf
from lianlu.formats.checkpoint import Tensors, read_json
from lianlu.model import layouts
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, empty_model
from lianlu.model.gguf_config import config_from_gguf
from lianlu.model.hf_config import from_hf, quantisation
from lianlu.model.lora_files import Adapter
from lianlu.model.lora_linear import merged_weight
from lianlu.model.quantized import KINDS, Method, linear_names, prepare_quantized

SHOWN_NAMES = 5
# one number type for all weights, or the type of a weight by its name
Dtypes = torch.dtype | Callable[[str], torch.dtype]
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class Source:
    """An opened checkpoint: its config, its names, how to read one of them, and how to let go of what was read of its file."""

    path: Path
    config: ModelConfig
    layout: layouts.Layout
    names: frozenset[str]
    read: Callable[[str], Tensor]
    release: Callable[[], None]
    int8: bool = False


def read_config(path: Path | str) -> ModelConfig:
    """The config of the model at `path` (folder or .gguf), without reading weights. Raises: DataError that names the file."""
    path = Path(path)
    if is_gguf(path):
        return config_from_gguf(gguf.read_gguf(path))
    table = read_json(path / CONFIG)
    generation = read_json(path / GENERATION_CONFIG) if (path / GENERATION_CONFIG).is_file() else None
    return from_hf(table, path / CONFIG, generation)


def load_model(
    path: Path | str,
    dtype: Dtypes = torch.float32,
    device: str | torch.device = "cpu",
    quant: Method | None = None,
    config: ModelConfig | None = None,
    adapter: Adapter | None = None,
) -> Decoder:
    """The model at `path` (folder or .gguf) with weights of `dtype` (or of `dtype(name)`) on `device`.

    From the numbers of the file, layer by layer: `adapter` is added to the weights, then `quant` rounds those of the linear
    layers of the blocks; weights that are int8 already stay so. `config` is built in place of the file's own: the same shape
    with other rotary positions.
    Raises: DataError that names the file for anything missing, unexpected, mis-shaped or damaged; ConfigError for a shape
    that `quant` cannot hold, or an adapter on int8 weights.
    """
    model, weights = open_model(path, dtype, quant, config, adapter)
    model.load_state_dict({name: tensor.to(device) for name, tensor in weights}, assign=True)
    return model


def open_model(
    path: Path | str,
    dtype: Dtypes = torch.float32,
    quant: Method | None = None,
    config: ModelConfig | None = None,
    adapter: Adapter | None = None,
) -> tuple[Decoder, Iterator[tuple[str, Tensor]]]:
    """The model at `path` on `meta`, and its weights by name, read one by one as they are asked for.

    The arguments and what it raises are those of `load_model`.
    """
    path = Path(path)
    source = _open_gguf(path) if is_gguf(path) else _open_folder(path)
    source = source if config is None else replace(source, config=config)
    if source.int8 and adapter is not None:
        raise ConfigError("an adapter cannot be merged into int8 weights", hint="merge into the plain model, then quantise")
    model = empty_model(source.config)
    if source.int8:
        prepare_quantized(model, "int8")
    expected = model.state_dict()
    _check_names(source, expected)
    quant = None if source.int8 else quant
    rounded = frozenset(f"{name}.weight" for name in linear_names(model)) if quant else frozenset()
    if quant:
        prepare_quantized(model, quant)

    def weights() -> Iterator[tuple[str, Tensor]]:
        # embedding and output layer, the largest, while there is little else
        for name in sorted(expected, key=lambda name: name.startswith("layers.")):
            tensor = _updated(name, _fused(source, name, expected[name]), source.config, adapter)
            made = _quantised(name, tensor, quant) if quant and name in rounded else [(name, _cast(name, tensor, dtype))]
            del tensor
            source.release()
            yield from made
            del made
            if name in rounded:
                # full-width tensors that came and went leave holes between the small ones that stay
                machine.trim_memory()

    return model, weights()


def _updated(name: str, tensor: Tensor, config: ModelConfig, adapter: Adapter | None) -> Tensor:
    """A weight with what an adapter adds to it."""
    path = name.removesuffix(".weight")
    layer = None if adapter is None or path == name else adapter.layers.get(path)
    if layer is None:
        return tensor
    return merged_weight(tensor, path.split(".", 2)[2], config, layer)


def _quantised(name: str, tensor: Tensor, quant: Method) -> list[tuple[str, Tensor]]:
    """Names and tensors that stand for the weight `name`."""
    module = name.removesuffix(".weight")
    return [(f"{module}.{part}", made) for part, made in KINDS[quant].quantise(tensor).items()]


def _cast(name: str, tensor: Tensor, dtype: Dtypes) -> Tensor:
    """A copy that no longer leans on the file, in `dtype`; int8 weights and their scales keep their own."""
    if tensor.dtype == torch.int8:
        return tensor.clone()
    wanted = dtype if isinstance(dtype, torch.dtype) else dtype(name)
    return tensor.to(torch.float32 if name.endswith(".weight_scale") else wanted, copy=True)


def is_gguf(path: Path) -> bool:
    """Whether `path` is to be read as a GGUF file: by its name or by its first bytes."""
    if path.suffix == ".gguf":
        return not path.is_dir()
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) == gguf.MAGIC
    return False


def _open_folder(path: Path) -> Source:
    config = read_config(path)
    tensors = Tensors(path)
    int8 = quantisation(read_json(path / CONFIG), path / CONFIG) is not None
    names = frozenset(tensors.names())
    return Source(path, config, layouts.LAYOUTS[config.architecture], names, tensors.tensor, tensors.release, int8)


def _open_gguf(path: Path) -> Source:
    file = gguf.read_gguf(path)
    config = config_from_gguf(file)

    def read(name: str) -> Tensor:
        tensor = torch.from_numpy(file.array(name))
        if config.architecture in ("llama", "internlm2") and ".attn_q." in name:
            return layouts.unpermute_rows(tensor, config.num_attention_heads)
        if config.architecture in ("llama", "internlm2") and ".attn_k." in name:
            return layouts.unpermute_rows(tensor, config.num_key_value_heads)
        return tensor

    return Source(path, config, layouts.GGUF, frozenset(file.tensors), read, file.release)


def _check_names(source: Source, expected: dict[str, Tensor]) -> None:
    needed = {piece for name in expected for piece in source.layout.pieces(name)}
    missing = sorted(needed - source.names)
    if missing:
        raise DataError(
            f"{source.path} lacks {len(missing)} tensors: {_some(missing)}",
            hint="the checkpoint is incomplete, or its config.json belongs to another model",
        )
    unexpected = sorted(name for name in source.names - needed if not _harmless(name, source.config))
    if unexpected:
        raise DataError(
            f"{source.path} has {len(unexpected)} tensors that its config has no place for: {_some(unexpected)}",
            hint="its config.json belongs to another model, or the family is not supported",
        )


def _harmless(name: str, config: ModelConfig) -> bool:
    """Stored tables that are computed anew, and a second copy of a tied output layer."""
    tied = config.tie_word_embeddings and name in ("lm_head.weight", "output.weight")
    return tied or name.endswith("rotary_emb.inv_freq") or name == "rope_freqs.weight"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")


def _fused(source: Source, name: str, meta: Tensor) -> Tensor:
    """Our tensor `name`, each piece checked against the shape it has to have."""
    names = source.layout.pieces(name)
    shapes = [piece.shape for piece in layouts.split(name, meta, len(names), source.config)]
    pieces = [source.read(piece) for piece in names]
    for piece, tensor, shape in zip(names, pieces, shapes, strict=True):
        if tensor.shape != shape:
            raise DataError(
                f"{source.path}: tensor {piece} has shape {tuple(tensor.shape)}, its config asks for {tuple(shape)}",
                hint="config.json and weights do not belong together, or one of them is damaged",
            )
    return layouts.fuse(name, pieces, source.config)
