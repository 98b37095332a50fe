"""Tensor parallelism: each process of a group computes with its share of every matrix, and sums are formed between.

wqkv is divided by key-value heads, whose rows lie together, gate and up by feed-forward units, wo and down by the inputs
that these make; so a block adds up twice, after wo and after down (Shoeybi et al. 2019, arXiv 1909.08053). Embedding and
output layer are divided by tokens of the vocabulary (`vocab.py`). What all processes of the group hold whole (norms, the bias
of wo) is marked as replicated; where its gradient is made from a share of the heads only (the norms of Qwen3's queries and
keys), it is summed over the group.

The modules of the model are replaced by ones whose weights are DTensors of the group and keep their names; the model's own
code runs unchanged between them, with fewer heads.

Shapes: T tokens, I inputs, O outputs, F feed-forward units, D hidden_size, K head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard

from lianlu.core.errors import ConfigError
from lianlu.kernels.linear import linear
from lianlu.kernels.norm import rms_norm
from lianlu.model.decoder import Block, Decoder, RMSNorm
from lianlu.train.parallel.divided import divided, enter, leave, local
from lianlu.train.parallel.vocab import VocabEmbedding


class ColumnLinear(nn.Module):
    """A linear layer of which each process computes some of the outputs."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight = divided(whole.weight, mesh, Shard(0))
        self.bias = None if whole.bias is None else divided(whole.bias, mesh, Shard(0))
        self._mesh = mesh

    def forward(self, x_TI: Tensor) -> Tensor:
        """This process's outputs."""
        return linear(enter(x_TI, self._mesh), local(self.weight), None if self.bias is None else local(self.bias))


class RowLinear(nn.Module):
    """A linear layer of which each process has some of the inputs; the outputs are summed."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight = divided(whole.weight, mesh, Shard(1))
        self.bias = None if whole.bias is None else divided(whole.bias, mesh, Replicate())
        self._mesh = mesh

    def forward(self, x_TI: Tensor) -> Tensor:
        """The outputs, the same on all processes of the group."""
        y_TO = leave(linear(x_TI, local(self.weight)), self._mesh)
        return y_TO if self.bias is None else y_TO + local(self.bias)


class GateUp(nn.Module):
    """Gate and up projection in one weight of shape (2, F, D), so that a share of it is the same units of both."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh | None) -> None:
        super().__init__()
        meta = whole.weight.view(2, whole.out_features // 2, whole.in_features)
        self.weight = divided(meta, mesh, Shard(1))
        self._mesh = mesh

    def forward(self, x_TD: Tensor) -> Tensor:
        """The gates of this process's units, then their ups."""
        x_TD = x_TD if self._mesh is None else enter(x_TD, self._mesh)
        return linear(x_TD, local(self.weight).flatten(0, 1))


class SharedNorm(nn.Module):
    """A norm over each head, with one weight for the heads of all processes: its gradient is their sum."""

    def __init__(self, whole: RMSNorm, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight = divided(whole.weight, mesh, Replicate())
        self.eps = whole.eps
        self._mesh = mesh

    def forward(self, x_K: Tensor) -> Tensor:
        """Normalise the last axis."""
        return rms_norm(x_K, enter(local(self.weight), self._mesh), self.eps)


class WholeNorm(SharedNorm):
    """A norm of the stream, which all processes compute alike: so is its gradient."""

    def forward(self, x_K: Tensor) -> Tensor:
        """Normalise the last axis."""
        return rms_norm(x_K, local(self.weight), self.eps)


def stack_gates(model: Decoder) -> None:
    """Give plain gate_up layers their weight of shape (2, F, D)."""
    for block in blocks(model):
        if isinstance(block.mlp.gate_up, nn.Linear):
            block.mlp.gate_up = GateUp(block.mlp.gate_up, None)


def divide_matrices(model: Decoder, mesh: DeviceMesh) -> None:
    """Put the parts of this process in place of the modules of a model on `meta`, which divides evenly.

    Raises: ConfigError for adapters and quantised layers.
    """
    for block in blocks(model):
        attention, mlp = block.attention, block.mlp
        attention.wqkv = ColumnLinear(_plain(attention.wqkv), mesh)
        attention.wo = RowLinear(_plain(attention.wo), mesh)
        attention.num_groups //= mesh.size()
        if attention.q_norm is not None and attention.k_norm is not None:
            _put(attention, {"q_norm": SharedNorm(attention.q_norm, mesh), "k_norm": SharedNorm(attention.k_norm, mesh)})
        mlp.gate_up = GateUp(_plain(mlp.gate_up), mesh)
        mlp.down = RowLinear(_plain(mlp.down), mesh)
        norms = {"attention_norm": WholeNorm(block.attention_norm, mesh), "mlp_norm": WholeNorm(block.mlp_norm, mesh)}
        _put(block, norms)
    _put(model, {"norm": WholeNorm(model.norm, mesh), "embed_tokens": VocabEmbedding(model.embed_tokens, mesh)})
    if model.lm_head is not None:
        model.lm_head.weight = divided(model.lm_head.weight, mesh, Shard(0))


def blocks(model: Decoder) -> Sequence[Block]:
    """The blocks of a model, in order."""
    return [block for block in model.layers if isinstance(block, Block)]


def _put(owner: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        setattr(owner, name, module)


def _plain(module: nn.Module) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        raise ConfigError(
            "tensor parallelism divides plain weights only, not adapters or quantised layers",
            hint='set parallel.tensor = 1 (sharding = "full" divides what they hold), or tune.kind = "full"',
        )
    return module
