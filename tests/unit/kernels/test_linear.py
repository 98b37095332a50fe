"""The twins of the linear layer against PyTorch's own, and what they promise beside it."""

import pytest
import torch
from torch.nn import functional as F

from lianlu.kernels.linear import HAS_ONEDNN, PackedWeight, can_pack, linear, onednn_linear

torch.set_num_threads(1)

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="needs an x86 processor")
SHAPES = [(1, 8, 4), (2, 64, 48), (3, 576, 96), (17, 33, 65), (130, 96, 7)]


@needs_onednn
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_value_and_gradients_equal_the_reference(tokens: int, inputs: int, outputs: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, inputs, generator=generator, requires_grad=True)
    weight = torch.randn(outputs, inputs, generator=generator, requires_grad=True)
    bias = torch.randn(outputs, generator=generator, requires_grad=True) if biased else None
    pull = torch.randn(tokens, outputs, generator=generator)
    ours, theirs = onednn_linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    leaves = (x, weight) if bias is None else (x, weight, bias)
    for mine, oracle in zip(torch.autograd.grad(ours, leaves, pull), torch.autograd.grad(theirs, leaves, pull), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-5, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("packed", [False, True])
def test_a_row_does_not_depend_on_the_rows_beside_it(packed: bool) -> None:
    x, weight = torch.randn(70, 576), torch.randn(192, 576)
    product = PackedWeight(weight).linear if packed else lambda rows: linear(rows, weight)
    whole = product(x)
    for count in (1, 2, 3, 5, 8, 16, 33, 64):
        assert torch.equal(product(x[:count]), whole[:count])
        assert torch.equal(product(x[-count:]), whole[-count:])


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_is_equal_to_the_bit(dtype: torch.dtype) -> None:
    weight, bias = torch.randn(96, 64).to(dtype), torch.randn(96).to(dtype)
    if not can_pack(weight):
        pytest.skip("no packed form here")
    packed = PackedWeight(weight)
    for count in (1, 4, 40):
        x = torch.randn(count, 64).to(dtype)
        assert torch.equal(packed.linear(x), linear(x, weight))
        torch.testing.assert_close(packed.linear(x, bias), linear(x, weight, bias))


def test_gradient_of_an_expanded_sum() -> None:
    x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(0).expand(5, 6))
    torch.testing.assert_close(weight.grad, x.detach().sum(0).expand(4, 6))


def test_frozen_weight_gets_no_gradient_and_strides_do_not_matter() -> None:
    x, weight = torch.randn(6, 5).t().requires_grad_(), torch.randn(4, 6)
    y = linear(x, weight)
    torch.testing.assert_close(y, F.linear(x, weight))
    y.sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_no_rows_and_other_dtypes(dtype: torch.dtype) -> None:
    weight = torch.randn(4, 6, dtype=dtype)
    assert linear(torch.zeros(0, 6, dtype=dtype), weight).shape == (0, 4)
    x = torch.randn(3, 6, dtype=dtype)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_matrices_with_gaps_are_packed_first() -> None:
    x, weight = torch.randn(5, 3, 8)[:, 1], torch.randn(6, 4, 8)[:, 2]
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_autocast_decides_the_dtype() -> None:
    x, weight = torch.randn(5, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, F.linear(x, weight))
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32
