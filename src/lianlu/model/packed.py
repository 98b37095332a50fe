"""A model made ready for serving on the processor: weights in the tile order of the machine's kernels.

Plain weights give results equal to the bit, and decoding a few sequences, which reads them once in the right order, is
about twice as fast. int8 and int4 weights get their fast twins (`kernels.int8`, `kernels.int4`), whose results differ from
the reference in the last bits. In either case a row's result does not depend on the rows beside it. The packed model can no
longer be trained, cast, saved or quantised.
"""

from __future__ import annotations

from torch import Tensor, nn

from lianlu.core import machine
from lianlu.kernels.int4 import PackedInt4, can_pack_int4
from lianlu.kernels.int8 import PackedInt8, can_pack_int8
from lianlu.kernels.linear import PackedWeight, can_pack
from lianlu.model.decoder import Decoder
from lianlu.model.quantized import Int4Linear, Int8Linear

Packed = PackedWeight | PackedInt8 | PackedInt4


class PackedLinear(nn.Module):
    """A linear layer with a packed weight."""

    def __init__(self, packed: Packed, bias: Tensor | None) -> None:
        super().__init__()
        self.packed = packed
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x_TI: Tensor) -> Tensor:
        """Without gradients."""
        return self.packed.linear(x_TI, self.bias)


def pack_linears(model: Decoder) -> None:
    """Replace the linear layers of `model` by packed ones, one by one, in place; those without a packed form here stay.

    The output layer is packed beside its plain weight, which an embedding may share.
    """
    names = [name for name, _ in model.layers.named_modules(prefix="layers")]
    for name in names:
        owner, _, attribute = name.rpartition(".")
        packed = _packed(model.get_submodule(name))
        if packed is not None:
            setattr(model.get_submodule(owner), attribute, packed)
            machine.trim_memory()
    if can_pack(model.embed_tokens.weight):
        model.packed_head = PackedWeight(model.head_weight())


def _packed(module: nn.Module) -> PackedLinear | None:
    """The packed form of a linear layer, None where there is none."""
    match module:
        case Int8Linear() if can_pack_int8(module.weight):
            return PackedLinear(PackedInt8(module.weight, module.weight_scale), module.bias)
        case Int4Linear() if can_pack_int4(module.weight):
            return PackedLinear(PackedInt4(module.weight, module.weight_scale, module.weight_zero), module.bias)
        case nn.Linear() if can_pack(module.weight):
            return PackedLinear(PackedWeight(module.weight), module.bias)
        case _:
            return None
