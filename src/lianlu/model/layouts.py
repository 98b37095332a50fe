"""Names of weights in foreign checkpoints, and the fusing and splitting between theirs and ours.

A layout lists, for each fused weight of the decoder, the foreign weights it is made of. Every piece is a block of whole
rows, so that weights, biases and the scales of quantised rows are treated alike.

    ours                 llama, qwen2, qwen3              internlm2              gguf
    attention.wqkv       q_proj k_proj v_proj             wqkv                   attn_q attn_k attn_v
    mlp.gate_up          gate_proj up_proj                w1 w3                  ffn_gate ffn_up

Shapes: G key-value heads, S heads in a group of wqkv (queries, key, value), K head_dim, `...` what follows the rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lianlu.model.config import ModelConfig


@dataclass(frozen=True)
class Layout:
    """Foreign names: `block` for the modules of a layer, `outer` for the rest; each maps ours to theirs."""

    prefix: str
    outer: Mapping[str, str]
    block: Mapping[str, tuple[str, ...]]

    def pieces(self, name: str) -> list[str]:
        """The foreign tensors that make up our tensor `name` (`layers.3.mlp.gate_up.weight`)."""
        module, _, kind = name.rpartition(".")
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", module)
        if match is None:
            return [f"{self.outer[module]}.{kind}"]
        return [f"{self.prefix}{match[1]}.{piece}.{kind}" for piece in self.block[match[2]]]


LLAMA = Layout(
    prefix="model.layers.",
    outer={"embed_tokens": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"},
    block={
        "attention_norm": ("input_layernorm",),
        "attention.wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.wo": ("self_attn.o_proj",),
        "attention.q_norm": ("self_attn.q_norm",),
        "attention.k_norm": ("self_attn.k_norm",),
        "mlp_norm": ("post_attention_layernorm",),
        "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down": ("mlp.down_proj",),
    },
)

INTERNLM2 = Layout(
    prefix="model.layers.",
    outer={"embed_tokens": "model.tok_embeddings", "norm": "model.norm", "lm_head": "output"},
    block={
        "attention_norm": ("attention_norm",),
        "attention.wqkv": ("attention.wqkv",),
        "attention.wo": ("attention.wo",),
        "mlp_norm": ("ffn_norm",),
        "mlp.gate_up": ("feed_forward.w1", "feed_forward.w3"),
        "mlp.down": ("feed_forward.w2",),
    },
)

GGUF = Layout(
    prefix="blk.",
    outer={"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"},
    block={
        "attention_norm": ("attn_norm",),
        "attention.wqkv": ("attn_q", "attn_k", "attn_v"),
        "attention.wo": ("attn_output",),
        "attention.q_norm": ("attn_q_norm",),
        "attention.k_norm": ("attn_k_norm",),
        "mlp_norm": ("ffn_norm",),
        "mlp.gate_up": ("ffn_gate", "ffn_up"),
        "mlp.down": ("ffn_down",),
    },
)

LAYOUTS = {"llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "internlm2": INTERNLM2}


def split_qkv(fused: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the queries, the keys and the values out of the rows of wqkv."""
    grouped_GSK = fused.reshape(config.num_key_value_heads, config.queries_per_group + 2, config.head_dim, *fused.shape[1:])
    rest = fused.shape[1:]
    q, k, v = grouped_GSK[:, :-2], grouped_GSK[:, -2], grouped_GSK[:, -1]
    return q.reshape(-1, *rest), k.reshape(-1, *rest), v.reshape(-1, *rest)


def fuse_qkv(q: Tensor, k: Tensor, v: Tensor, config: ModelConfig) -> Tensor:
    """Rows of wqkv, grouped per key-value head, out of those of queries, keys and values."""
    groups, rest = config.num_key_value_heads, q.shape[1:]
    parts = [part.reshape(groups, -1, config.head_dim, *rest) for part in (q, k, v)]
    return torch.cat(parts, dim=1).reshape(config.qkv_size, *rest)


def split(name: str, fused: Tensor, num_pieces: int, config: ModelConfig) -> tuple[Tensor, ...]:
    """Our tensor `name` as the pieces of a layout, in the layout's order."""
    if num_pieces == 1:
        return (fused,)
    return split_qkv(fused, config) if ".wqkv." in name else fused.chunk(num_pieces)


def fuse(name: str, pieces: list[Tensor], config: ModelConfig) -> Tensor:
    """Our tensor `name` out of the pieces of a layout."""
    if len(pieces) == 1:
        return pieces[0]
    return fuse_qkv(pieces[0], pieces[1], pieces[2], config) if ".wqkv." in name else torch.cat(pieces)


def unpermute_rows(rows: Tensor, num_heads: int) -> Tensor:
    """Undo the row order of llama.cpp, in which the halves of a head are interleaved for its kind of rotation."""
    pairs = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
