"""Linear layers held in int8, int4 or NF4: drop-ins for `nn.Linear` with a quarter to an eighth of the memory of fp32.

Embedding and output layer stay as they are: they are the most sensitive and, when tied, also a table to look up. int8 can
be saved (stage quantize); int4 and NF4 are made while a model is loaded (`load.load_model`). int8 and int4 are for serving,
where `packed.pack_linears` puts their fast twins in place; NF4 is what adapters are trained on (QLoRA). The products are in
`kernels.int8`, `kernels.int4` and `kernels.nf4`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from lianlu.core.errors import ConfigError
from lianlu.kernels import int4, int8, nf4
from lianlu.model.decoder import Decoder, Linear

# nf4-single holds the steps of NF4 in fp32, without the second quantisation
Method = Literal["int8", "int4", "nf4", "nf4-single"]
ALL = slice(None)


class QuantizedLinear(nn.Module):
    """What the kinds share: a fixed weight in tensors named `weight...`, which keep their dtype when the model is cast.

    They are buffers, or parameters without a gradient where training divides them between processes.
    """

    weight: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @classmethod
    def quantise(cls, weight_OI: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for a weight, rounded to nearest."""
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
        for name, tensor in cls.quantise(linear.weight).items():
            fixed = name in dict(made.named_parameters())
            setattr(made, name, _fixed(tensor) if fixed else tensor)
        if linear.bias is not None:
            made.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        return made

    def dequantised(self, rows: slice = ALL) -> Tensor:
        """The fp32 weight this layer stands for, or some rows of it."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the weight, but never cast it: `.to(torch.bfloat16)` is about activations."""
        own = [*self.named_parameters(), *self.named_buffers()]
        before = {name: tensor.data for name, tensor in own if name.startswith("weight")}
        apply: Callable[..., nn.Module] = super()._apply
        apply(fn, recurse)
        for name, tensor in before.items():
            moved = cast(Tensor, getattr(self, name))
            if moved.dtype != tensor.dtype:
                moved.data = tensor.to(moved.device)
        return self


class Int8Linear(QuantizedLinear):
    """`y = x @ (weight * weight_scale).T + bias` with int8 weights and one fp32 scale for each output channel."""

    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, dtype=torch.float32))

    @classmethod
    def quantise(cls, weight_OI: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for a weight, rounded to nearest."""
        return dict(zip(("weight", "weight_scale"), int8.quantise_rows(weight_OI), strict=True))

    def forward(self, x_TI: Tensor) -> Tensor:
        """In the dtype of `x`; differentiable in `x`."""
        return int8.int8_linear(x_TI, self.weight, self.weight_scale, self.bias)

    def dequantised(self, rows: slice = ALL) -> Tensor:
        """The fp32 weight this layer stands for, or some rows of it."""
        return int8.dequantise_rows(self.weight[rows], self.weight_scale[rows])


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

    @classmethod
    def quantise(cls, weight_OI: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for a weight, rounded to nearest."""
        return dict(zip(("weight", "weight_scale", "weight_zero"), int4.quantise_groups(weight_OI), strict=True))

    def forward(self, x_TI: Tensor) -> Tensor:
        """In the dtype of `x`; differentiable in `x`."""
        return int4.int4_linear(x_TI, self.weight, self.weight_scale, self.weight_zero, self.bias)

    def dequantised(self, rows: slice = ALL) -> Tensor:
        """The fp32 weight this layer stands for, or some rows of it."""
        return int4.dequantise_groups(self.weight[rows], self.weight_scale[rows], self.weight_zero[rows])


class NF4Linear(QuantizedLinear):
    """`y = x @ dequantised.T + bias` in NF4 (`kernels.nf4`): codes and steps are fixed parameters, a row of them a row's."""

    double_quant = True
    weight_step: Tensor
    weight_step_scale: Tensor | None
    weight_step_mean: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        """Raises: ConfigError if the inputs are no whole number of blocks."""
        super().__init__(in_features, out_features, bias)
        if in_features % nf4.BLOCK:
            hint = 'tune.kind = "lora" trains an adapter on its plain weights'
            raise ConfigError(f"NF4 takes inputs in blocks of {nf4.BLOCK}, a layer of this model has {in_features}", hint=hint)
        num_steps = in_features // nf4.BLOCK
        scales = -(-out_features * num_steps // nf4.STEP_BLOCK)
        step_dtype = torch.uint8 if self.double_quant else torch.float32
        self.weight = _fixed(torch.empty(out_features, in_features // 2, dtype=torch.uint8))
        self.weight_step = _fixed(torch.empty(out_features, num_steps, dtype=step_dtype))
        self.register_buffer("weight_step_scale", torch.empty(scales, dtype=torch.float32) if self.double_quant else None)
        self.register_buffer("weight_step_mean", torch.empty((), dtype=torch.float32) if self.double_quant else None)

    @classmethod
    def quantise(cls, weight_OI: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for a weight, rounded to nearest."""
        made = nf4.quantise(weight_OI, cls.double_quant)
        tensors = {"weight": made.codes_OJ, "weight_step": made.steps_OG}
        if made.scale_S is not None and made.mean is not None:
            tensors.update(weight_step_scale=made.scale_S, weight_step_mean=made.mean)
        return tensors

    def held(self) -> nf4.Nf4:
        """The weight as the kernel takes it."""
        return nf4.Nf4(self.weight, self.weight_step, self.weight_step_scale, self.weight_step_mean)

    def forward(self, x_TI: Tensor) -> Tensor:
        """In the dtype of `x`, under autocast in autocast's; differentiable in `x`."""
        return nf4.nf4_linear(x_TI, self.held(), self.bias)

    def dequantised(self, rows: slice = ALL) -> Tensor:
        """The fp32 weight this layer stands for, or some rows of it."""
        return nf4.dequantise(self.weight[rows], self.held().steps()[rows])


class SingleNF4Linear(NF4Linear):
    """NF4 with the steps in fp32: 4.5 bits a weight in place of 4.127."""

    double_quant = False


KINDS: dict[Method, type[QuantizedLinear]] = {
    "int8": Int8Linear,
    "int4": Int4Linear,
    "nf4": NF4Linear,
    "nf4-single": SingleNF4Linear,
}


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


def dequantize_linears(model: Decoder) -> None:
    """Put plain fp32 layers with the very weights that the quantised ones stand for in their place, one by one."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            owner, _, attribute = name.rpartition(".")
            with torch.device("meta"):
                plain = Linear(module.in_features, module.out_features, bias=False)
            plain.weight = nn.Parameter(module.dequantised())
            plain.register_parameter("bias", None if module.bias is None else nn.Parameter(module.bias.detach()))
            setattr(model.get_submodule(owner), attribute, plain)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _replace(model: Decoder, make: Callable[[nn.Linear], nn.Module]) -> None:
    for name in linear_names(model):
        owner, _, attribute = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(owner), attribute, make(linear))
