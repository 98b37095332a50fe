"""A fused linear layer with low-rank updates, named after the layers of a Hugging Face checkpoint.

One fused layer carries the updates of its pieces (`wqkv`: q_proj, k_proj, v_proj, or InternLM2's wqkv as a whole). Their A
matrices are stacked into one product, their B matrices are laid out as blocks over the rows of the fused weight, so that
a layer costs two small products more, whatever it is fused of. The base is frozen. Adapter weights are kept in fp32 and
cast to the dtype of the activations. Making, merging, saving and loading adapters is in `lora.py`.

Shapes: T tokens, I inputs, O outputs of the fused layer, R sum of the ranks of its updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.core.errors import ConfigError
from lianlu.kernels.linear import linear
from lianlu.model import layouts
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder

# leaf name of a target -> (A, B)
Updates = Mapping[str, tuple[Tensor, Tensor]]
FUSED = ("attention.wqkv", "attention.wo", "mlp.gate_up", "mlp.down")


class LoraLinear(nn.Module):
    """A frozen linear layer with low-rank updates of some of its pieces."""

    def __init__(self, base: nn.Module, module: str, layout: str, config: ModelConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.module = module
        self.layout = layout
        self.dropout = 0.0
        self.scaling: dict[str, float] = {}
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self._config = config

    def add(self, piece: str, a_RI: Tensor, b_OR: Tensor, scaling: float) -> None:
        """Give one piece its update `scaling * B A`."""
        self.lora_A[piece] = nn.Parameter(a_RI)
        self.lora_B[piece] = nn.Parameter(b_OR)
        self.scaling[piece] = scaling

    def stacked(self) -> tuple[Tensor, Tensor]:
        """a_RI and b_OR in fp32, so that the update of the fused weight is `b @ a`."""
        updates = {piece: (self.lora_A[piece], self.lora_B[piece]) for piece in self.lora_A}
        return stack(self.module, self.layout, self._config, updates, self.scaling)

    def forward(self, x_TI: Tensor) -> Tensor:
        """The base layer's output plus the updates, in the dtype of `x`."""
        y_TO: Tensor = self.base(x_TI)
        a_RI, b_OR = self.stacked()
        low_TR = linear(F.dropout(x_TI, self.dropout, self.training), a_RI.to(x_TI.dtype))
        # nothing else holds y and no backward needs it, so the sum may be formed in place
        return y_TO.add_(linear(low_TR, b_OR.to(x_TI.dtype)))


def stack(module: str, layout: str, config: ModelConfig, updates: Updates, scaling: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """a_RI and b_OR of all updates of one fused layer, so that the update of its weight is `b @ a`, strength included."""
    pieces = piece_names(layout, module)
    own = [piece for piece in pieces if piece in updates]
    ranks = [updates[piece][0].shape[0] for piece in own]
    total, start, blocks = sum(ranks), 0, {}
    for piece, rank in zip(own, ranks, strict=True):
        blocks[piece] = F.pad(updates[piece][1] * scaling[piece], (start, total - start - rank))
        start += rank
    sizes = piece_sizes(module, len(pieces), config)
    a_RI = torch.cat([updates[piece][0] for piece in own])
    rows = [blocks[p] if p in blocks else a_RI.new_zeros(size, total) for p, size in zip(pieces, sizes, strict=True)]
    return a_RI, layouts.fuse(f".{module}.", rows, config)


def piece_names(layout: str, module: str) -> list[str]:
    """Last names of the foreign layers that `module` (`attention.wqkv`) is fused of."""
    return [name.rpartition(".")[2] for name in layouts.LAYOUTS[layout].block[module]]


def piece_sizes(module: str, num_pieces: int, config: ModelConfig) -> list[int]:
    """Rows of each piece of a fused layer."""
    query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    whole = {"attention.wqkv": config.qkv_size, "mlp.gate_up": 2 * config.intermediate_size}.get(module, config.hidden_size)
    if num_pieces == 1:
        return [whole]
    return [query, key, key] if module == "attention.wqkv" else [whole // num_pieces] * num_pieces


def attach(model: Decoder, path: str, layout: str, updates: Updates, scaling: Mapping[str, float]) -> LoraLinear:
    """Wrap the fused layer at `path` (`layers.3.mlp.down`) with the given updates, on its device."""
    owner, _, attribute = path.rpartition(".")
    base = model.get_submodule(path)
    device = next(iter(base.state_dict().values())).device
    wrapped = LoraLinear(base, path.split(".", 2)[2], layout, model.config)
    for piece, (a_RI, b_OR) in updates.items():
        wrapped.add(piece, a_RI.to(device, torch.float32), b_OR.to(device, torch.float32), scaling[piece])
    setattr(model.get_submodule(owner), attribute, wrapped.train(base.training))
    return wrapped


def lora_layers(model: Decoder) -> Iterator[tuple[str, LoraLinear]]:
    """Paths and layers that carry updates, in order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def set_trainable(model: Decoder) -> None:
    """Let gradients flow into the updates."""
    for _, layer in lora_layers(model):
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)


def refuse_second(model: Decoder) -> None:
    """Raises: ConfigError if the model already carries an adapter."""
    if next(lora_layers(model), None) is not None:
        raise ConfigError("the model already has an adapter", hint="merge it first")


def num_inputs(module: str, config: ModelConfig) -> int:
    """Inputs of a fused layer."""
    widths = {"attention.wo": config.num_attention_heads * config.head_dim, "mlp.down": config.intermediate_size}
    return widths.get(module, config.hidden_size)


def own_layouts(config: ModelConfig) -> list[str]:
    """Layouts in which an adapter of this model may be named, its own first; InternLM2 and Llama may stand for each other."""
    pair = ["internlm2", "llama"]
    own: str = config.architecture
    return [own, *(name for name in pair if name != own)] if own in pair else [own]
