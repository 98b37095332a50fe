"""Floating-point operations of a training step, from the shape of the model and the lengths of its sequences. No torch.

A multiply-add counts as two. With N weights of the matrices of the blocks, head = vocab_size * hidden_size, L layers, H heads
of width K, and sequences of n tokens:

    blocks      2 N a token forwards, 4 N backwards (2 N for the gradient of the inputs, 2 N for that of the weights)
    head        the same, for the tokens that have a target: the others never reach the output layer
    attention   2 n^2 H K a layer and sequence forwards (products with keys and values, the causal half), twice that backwards
    adapter     6 a weight and token

so that training all weights costs 6 N + 6 L H K n a token, and 6 a weight of the head and target. Frozen matrices have no
gradient of the weights: 4 instead of 6. Looking up embeddings, norms, rotations, the optimiser and anything computed a second
time (activation checkpointing) are not counted: this is the work that the model asks for, as the utilisation of Chowdhery et
al. 2022 (PaLM, appendix B) counts it. Packed sequences do not see each other, so each counts with its own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lianlu.model.config import ModelConfig


def block_weights(config: ModelConfig) -> int:
    """Weights of the matrices of all blocks."""
    query_size = config.num_attention_heads * config.head_dim
    attention = config.hidden_size * config.qkv_size + query_size * config.hidden_size
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def head_weights(config: ModelConfig) -> int:
    """Weights of the output layer, tied or not."""
    return config.vocab_size * config.hidden_size


@dataclass(frozen=True)
class Flops:
    """How many operations a model's training takes; `adapter` counts the low-rank weights over frozen ones, None: all trained."""

    config: ModelConfig
    adapter: int | None = None

    @property
    def per_token(self) -> float:
        """Of the blocks and the adapter, for one token; attention and head depend on the sequences."""
        return self._factor * block_weights(self.config) + 6 * (self.adapter or 0)

    def step(self, lengths: Sequence[int], num_targets: int) -> float:
        """Operations of one step over sequences of these lengths with so many targets, on all processes together."""
        products = sum(lengths) * self.per_token + num_targets * self._factor * head_weights(self.config)
        return products + 3 * self.attention(lengths)

    def attention(self, lengths: Sequence[int]) -> float:
        """Operations of attention alone, forwards."""
        width = self.config.num_hidden_layers * self.config.num_attention_heads * self.config.head_dim
        return 2.0 * width * sum(length * length for length in lengths)

    def recomputed(self, lengths: Sequence[int], checkpointing: str) -> float:
        """What activation checkpointing computes twice: the blocks' forward pass if whole blocks are, else no products."""
        if checkpointing != "full":
            return 0.0
        weights = block_weights(self.config) + (self.adapter or 0)
        return 2.0 * weights * sum(lengths) + self.attention(lengths)

    def formula(self) -> str:
        """The formula with this model's numbers in it."""
        factor, blocks, head = self._factor, block_weights(self.config), head_weights(self.config)
        width = self.config.num_hidden_layers * self.config.num_attention_heads * self.config.head_dim
        adapter = f" + 6 x {_short(self.adapter)} (adapter)" if self.adapter is not None else ""
        return (
            f"{factor} x {_short(blocks)} (blocks){adapter} + 6 x {_short(width)} x length (causal attention) a token, "
            f"{factor} x {_short(head)} (head) a target"
        )

    @property
    def _factor(self) -> int:
        return 6 if self.adapter is None else 4


def _short(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.0f}"
