"""Hugging Face's config.json, both ways: to a `ModelConfig` and from one.

Reads the names of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and 5 (`rope_parameters`, `dtype`); writes
the former, which every version understands. A file that asks for something the decoder does not do is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.model.config import ModelConfig, NoScaling, YarnScaling

Table = dict[str, Any]

CLASSES = {
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SAME_NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
    "initializer_range",
)
OPTIONAL = (
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
    "initializer_range",
    "norm_head",
    "bos_token_id",
    "pad_token_id",
)
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
DEFAULT_EPS = 1e-6
QUANT_METHOD = "lianlu-int8"


def from_hf(table: Table, file: Path, generation: Table | None = None) -> ModelConfig:
    """The config that a config.json describes; `generation` is generation_config.json, whose end tokens count too.

    Raises: DataError that names `file` for another family, a missing field or a feature the decoder lacks.
    """
    family = table.get("model_type")
    if family not in CLASSES:
        raise DataError(f"{file}: model_type {family!r} is not supported", hint=f"families: {', '.join(CLASSES)}")
    missing = [name for name in REQUIRED if not isinstance(table.get(name), int)]
    if missing:
        raise DataError(f"{file} lacks {', '.join(missing)}", hint="the file is damaged or not a model's config.json")
    _refuse(table, file)
    fields: Table = {name: table[name] for name in REQUIRED}
    fields.update({name: table[name] for name in OPTIONAL if table.get(name) is not None})
    fields.setdefault("rms_norm_eps", DEFAULT_EPS)
    theta, scaling = _rope(table, file)
    fields.update(
        architecture=family,
        head_dim=table.get("head_dim") or (128 if family == "qwen3" else 0),
        rope_theta=theta,
        rope_scaling=scaling,
        attention_bias=family == "qwen2" or bool(table.get("attention_bias", table.get("bias", False))),
        qk_norm=family == "qwen3",
        tie_word_embeddings=bool(table.get("tie_word_embeddings", False)),
        eos_token_ids=_end_ids(generation or {}, table),
    )
    try:
        return validate(ModelConfig, fields)
    except ConfigError as error:
        raise DataError(f"{file}: {error.message}", hint="the shape in this file cannot be right") from error


def to_hf(config: ModelConfig, architecture: str, dtype: str) -> Table:
    """config.json for `config` saved as `architecture` with weights of `dtype` (`float32`, `bfloat16`)."""
    table: Table = {name: getattr(config, name) for name in SAME_NAMES}
    table.update(
        architectures=[CLASSES[architecture]],
        model_type=architecture,
        head_dim=config.head_dim,
        hidden_act="silu",
        rope_theta=config.rope_theta,
        rope_scaling=_scaling_to_hf(config),
        tie_word_embeddings=config.tie_word_embeddings,
        torch_dtype=dtype,
        use_cache=True,
        **token_ids(config),
    )
    if architecture == "internlm2":
        table.update(bias=config.attention_bias)
    elif architecture != "qwen2":
        table.update(attention_bias=config.attention_bias)
    if config.norm_head:
        table.update(norm_head=True)
    return table


def token_ids(config: ModelConfig) -> Table:
    """The special ids as config.json and generation_config.json hold them: one end id as a number, several as a list."""
    ends = list(config.eos_token_ids)
    found = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    return {**found, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}


def quantisation(table: Table, file: Path) -> Table | None:
    """Our own int8 settings in a config.json, None for plain weights. Raises: DataError for another method."""
    found = table.get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found
    if method != QUANT_METHOD:
        raise DataError(f"{file}: weights are quantised by {method!r}", hint="use the unquantised model, or its GGUF")
    return dict(found)


def _refuse(table: Table, file: Path) -> None:
    wrong = {
        "hidden_act": table.get("hidden_act", "silu") not in ("silu", "swish"),
        "mlp_bias": bool(table.get("mlp_bias")),
        "use_sliding_window": bool(table.get("use_sliding_window")),
        "num_experts": bool(table.get("num_experts")),
        "partial_rotary_factor": table.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for name, refused in wrong.items():
        if refused:
            raise DataError(f"{file}: {name} = {table[name]!r} is not supported", hint="choose another model of this family")


def _rope(table: Table, file: Path) -> tuple[float, Table]:
    rope = table.get("rope_parameters") or table.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise DataError(f"{file}: rope_scaling is {rope!r}", hint="it should be a table with rope_type and factor")
    theta = float(rope.get("rope_theta") or table.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "none", None):
        return theta, {"kind": "none"}
    if kind not in ("linear", "dynamic", "yarn", "llama3"):
        raise DataError(f"{file}: rope type {kind!r} is not supported", hint="known: linear, dynamic, yarn, llama3")
    if kind in ("linear", "dynamic"):
        return theta, {"kind": kind, "factor": rope.get("factor")}
    names = {"yarn": ("beta_fast", "beta_slow", "attention_factor"), "llama3": ("low_freq_factor", "high_freq_factor")}[kind]
    scaling = {name: rope[name] for name in names if rope.get(name) is not None}
    if rope.get("mscale") or rope.get("mscale_all_dim") or rope.get("truncate") is False:
        raise DataError(f"{file}: this form of yarn is not supported", hint="mscale and truncate = false are not known here")
    length = rope.get("original_max_position_embeddings") or table.get("max_position_embeddings")
    return theta, {"kind": kind, "factor": rope.get("factor"), "original_max_position_embeddings": length, **scaling}


def _scaling_to_hf(config: ModelConfig) -> Table | None:
    scaling = config.rope_scaling
    if isinstance(scaling, NoScaling):
        return None
    table = scaling.model_dump(exclude={"kind"})
    if isinstance(scaling, YarnScaling) and not scaling.attention_factor:
        del table["attention_factor"]
    # InternLM2's own code reads "type", transformers reads "rope_type"
    return {"rope_type": scaling.kind, "type": scaling.kind, **table}


def _end_ids(*tables: Table) -> list[int]:
    found: list[int] = []
    for table in tables:
        ids = table.get("eos_token_id")
        for value in ids if isinstance(ids, list) else [ids]:
            if isinstance(value, int) and value not in found:
                found.append(value)
    return found
