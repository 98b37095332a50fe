"""The one decoder, for training and for serving: pre-norm, grouped-query attention, SwiGLU, rotary positions.

It keeps no cache and knows no batch: tokens are one flat axis, and attention is handed in as a function, so that the
trainer passes packed causal attention and the engine passes paged attention over its blocks. The switches of
`ModelConfig` cover InternLM2 (arXiv 2403.17297), Llama, Qwen2/2.5 and Qwen3.

Weights are held fused. `wqkv` has its rows grouped per key-value head, `[q_0 .. q_{n-1}, k, v]`, as InternLM2 has them;
`gate_up` stacks the gate's rows on the up projection's.

Shapes: T tokens, N chosen tokens, D hidden_size, F intermediate_size, V vocab_size, H query heads, G key-value heads,
K head_dim, Q = H / G queries of a group, S = Q + 2 heads in a group of wqkv.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.kernels.attention import Attend
from lianlu.kernels.linear import PackedWeight, linear
from lianlu.kernels.norm import rms_norm
from lianlu.kernels.rope import rotate
from lianlu.kernels.swiglu import swiglu
from lianlu.model.config import ModelConfig
from lianlu.model.rotary import Rotary

CosSin = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_D: Tensor) -> Tensor:
        """Normalise the last axis."""
        return rms_norm(x_D, self.weight, self.eps)


class Linear(nn.Linear):
    """A linear layer over flat tokens that takes the fastest exact product of the machine."""

    def forward(self, x_TI: Tensor) -> Tensor:
        """`x @ weight.T + bias`."""
        return linear(x_TI, self.weight, self.bias)


class Attention(nn.Module):
    """Projections, head norms and rotation around the attention that is handed in."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.num_groups = config.num_key_value_heads
        self.num_queries = config.queries_per_group
        query_size = config.num_attention_heads * config.head_dim
        self.wqkv: nn.Module = Linear(config.hidden_size, config.qkv_size, bias=config.attention_bias)
        self.wo: nn.Module = Linear(query_size, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x_TD: Tensor, rotation: CosSin, attend: Attend) -> Tensor:
        """Attention output after the output projection."""
        num_tokens = x_TD.shape[0]
        qkv_TGSK = self.wqkv(x_TD).view(num_tokens, self.num_groups, self.num_queries + 2, self.head_dim)
        q_TGQK, k_TG1K, v_TG1K = torch.split(qkv_TGSK, [self.num_queries, 1, 1], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_TGQK, k_TG1K = self.q_norm(q_TGQK), self.k_norm(k_TG1K)
        q_THK = rotate(q_TGQK, *rotation).flatten(1, 2)
        o_THK = attend(self.layer, q_THK, rotate(k_TG1K.squeeze(2), *rotation), v_TG1K.squeeze(2))
        projected_TD: Tensor = self.wo(o_THK.flatten(1))
        return projected_TD


class FeedForward(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`, gate and up in one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up: nn.Module = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down: nn.Module = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Each token by itself."""
        y_TD: Tensor = self.down(swiglu(self.gate_up(x_TD)))
        return y_TD


class Block(nn.Module):
    """One layer: attention and feed-forward, each on a normalised input and added to the stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_TD: Tensor, rotation: CosSin, attend: Attend) -> Tensor:
        """The stream after this layer."""
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), rotation, attend)
        y_TD: Tensor = x_TD + self.mlp(self.mlp_norm(x_TD))
        return y_TD


class Decoder(nn.Module):
    """A language model over one flat axis of tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)
        self.packed_head: PackedWeight | None = None
        self._rotary = Rotary(config)

    def forward(self, input_ids_T: Tensor, positions_T: Tensor, attend: Attend, lengths_T: Tensor | None = None) -> Tensor:
        """logits_TV of every token.

        `positions_T` counts from 0 inside each sequence. `lengths_T` is the length of the sequence each token belongs to;
        only dynamic NTK looks at it, and without it the whole batch counts as one sequence.
        """
        return self.head(self.hidden(input_ids_T, positions_T, attend, lengths_T))

    def hidden(self, input_ids_T: Tensor, positions_T: Tensor, attend: Attend, lengths_T: Tensor | None = None) -> Tensor:
        """h_TD after the final norm: what `head` turns into logits."""
        x_TD: Tensor = self.embed_tokens(input_ids_T)
        cos_TK, sin_TK = self._rotary(positions_T, lengths_T)
        rotation = (cos_TK.to(x_TD.dtype), sin_TK.to(x_TD.dtype))
        for block in self.layers:
            x_TD = block(x_TD, rotation, attend)
        normed_TD: Tensor = self.norm(x_TD)
        return normed_TD

    def rotate_with(self, config: ModelConfig) -> None:
        """Take over rotary base, scaling and trained length from `config`; weights and everything else stay."""
        names = ("rope_theta", "rope_scaling", "max_position_embeddings")
        changed = self.config.model_copy(update={name: getattr(config, name) for name in names})
        if changed != self.config:
            self.config, self._rotary = changed, Rotary(changed)

    def head(self, h_ND: Tensor) -> Tensor:
        """logits_NV of hidden states from `hidden`."""
        return linear(h_ND, self.head_weight()) if self.packed_head is None else self.packed_head.linear(h_ND)

    def head_weight(self) -> Tensor:
        """The output matrix w_VD as it is applied: the embedding if tied, rows normalised under `norm_head`."""
        weight_VD: Tensor = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.normalize(weight_VD, dim=1) if self.config.norm_head else weight_VD


def empty_model(config: ModelConfig) -> Decoder:
    """A model without memory: its weights are on `meta` and wait to be placed."""
    with torch.device("meta"):
        return Decoder(config)


def new_weights(config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and random fp32 weights of a new model, one by one; the global generator is not touched."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in empty_model(config).named_parameters():
        tensor = torch.empty(parameter.shape)
        if name.endswith("norm.weight"):
            yield name, tensor.fill_(1.0)
        elif name.endswith("bias"):
            yield name, tensor.zero_()
        else:
            yield name, tensor.normal_(0.0, config.initializer_range, generator=generator)


def build_model(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32) -> Decoder:
    """A new model with random weights that depend on `config` and `seed` only."""
    model = empty_model(config)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in new_weights(config, seed)}, assign=True)
    return model
