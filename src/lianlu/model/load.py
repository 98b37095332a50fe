"""Opening a model: a Hugging Face folder (InternLM2, Llama, Qwen2, Qwen3; plain or our int8) or a GGUF file.

Weights are read one by one, fused into the decoder's form and cast. Every tensor of the decoder must be there in the
right shape and nothing else may be: a checkpoint that does not fit is refused with the names that do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lianlu.core.errors import DataError
from lianlu.formats import gguf
from lianlu.formats.checkpoint import Tensors, read_json
from lianlu.model import layouts
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.gguf_config import config_from_gguf
from lianlu.model.hf_config import from_hf, quantisation
from lianlu.model.quantized import prepare_int8

SHOWN_NAMES = 5
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class Source:
    """An opened checkpoint: its config, its names, and how to read one of them."""

    path: Path
    config: ModelConfig
    layout: layouts.Layout
    names: frozenset[str]
    read: Callable[[str], Tensor]
    int8: bool = False


def read_config(path: Path | str) -> ModelConfig:
    """The config of the model at `path` (folder or .gguf), without reading weights. Raises: DataError that names the file."""
    path = Path(path)
    if is_gguf(path):
        return config_from_gguf(gguf.read_gguf(path))
    table = read_json(path / CONFIG)
    generation = read_json(path / GENERATION_CONFIG) if (path / GENERATION_CONFIG).is_file() else None
    return from_hf(table, path / CONFIG, generation)


def load_model(path: Path | str, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Decoder:
    """The model at `path` (folder or .gguf) with weights of `dtype` on `device`.

    Raises: DataError that names the file for anything missing, unexpected, mis-shaped or damaged.
    """
    path = Path(path)
    source = _open_gguf(path) if is_gguf(path) else _open_folder(path)
    with torch.device("meta"):
        model = Decoder(source.config)
        if source.int8:
            prepare_int8(model)
    expected = model.state_dict()
    _check_names(source, expected)
    state = {name: _cast(name, _fused(source, name, meta), dtype).to(device) for name, meta in expected.items()}
    model.load_state_dict(state, assign=True)
    return model


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy that no longer leans on the file, in `dtype`; int8 weights and their scales keep their own."""
    if tensor.dtype == torch.int8:
        return tensor.clone()
    return tensor.to(torch.float32 if name.endswith(".weight_scale") else dtype, copy=True)


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
    return Source(path, config, layouts.LAYOUTS[config.architecture], frozenset(tensors.names()), tensors.tensor, int8)


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

    return Source(path, config, layouts.GGUF, frozenset(file.tensors), read)


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
