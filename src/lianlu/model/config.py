"""The shape of a decoder: Hugging Face names, one frozen config for InternLM2, Llama, Qwen2 and Qwen3.

Imports no torch, so that `lianlu plan` and `--help` can count parameters. Named shapes are in `presets.toml`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lianlu.core.config import Config, validate
from lianlu.core.errors import ConfigError

Architecture = Literal["internlm2", "llama", "qwen2", "qwen3"]


class NoScaling(Config):
    """Plain rotary embedding."""

    kind: Literal["none"] = "none"


class LinearScaling(Config):
    """Positions divided by `factor`."""

    kind: Literal["linear"] = "linear"
    factor: float = Field(ge=1)


class DynamicScaling(Config):
    """Dynamic NTK: beyond `max_position_embeddings` the base grows with the length of the sequence."""

    kind: Literal["dynamic"] = "dynamic"
    factor: float = Field(gt=0)


class YarnScaling(Config):
    """YaRN; `attention_factor` 0 means the value of the paper."""

    kind: Literal["yarn"] = "yarn"
    factor: float = Field(ge=1)
    original_max_position_embeddings: int = Field(gt=0)
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0


class Llama3Scaling(Config):
    """The wavelength bands of Llama 3.1."""

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(ge=1)
    original_max_position_embeddings: int = Field(gt=0)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


RopeScaling = Annotated[
    NoScaling | LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling,
    Field(discriminator="kind"),
]


class ModelConfig(Config):
    """The shape of a pre-norm decoder with grouped-query attention, SwiGLU and rotary positions."""

    architecture: Architecture = "internlm2"
    """Family: decides the names in a saved checkpoint and where biases and norms sit."""
    vocab_size: int = Field(gt=0)
    """Rows of the embedding."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(gt=0)
    """Width of the feed-forward layer."""
    num_hidden_layers: int = Field(gt=0)
    """Blocks."""
    num_attention_heads: int = Field(gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(default=0, ge=0)
    """Key-value heads; 0 means one for each query head."""
    head_dim: int = Field(default=0, ge=0)
    """Width of a head, even; 0 means hidden_size / num_attention_heads."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square before its root."""
    max_position_embeddings: int = Field(default=2048, gt=0)
    """Longest trained sequence in tokens."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling = NoScaling()
    """How positions beyond the trained length are treated."""
    attention_bias: bool = False
    """Biases in the attention projections (Qwen2: in query, key and value only)."""
    qk_norm: bool = False
    """RMSNorm over each head's queries and keys (Qwen3)."""
    tie_word_embeddings: bool = False
    """The output layer is the embedding."""
    norm_head: bool = False
    """Rows of the output layer are L2-normalised in the forward pass (InternLM2 1.8B's pretraining)."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of new weights."""
    bos_token_id: int | None = None
    """Id that opens a text."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end a text or a turn."""
    pad_token_id: int | None = None
    """Id of padding; the model itself never pads."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        filled = dict(table)
        heads, hidden = filled.get("num_attention_heads"), filled.get("hidden_size")
        if not filled.get("num_key_value_heads") and heads:
            filled["num_key_value_heads"] = heads
        if not filled.get("head_dim") and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            filled["head_dim"] = hidden // heads
        return filled

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even and positive")
        if self.norm_head and self.tie_word_embeddings:
            raise ValueError("norm_head needs an output layer of its own: set tie_word_embeddings = false")
        return self

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def qkv_size(self) -> int:
        """Rows of the fused projection."""
        return (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim

    @property
    def output_bias(self) -> bool:
        """Whether the output projection of attention has a bias."""
        return self.attention_bias and self.architecture != "qwen2"


@cache
def _presets() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("lianlu.model").joinpath("presets.toml").read_text(encoding="utf-8"))


def preset_names() -> list[str]:
    """Names that `preset` knows."""
    return list(_presets())


def preset(name: str, **changes: Any) -> ModelConfig:
    """The named shape of presets.toml with fields changed. Raises: ConfigError for an unknown name."""
    table = _presets().get(name)
    if table is None:
        raise ConfigError(f"there is no model shape {name!r}", hint=f"choose one of {', '.join(_presets())}")
    return validate(ModelConfig, {**table, **changes})


def num_parameters(config: ModelConfig) -> int:
    """Weights of the model, biases and norms included; a tied output layer counts once."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    query_size = config.num_attention_heads * config.head_dim
    attention = hidden * config.qkv_size + query_size * hidden
    if config.attention_bias:
        attention += config.qkv_size + (hidden if config.output_bias else 0)
    if config.qk_norm:
        attention += 2 * config.head_dim
    block = attention + 3 * hidden * ffn + 2 * hidden
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return embeddings + config.num_hidden_layers * block + hidden
