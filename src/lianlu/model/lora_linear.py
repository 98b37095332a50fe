"""A fused linear layer with low-rank updates, named after the layers of a Hugging Face checkpoint.

One fused layer carries the updates of its pieces (`wqkv`: q_proj, k_proj, v_proj, or InternLM2's wqkv as a whole). Their A
matrices are stacked into one product, their B matrices are laid out as blocks over the rows of the fused weight, so that
a layer costs two small products more, whatever it is fused of. The base is frozen. Adapter weights are kept in fp32 and
cast to the dtype of the activations. Making and merging adapters is in `lora.py`, their files are in `lora_files.py`.

DoRA (arXiv 2402.09353) gives each output of an updated piece a magnitude: its row of `W + B A` is brought to that length. As
in PEFT the norm of the row is a constant for the gradient, and under dropout the part that the magnitude adds sees the
dropped inputs, which costs a second product of the base. The square of the norm is that of W, found once, and two terms for
which `W A^T` is enough; A's rows go through the base together with the inputs, so a quantised base is widened once.

Shapes: T tokens, I inputs, O outputs of the fused layer, R sum of the ranks of its updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.core.errors import ConfigError
from lianlu.kernels.linear import linear
from lianlu.kernels.scale import scale_columns
from lianlu.model import layouts
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.quantized import QuantizedLinear

# leaf name of a target -> (A, B)
Updates = Mapping[str, tuple[Tensor, Tensor]]
FUSED = ("attention.wqkv", "attention.wo", "mlp.gate_up", "mlp.down")
# rows of a frozen weight that are looked at in fp32 at once
NORM_WEIGHTS = 1 << 23
TINY = 1e-15


@dataclass(frozen=True)
class LayerUpdate:
    """The updates of one fused layer, under the names of `layout`: `scaling * B A` of each piece, and its magnitudes.

    `magnitudes` has all the pieces or none.
    """

    layout: str
    updates: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scaling: dict[str, float] = field(default_factory=dict)
    magnitudes: dict[str, Tensor] = field(default_factory=dict)


class LoraLinear(nn.Module):
    """A frozen linear layer with low-rank updates of some of its pieces."""

    square_O: Tensor | None

    def __init__(self, base: nn.Module, module: str, layout: str, config: ModelConfig) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.module = module
        self.layout = layout
        self.dropout = 0.0
        self.rslora = False
        self.scaling: dict[str, float] = {}
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.lora_magnitude_vector = nn.ParameterDict()
        self.register_buffer("square_O", None, persistent=False)
        self._config = config

    def add(self, piece: str, a_RI: Tensor, b_OR: Tensor, scaling: float) -> None:
        """Give one piece its update `scaling * B A`."""
        self.lora_A[piece] = nn.Parameter(a_RI)
        self.lora_B[piece] = nn.Parameter(b_OR)
        self.scaling[piece] = scaling

    def add_magnitudes(self) -> None:
        """Turn the updates into DoRA's: magnitudes that change nothing as long as the updates are zero."""
        norms = self._pieces(self._base_square().sqrt())
        for piece in self.lora_A:
            self.lora_magnitude_vector[piece] = nn.Parameter(norms[piece].clone())

    def update(self) -> LayerUpdate:
        """What the layer adds to its base."""
        updates = {piece: (self.lora_A[piece], self.lora_B[piece]) for piece in self.lora_A}
        return LayerUpdate(self.layout, updates, self.scaling, dict(self.lora_magnitude_vector.items()))

    def stacked(self) -> tuple[Tensor, Tensor]:
        """a_RI and b_OR in fp32, so that the update of the fused weight is `b @ a`."""
        return stack(self.module, self._config, self.update())

    def forward(self, x_TI: Tensor) -> Tensor:
        """The base layer's output plus the updates, in the dtype of `x`."""
        if self.lora_magnitude_vector:
            return self._directed(x_TI)
        y_TO: Tensor = self.base(x_TI)
        a_RI, b_OR = self.stacked()
        low_TR = linear(F.dropout(x_TI, self.dropout, self.training), a_RI.to(x_TI.dtype))
        # nothing else holds y and no backward needs it, so the sum may be formed in place
        return y_TO.add_(linear(low_TR, b_OR.to(x_TI.dtype)))

    def _directed(self, x_TI: Tensor) -> Tensor:
        """DoRA's output: `scale * (W x + B A x) + bias`; under dropout only what is added to `W x` sees the dropped x."""
        dropped_TI = F.dropout(x_TI, self.dropout, self.training)
        a_RI, b_OR = self.stacked()
        both: Tensor = self.base(torch.cat((dropped_TI, a_RI.detach().to(x_TI.dtype))))
        bias_O = getattr(self.base, "bias", None)
        both = both if bias_O is None else both - bias_O.to(both.dtype)
        base_TO, cross_RO = both[: len(x_TI)], both[len(x_TI) :]
        low_TR = linear(dropped_TI, a_RI.to(x_TI.dtype))
        y_TO = scale_columns(base_TO + linear(low_TR, b_OR.to(x_TI.dtype)), self._scale(a_RI, b_OR, cross_RO))
        if self.dropout and self.training:
            whole_TO: Tensor = self.base(x_TI)
            return y_TO + (whole_TO - base_TO)
        return y_TO if bias_O is None else y_TO + bias_O.to(y_TO.dtype)

    def _scale(self, a_RI: Tensor, b_OR: Tensor, cross_RO: Tensor) -> Tensor:
        """scale_O: magnitude over norm of every row; 1 where a piece has no update. Differentiable in the magnitudes only."""
        with torch.no_grad(), torch.autocast(b_OR.device.type, enabled=False):
            square_O = self._base_square() + 2 * (b_OR * cross_RO.t().float()).sum(1)
            square_O += (b_OR @ (a_RI @ a_RI.t()) * b_OR).sum(1)
            norms = self._pieces(square_O.clamp_(min=TINY**2).sqrt())
        return scale_of(self.module, self._config, self.update(), norms)

    def _base_square(self) -> Tensor:
        """Squares of the norms of the base's rows, found once: the base does not change."""
        if self.square_O is None or self.square_O.is_meta:
            self.square_O = row_squares(self.base)
        return self.square_O

    def _pieces(self, fused_O: Tensor) -> dict[str, Tensor]:
        names = piece_names(self.layout, self.module)
        return dict(zip(names, layouts.split(f".{self.module}.", fused_O, len(names), self._config), strict=True))


def stack(module: str, config: ModelConfig, layer: LayerUpdate) -> tuple[Tensor, Tensor]:
    """a_RI and b_OR of all updates of one fused layer, so that the update of its weight is `b @ a`, strength included."""
    pieces = piece_names(layer.layout, module)
    own = [piece for piece in pieces if piece in layer.updates]
    ranks = [layer.updates[piece][0].shape[0] for piece in own]
    total, start, blocks = sum(ranks), 0, {}
    for piece, rank in zip(own, ranks, strict=True):
        blocks[piece] = F.pad(layer.updates[piece][1] * layer.scaling[piece], (start, total - start - rank))
        start += rank
    sizes = piece_sizes(module, len(pieces), config)
    a_RI = torch.cat([layer.updates[piece][0] for piece in own])
    rows = [blocks[p] if p in blocks else a_RI.new_zeros(size, total) for p, size in zip(pieces, sizes, strict=True)]
    return a_RI, layouts.fuse(f".{module}.", rows, config)


def merged_weight(weight_OI: Tensor, module: str, config: ModelConfig, layer: LayerUpdate) -> Tensor:
    """The fp32 weight of a fused layer with its updates in it."""
    a_RI, b_OR = stack(module, config, layer)
    sum_OI = torch.addmm(weight_OI.float(), b_OR, a_RI)
    if not layer.magnitudes:
        return sum_OI
    names = piece_names(layer.layout, module)
    rows = layouts.split(f".{module}.", sum_OI.norm(dim=1).clamp_(min=TINY), len(names), config)
    return sum_OI.mul_(scale_of(module, config, layer, dict(zip(names, rows, strict=True)))[:, None])


def scale_of(module: str, config: ModelConfig, layer: LayerUpdate, norms: Mapping[str, Tensor]) -> Tensor:
    """scale_O of a fused layer: magnitude over norm for the rows of each updated piece, 1 for the others."""
    found = layer.magnitudes
    rows = [found[piece] / norm if piece in found else torch.ones_like(norm) for piece, norm in norms.items()]
    return layouts.fuse(f".{module}.", rows, config)


def row_squares(base: nn.Module) -> Tensor:
    """Squared norms of the rows of a frozen layer, plain or quantised, in fp32."""
    assert isinstance(base, nn.Linear | QuantizedLinear)
    at_once = max(1, NORM_WEIGHTS // base.in_features)
    parts = []
    with torch.no_grad():
        for start in range(0, base.out_features, at_once):
            rows = slice(start, start + at_once)
            wide_OI = base.dequantised(rows) if isinstance(base, QuantizedLinear) else base.weight[rows].float()
            parts.append(wide_OI.square().sum(1))
    return torch.cat(parts)


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


def attach(model: Decoder, path: str, layer: LayerUpdate) -> LoraLinear:
    """Wrap the fused layer at `path` (`layers.3.mlp.down`) with the given updates, on its device."""
    owner, _, attribute = path.rpartition(".")
    base = model.get_submodule(path)
    device = next(iter(base.state_dict().values())).device
    # on a model that waits for its weights the updates are real already
    device = torch.device("cpu") if device.type == "meta" else device
    wrapped = LoraLinear(base, path.split(".", 2)[2], layer.layout, model.config)
    for piece, (a_RI, b_OR) in layer.updates.items():
        wrapped.add(piece, a_RI.to(device, torch.float32), b_OR.to(device, torch.float32), layer.scaling[piece])
    for piece, magnitude_O in layer.magnitudes.items():
        wrapped.lora_magnitude_vector[piece] = nn.Parameter(magnitude_O.to(device, torch.float32))
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
        layer.lora_magnitude_vector.requires_grad_(True)


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
