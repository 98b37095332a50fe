"""Linear layers held in int8 or int4: drop-ins for `nn.Linear` with a quarter or a sixth of the memory of fp32.

Embedding and output layer stay as they are: they are the most sensitive and, when tied, also a table to look up. int8 can
be saved (stage quantize); int4 is made while a model is loaded (`load.load_model`). The products are in `kernels.int8` and
`kernels.int4`; for serving, `packed.pack_linears` puts their fast twins in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from lianlu.core.errors import ConfigError
from lianlu.kernels import int4, int8
from lianlu.model.decoder import Decoder

Method = Literal["int8", "int4"]


class QuantizedLinear(nn.Module):
    """What the kinds share: a fixed weight in buffers named `weight...`, which keep their dtype when the model is cast."""

    weight: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @staticmethod
    def quantise(weight_OI: Tensor) -> dict[str, Tensor]:
        """The buffers that stand for a weight, rounded to nearest."""
        raise NotImplementedError

    @classmethod
    def like(cls, linear: nn.Linear) -> Self:
        """An empty layer of the shape of `linear`, on its device."""
        with torch.device(linear.weight.device):
            return cls(linear.in_features, linear.out_features, linear.bias is not None)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """The quantised version of a linear layer."""
        made = cls.like(linear)
        for name, buffer in cls.quantise(linear.weight).items():
            setattr(made, name, buffer)
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        return made

    def dequantised(self) -> Tensor:
        """The fp32 weight this layer stands for."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move buffers, but never cast them: `.to(torch.bfloat16)` is about activations."""
        before = dict(self.named_buffers())
        apply: Callable[..., nn.Module] = super()._apply
        apply(fn, recurse)
        for name, buffer in before.items():
            moved = cast(Tensor, getattr(self, name))
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self


class Int8Linear(QuantizedLinear):
    """`y = x @ (weight * weight_scale).T + bias` with int8 weights and one fp32 scale for each output channel."""

    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, dtype=torch.float32))

    @staticmethod
    def quantise(weight_OI: Tensor) -> dict[str, Tensor]:
        """The buffers that stand for a weight, rounded to nearest."""
        return dict(zip(("weight", "weight_scale"), int8.quantise_rows(weight_OI), strict=True))

    def forward(self, x_TI: Tensor) -> Tensor:
        """In the dtype of `x`; differentiable in `x`."""
        return int8.int8_linear(x_TI, self.weight, self.weight_scale, self.bias)

    def dequantised(self) -> Tensor:
        """The fp32 weight this layer stands for."""
        return int8.dequantise_rows(self.weight, self.weight_scale)


class Int4Linear(QuantizedLinear):
    """`y = x @ dequantised.T + bias` with the levels, scales and zeros of `kernels.int4`."""

    weight_scale: Tensor
    weight_zero: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        """Raises: ConfigError if the inputs are no whole number of groups."""
        super().__init__(in_features, out_features, bias)
        if in_features % int4.GROUP:
            hint = "quantise it to int8"
            raise ConfigError(f"int4 takes inputs in groups of {int4.GROUP}, a layer of this model has {in_features}", hint=hint)
        groups = in_features // int4.GROUP
        self.register_buffer("weight", torch.empty(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.empty(out_features, groups, dtype=torch.bfloat16))
        self.register_buffer("weight_zero", torch.empty(out_features, groups, dtype=torch.bfloat16))

    @staticmethod
    def quantise(weight_OI: Tensor) -> dict[str, Tensor]:
        """The buffers that stand for a weight, rounded to nearest."""
        return dict(zip(("weight", "weight_scale", "weight_zero"), int4.quantise_groups(weight_OI), strict=True))

    def forward(self, x_TI: Tensor) -> Tensor:
        """In the dtype of `x`; differentiable in `x`."""
        return int4.int4_linear(x_TI, self.weight, self.weight_scale, self.weight_zero, self.bias)

    def dequantised(self) -> Tensor:
        """The fp32 weight this layer stands for."""
        return int4.dequantise_groups(self.weight, self.weight_scale, self.weight_zero)


KINDS: dict[Method, type[QuantizedLinear]] = {"int8": Int8Linear, "int4": Int4Linear}


def linear_names(model: Decoder) -> list[str]:
    """Names of the linear layers inside the blocks, in order; the output layer is not among them."""
    return [name for name, module in model.layers.named_modules(prefix="layers") if isinstance(module, nn.Linear)]


def quantize_linears(model: Decoder, method: Method = "int8") -> None:
    """Replace every linear layer of the blocks by its quantised version, one by one, in place.

    Raises: ConfigError with an open adapter, or for a shape that the method cannot hold.
    """
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ConfigError("the model has an open adapter", hint="merge the adapter first, then quantise")
    _replace(model, KINDS[method].from_linear)


def prepare_quantized(model: Decoder, method: Method = "int8") -> None:
    """Put empty quantised layers where the linear layers of the blocks are. Raises: ConfigError for a shape that does not fit."""
    _replace(model, KINDS[method].like)


def is_quantized(model: Decoder) -> bool:
    """Whether the model has quantised layers."""
    return any(isinstance(module, QuantizedLinear) for module in model.modules())


def _replace(model: Decoder, make: Callable[[nn.Linear], nn.Module]) -> None:
    for name in linear_names(model):
        owner, _, attribute = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(owner), attribute, make(linear))
