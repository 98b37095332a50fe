"""A model made ready for serving on the processor: weights in the tile order of the machine's kernels.

Results are equal to those of the plain model to the bit. Decoding a few sequences reads weights once in the right order,
which is about twice as fast. The packed model can no longer be trained, cast, saved or quantised.
"""

from __future__ import annotations

from torch import Tensor, nn

from lianlu.kernels.linear import PackedWeight, can_pack
from lianlu.model.decoder import Decoder


class PackedLinear(nn.Module):
    """A linear layer with a packed weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = PackedWeight(linear.weight)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x_TI: Tensor) -> Tensor:
        """Without gradients."""
        return self.packed.linear(x_TI, self.bias)


def pack_linears(model: Decoder) -> None:
    """Replace the linear layers of `model` by packed ones, in place; does nothing where the machine has no packed form.

    The output layer is packed beside its plain weight, which an embedding may share. Int8 layers stay as they are.
    """
    if not can_pack(model.embed_tokens.weight):
        return
    for name, module in list(model.layers.named_modules(prefix="layers")):
        if isinstance(module, nn.Linear):
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, PackedLinear(module))
    model.packed_head = PackedWeight(model.head_weight())
