"""The shape of a model to pretrain: a named one with fields changed beside it, or one spelled out. Imports no torch.

    model = { preset = "internlm2-1.8b" }                          the shape of model/presets.toml
    model = { preset = "internlm2-1.8b", num_hidden_layers = 12 }  half as deep
    model = { hidden_size = 384, num_attention_heads = 6 }         one's own

The vocabulary is that of the shards, padded to the preset's where that is larger; special ids are the tokenizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from lianlu.core.config import Config, Table, merge, validate
from lianlu.model.config import Architecture, ModelConfig, NoScaling, RopeScaling, preset

OF_THE_TOKENIZER = ("bos_token_id", "eos_token_ids", "pad_token_id")


class ShapeConfig(Config):
    """The shape of the new model."""

    preset: str = ""
    """A named shape, for example internlm2-1.8b, internlm2-7b or internlm2-20b; the fields beside it change it."""
    architecture: Architecture = "internlm2"
    """Family: internlm2, llama, qwen2 or qwen3."""
    vocab_size: int = Field(default=0, ge=0)
    """Rows of the embedding at least; there are never fewer than the shards' tokenizer has ids."""
    hidden_size: int = Field(default=256, gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(default=768, gt=0)
    """Width of the feed-forward layer."""
    num_hidden_layers: int = Field(default=4, gt=0)
    """Blocks."""
    num_attention_heads: int = Field(default=4, gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(default=2, ge=0)
    """Key-value heads; 0 means one for each query head."""
    head_dim: int = Field(default=0, ge=0)
    """Width of a head, even; 0 means hidden_size / num_attention_heads."""
    max_position_embeddings: int = Field(default=0, ge=0)
    """Longest sequence the saved model claims; never less than the longest it was trained on."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies; phases may change it."""
    rope_scaling: RopeScaling = NoScaling()
    """How positions beyond the trained length are treated."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square before its root."""
    attention_bias: bool = False
    """Biases in the attention projections (Qwen2)."""
    qk_norm: bool = False
    """RMSNorm over each head's queries and keys (Qwen3)."""
    tie_word_embeddings: bool = True
    """The output layer is the embedding."""
    norm_head: bool = False
    """Rows of the output layer are L2-normalised in the forward pass; needs an output layer of its own."""
    initializer_range: float = Field(default=0.05, gt=0)
    """Standard deviation of new weights; 0.05 suits a width of a few hundred, presets have their own."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_preset(cls, table: Any) -> Any:
        """Fields that are not written are the preset's. Raises: ConfigError for an unknown name."""
        if not isinstance(table, Mapping) or not table.get("preset"):
            return table
        named = preset(str(table["preset"]))
        fields = named.model_dump(mode="json", exclude=set(OF_THE_TOKENIZER))
        if named.head_dim == named.hidden_size // named.num_attention_heads:
            fields["head_dim"] = 0
        return merge(fields, table)

    @model_validator(mode="after")
    def _check(self) -> ShapeConfig:
        """Raises: ConfigError for a shape that cannot be."""
        self.as_model(1, 1)
        return self

    def as_model(self, vocab_size: int, longest: int, **special_ids: Any) -> ModelConfig:
        """This shape for a vocabulary of `vocab_size` ids and sequences of up to `longest` tokens. Raises: ConfigError."""
        table: Table = self.model_dump(mode="json", exclude={"preset"})
        table["vocab_size"] = max(self.vocab_size, vocab_size)
        table["max_position_embeddings"] = max(self.max_position_embeddings, longest)
        return validate(ModelConfig, {**table, **special_ids}, where="model")
