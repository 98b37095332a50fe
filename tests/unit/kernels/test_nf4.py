"""NF4: nearest levels, two ways to hold the steps, and products that are those of the dequantised weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lianlu.kernels import nf4

torch.set_num_threads(1)

LEVELS = torch.tensor(nf4.LEVELS)


def weight(rows: int, blocks: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, blocks * nf4.BLOCK, generator=torch.Generator().manual_seed(seed))


def wide(held: nf4.Nf4, dtype: torch.dtype = torch.float32) -> Tensor:
    return nf4.dequantise(held.codes_OJ, held.steps(), dtype)


def codes(held: nf4.Nf4) -> Tensor:
    return torch.stack((held.codes_OJ >> 4, held.codes_OJ & 15), dim=-1).flatten(1)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 5), seed=st.integers(0, 1000), power=st.integers(-20, 20))
def test_every_weight_becomes_its_nearest_level(rows: int, blocks: int, seed: int, power: int) -> None:
    original = weight(rows, blocks, seed) * 2.0**power
    held = nf4.quantise(original, double=False)
    relative = original.view(rows, blocks, -1) / held.steps_OG[..., None]
    nearest = (relative.double()[..., None] - LEVELS).abs().min(dim=-1).values
    chosen = (relative.double() - LEVELS[codes(held).long()].view(relative.shape)).abs()
    assert torch.all(chosen <= nearest + 1e-6)
    assert torch.equal(held.steps_OG, original.view(rows, blocks, -1).abs().amax(-1))
    assert torch.equal(wide(held), (LEVELS[codes(held).long()].view(relative.shape) * held.steps_OG[..., None]).flatten(1))


def test_ends_of_levels_are_found_to_the_last_bit() -> None:
    ends = (LEVELS[:-1] + LEVELS[1:]) / 2
    above = torch.nextafter(ends, torch.tensor(2.0))
    row = torch.cat((ends, above, torch.tensor([1.0, -1.0, 0.0]), torch.zeros(31)))[None]
    found = codes(nf4.quantise(row, double=False))[0]
    assert found[:15].tolist() == list(range(15))
    assert found[15:30].tolist() == list(range(1, 16))
    assert found[30:34].tolist() == [15, 0, 7, 7]


@pytest.mark.parametrize("double", [True, False])
def test_levels_are_their_own_codes_and_quantising_again_changes_nothing(double: bool) -> None:
    held = nf4.quantise(weight(12, 7), double)
    again = nf4.quantise(wide(held), double)
    assert torch.equal(again.codes_OJ, held.codes_OJ)
    torch.testing.assert_close(wide(again), wide(held), rtol=0.01, atol=0)


def test_quantised_steps_cost_little_precision() -> None:
    original = weight(64, 9) * torch.rand(64, 1, generator=torch.Generator().manual_seed(1))
    single, double = nf4.quantise(original, double=False), nf4.quantise(original)
    assert (double.steps_OG.dtype, double.scale_S.shape, double.mean.ndim) == (torch.uint8, (3,), 0)
    assert torch.equal(single.codes_OJ, double.codes_OJ)
    spread = (single.steps() - single.steps().mean()).abs().max()
    assert (double.steps() - single.steps()).abs().max() <= 0.0071 * spread
    num_bytes = sum(t.numel() * t.element_size() for t in (double.codes_OJ, double.steps_OG, double.scale_S, double.mean))
    assert 8 * num_bytes / original.numel() == pytest.approx(4.127, abs=0.01)


def test_blocks_of_zeros_and_equal_blocks() -> None:
    original = torch.zeros(4, 128)
    original[1] = 0.25
    for double in (True, False):
        torch.testing.assert_close(wide(nf4.quantise(original, double)), original, rtol=0, atol=1e-6 + 0.002 * double)
    constant = torch.full((2, 64), -3.0)
    assert torch.equal(wide(nf4.quantise(constant)), constant)


def test_bf16_is_rounded_once() -> None:
    held = nf4.quantise(weight(33, 5))
    assert torch.equal(wide(held, torch.bfloat16), wide(held).bfloat16())
    narrow = weight(9, 2).bfloat16()
    assert torch.equal(nf4.quantise(narrow).codes_OJ, nf4.quantise(narrow.float()).codes_OJ)


@pytest.mark.parametrize("slice_weights", [64, 1000, 1 << 23])
def test_slices_do_not_show(slice_weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, x = weight(37, 3), torch.randn(5, 192, requires_grad=True)
    held = nf4.quantise(original)
    expected = x @ wide(held).T
    grad = torch.randn(5, 37)
    (wanted,) = torch.autograd.grad(expected, x, grad)
    monkeypatch.setattr(nf4, "SLICE_WEIGHTS", slice_weights)
    monkeypatch.setattr(nf4, "LOOKUP_WEIGHTS", slice_weights)
    assert torch.equal(nf4.quantise(original).codes_OJ, held.codes_OJ)
    y = nf4.nf4_linear(x, held)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0], wanted, rtol=1e-5, atol=1e-5)


def test_under_autocast_the_product_is_bf16_and_the_gradient_fp32() -> None:
    held, bias = nf4.quantise(weight(40, 2)), torch.randn(40)
    x = torch.randn(6, 128, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = nf4.nf4_linear(x, held, bias)
        expected = torch.nn.functional.linear(x, wide(held, torch.bfloat16), bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.1)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, wide(held).sum(0).expand_as(x), rtol=0.02, atol=0.1)


def test_only_codes_are_kept_for_the_backward_pass() -> None:
    held = nf4.quantise(weight(64, 4))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        nf4.nf4_linear(torch.randn(3, 256, requires_grad=True), held)
    assert {tensor.data_ptr() for tensor in kept} <= {
        part.data_ptr() for part in (held.codes_OJ, held.steps_OG, held.scale_S, held.mean)
    }


def test_gradients_are_right() -> None:
    held = nf4.quantise(weight(7, 1))
    x, bias = torch.randn(3, 64, dtype=torch.float64, requires_grad=True), torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, bias: nf4.nf4_linear(x, held, bias), (x, bias))
