"""Linear layers held in int8: a drop-in for `nn.Linear` with a quarter of the memory of fp32.

Embedding and output layer stay as they are: they are the most sensitive and, when tied, also a table to look up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lianlu.core.errors import ConfigError
from lianlu.kernels.int8 import dequantise_rows, int8_linear, quantise_rows
from lianlu.model.decoder import Decoder


class Int8Linear(nn.Module):
    """`y = x @ (weight * weight_scale).T + bias` with int8 weights and one fp32 scale for each output channel."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @classmethod
    def like(cls, linear: nn.Linear) -> Int8Linear:
        """An empty int8 layer of the shape of `linear`, on its device."""
        with torch.device(linear.weight.device):
            return cls(linear.in_features, linear.out_features, linear.bias is not None)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Int8Linear:
        """The int8 version of a linear layer, rounded to nearest."""
        made = cls.like(linear)
        made.weight, made.weight_scale = quantise_rows(linear.weight)
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        return made

    def forward(self, x_TI: Tensor) -> Tensor:
        """In the dtype of `x`; differentiable in `x`."""
        return int8_linear(x_TI, self.weight, self.weight_scale, self.bias)

    def dequantised(self) -> Tensor:
        """The fp32 weight this layer stands for."""
        return dequantise_rows(self.weight, self.weight_scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        """Keep the scale in fp32 when the model is cast: `.to(torch.bfloat16)` is about activations."""
        scale = self.weight_scale
        cast: Callable[..., nn.Module] = super()._apply
        cast(fn, recurse)
        if self.weight_scale.dtype != torch.float32:
            self.weight_scale = scale.to(self.weight_scale.device)
        return self


def linear_names(model: Decoder) -> list[str]:
    """Names of the linear layers inside the blocks, in order; the output layer is not among them."""
    return [name for name, module in model.layers.named_modules(prefix="layers") if isinstance(module, nn.Linear)]


def quantize_linears(model: Decoder) -> None:
    """Replace every linear layer of the blocks by its int8 version, in place. Raises: ConfigError with an open adapter."""
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ConfigError("the model has an open adapter", hint="merge the adapter first, then quantise")
    _replace(model, Int8Linear.from_linear)


def prepare_int8(model: Decoder) -> None:
    """Put empty int8 layers where the linear layers of the blocks are, for loading quantised weights."""
    _replace(model, Int8Linear.like)


def is_quantized(model: Decoder) -> bool:
    """Whether the model has int8 layers."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def _replace(model: Decoder, make: Callable[[nn.Linear], Int8Linear]) -> None:
    for name in linear_names(model):
        owner, _, attribute = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(owner), attribute, make(linear))
