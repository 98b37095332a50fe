"""The shape of a model from the metadata of a GGUF file, in llama.cpp's names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.formats.gguf import GGUF
from lianlu.model.config import ModelConfig

ARCHITECTURES = ("llama", "internlm2", "qwen2", "qwen3")
LLAMA3_LENGTH = 8192


def config_from_gguf(file: GGUF) -> ModelConfig:
    """The config of the model in `file`. Raises: DataError that names the file for what the decoder does not do."""
    family = file.metadata.get("general.architecture")
    if family not in ARCHITECTURES:
        raise DataError(f"{file.path}: architecture {family!r} is not supported", hint=f"known: {', '.join(ARCHITECTURES)}")
    if file.metadata.get(f"{family}.expert_count"):
        raise DataError(f"{file.path} is a mixture of experts, which is not supported", hint="choose a dense model")
    fields = {
        "architecture": family,
        "vocab_size": _vocab_size(file),
        "hidden_size": _need(file, "embedding_length"),
        "intermediate_size": _need(file, "feed_forward_length"),
        "num_hidden_layers": _need(file, "block_count"),
        "num_attention_heads": _need(file, "attention.head_count"),
        "num_key_value_heads": _get(file, "attention.head_count_kv", 0),
        "head_dim": _get(file, "attention.key_length", 0),
        "rms_norm_eps": _clean(_need(file, "attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": _need(file, "context_length"),
        "rope_theta": _clean(_get(file, "rope.freq_base", 10000.0)),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "qk_norm": "blk.0.attn_q_norm.weight" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_ids": _end_ids(file),
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
    }
    try:
        config = validate(ModelConfig, fields)
        return validate(ModelConfig, {**fields, "rope_scaling": _scaling(file, config)})
    except ConfigError as error:
        raise DataError(f"{file.path}: {error.message}", hint="the metadata of this file cannot be right") from error


def _get(file: GGUF, name: str, default: Any) -> Any:
    return file.metadata.get(f"{file.metadata['general.architecture']}.{name}", default)


def _need(file: GGUF, name: str) -> Any:
    value = _get(file, name, None)
    if not isinstance(value, int | float):
        raise DataError(f"{file.path} lacks the metadata {name}", hint="the file is damaged or not a language model")
    return value


def _clean(value: float) -> float:
    """The shortest decimal of a float32, so that 1e-5 is 1e-5 again."""
    return float(str(np.float32(value)))


def _vocab_size(file: GGUF) -> int:
    info = file.tensors.get("token_embd.weight")
    if info is None:
        raise DataError(f"{file.path} has no token_embd.weight", hint="the file is not a language model")
    return info.shape[0]


def _end_ids(file: GGUF) -> list[int]:
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [file.metadata.get(f"tokenizer.ggml.{name}") for name in names]
    return list(dict.fromkeys(value for value in found if isinstance(value, int)))


def _scaling(file: GGUF, config: ModelConfig) -> dict[str, Any]:
    if "rope_freqs.weight" in file.tensors:
        return _llama3(file, config)
    factor = _clean(_get(file, "rope.scaling.factor", _get(file, "rope.scale_linear", 1.0)))
    kind = _get(file, "rope.scaling.type", "linear")
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {"kind": "none"}
    if kind == "linear":
        return {"kind": "linear", "factor": factor}
    if kind == "yarn":
        length = _get(file, "rope.scaling.original_context_length", config.max_position_embeddings)
        return {"kind": "yarn", "factor": factor, "original_max_position_embeddings": length}
    raise DataError(f"{file.path}: rope scaling {kind!r} is not supported", hint="known: none, linear, yarn, llama3")


def _llama3(file: GGUF, config: ModelConfig) -> dict[str, Any]:
    """Find Llama 3.1's settings again in the divisors that llama.cpp stores, and make sure that they are those."""
    divisors = file.array("rope_freqs.weight").astype(np.float64)
    factor = float(divisors.max())
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    waves = 2 * math.pi * config.rope_theta**exponents
    smooth = np.clip((LLAMA3_LENGTH / waves - 1.0) / 3.0, 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
        raise DataError(f"{file.path}: its rope_freqs are of an unknown kind", hint="only Llama 3.1's are known")
    return {"kind": "llama3", "factor": factor, "original_max_position_embeddings": LLAMA3_LENGTH}
