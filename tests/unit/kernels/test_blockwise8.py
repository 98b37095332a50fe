"""Codes of one byte: the nearest value, the same for a row wherever it is computed, and stable when done again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lianlu.kernels.blockwise8 import BLOCK, dequantise, dynamic_values, encode, extremes, quantise, scales_of

SIGNED = [True, False]


def rows(count: int, length: int, seed: int, signed: bool = True) -> Tensor:
    """Numbers of very different sizes, blocks of zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    x_RI = torch.randn(count, length, generator=generator) * 10.0 ** torch.randint(-9, 3, (count, length), generator=generator)
    x_RI = x_RI * 10.0 ** torch.randint(-12, 6, (count, 1), generator=generator)
    x_RI[::5] = 0
    return x_RI if signed else x_RI.square()


@pytest.mark.parametrize("signed", SIGNED)
def test_the_values_ascend_from_the_least_to_one(signed: bool) -> None:
    values = dynamic_values(signed)
    assert values.shape == (256,)
    assert bool((values[1:] > values[:-1]).all())
    assert float(values[-1]) == 1.0
    assert 0.0 in values
    assert float(values[0]) == (pytest.approx(-1, abs=0.01) if signed else 0.0)


@pytest.mark.parametrize("signed", SIGNED)
def test_a_code_is_that_of_the_nearest_value(signed: bool) -> None:
    x_RI = rows(64, 2 * BLOCK, 0, signed)
    codes_RI, scales_RB = quantise(x_RI, signed)
    relative = x_RI / torch.where(scales_RB == 0, 1.0, scales_RB).repeat_interleave(BLOCK, 1)
    distance = (relative.unsqueeze(2) - dynamic_values(signed)).abs()
    got = distance.gather(2, codes_RI.long().unsqueeze(2)).squeeze(2)
    if not signed:
        got = got.where((relative == 0) | (relative > dynamic_values(False)[1]), distance.amin(dim=2))
    torch.testing.assert_close(got, distance.amin(dim=2), rtol=0, atol=6e-8)


def test_no_square_becomes_zero() -> None:
    x_RI = torch.full((1, BLOCK), 1e-30)
    x_RI[0, 0], x_RI[0, 1] = 1.0, 0.0
    codes_RI, scales_RB = quantise(x_RI, signed=False)
    wide_RI = dequantise(codes_RI, scales_RB, signed=False)
    assert float(wide_RI[0, 1]) == 0
    assert bool((wide_RI[0, 2:] > 0).all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_element_is_exact(sign: float) -> None:
    x_RI = sign * torch.linspace(0.1, 3.7, BLOCK).unsqueeze(0)
    wide_RI = dequantise(*quantise(x_RI, signed=True), signed=True)
    assert float(wide_RI[0, -1]) == float(x_RI[0, -1])
    torch.testing.assert_close(wide_RI, x_RI, rtol=0.07, atol=0)


@pytest.mark.parametrize("signed", SIGNED)
@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 3 * BLOCK), seed=st.integers(0, 1 << 30))
def test_doing_it_again_changes_nothing(signed: bool, length: int, seed: int) -> None:
    codes_RI, scales_RB = quantise(rows(6, length, seed, signed), signed)
    assert codes_RI.shape == (6, length)
    assert scales_RB.shape == (6, -(-length // BLOCK))
    again_RI, scales_again_RB = quantise(dequantise(codes_RI, scales_RB, signed), signed)
    assert torch.equal(scales_again_RB, scales_RB)
    zero = scales_RB.repeat_interleave(BLOCK, 1)[:, :length] == 0
    assert torch.equal(again_RI.masked_fill(zero, 0), codes_RI.masked_fill(zero, 0))


@pytest.mark.parametrize("signed", SIGNED)
@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 3 * BLOCK), cut=st.floats(0, 1), seed=st.integers(0, 1 << 30))
def test_pieces_of_rows_are_encoded_as_in_the_whole(signed: bool, length: int, cut: float, seed: int) -> None:
    x_RI = rows(6, length, seed, signed)
    codes_RI, scales_RB = quantise(x_RI, signed)
    half = round(cut * length)
    joined_2RB = torch.zeros(2, *scales_RB.shape)
    for start, stop in ((0, half), (half, length)):
        found_2RB = extremes(x_RI[:, start:stop], start % BLOCK)
        part = joined_2RB[:, :, start // BLOCK :][:, :, : found_2RB.shape[2]]
        part.copy_(torch.maximum(part, found_2RB))
    assert torch.equal(scales_of(joined_2RB), scales_RB)
    for start, stop in ((0, half), (half, length)):
        touched_RB = scales_RB[:, start // BLOCK : max(-(-stop // BLOCK), start // BLOCK)]
        got_RI = encode(x_RI[:, start:stop], touched_RB, signed, start % BLOCK)
        assert torch.equal(got_RI, codes_RI[:, start:stop])
        wide_RI = dequantise(got_RI, touched_RB, signed, start % BLOCK)
        assert torch.equal(wide_RI, dequantise(codes_RI, scales_RB, signed)[:, start:stop])


@pytest.mark.parametrize("signed", SIGNED)
def test_rows_do_not_see_each_other(signed: bool) -> None:
    x_RI = rows(9, 300, 3, signed)
    codes_RI, scales_RB = quantise(x_RI, signed)
    for row in range(9):
        alone = quantise(x_RI[row : row + 1], signed)
        assert torch.equal(alone[0][0], codes_RI[row])
        assert torch.equal(alone[1][0], scales_RB[row])


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 3e38])
def test_extreme_scales_stay_finite(scale: float) -> None:
    x_RI = torch.linspace(-0.9, 0.5, BLOCK).unsqueeze(0) * scale
    wide_RI = dequantise(*quantise(x_RI, signed=True), signed=True)
    assert bool(wide_RI.isfinite().all())
    assert float((wide_RI - x_RI).abs().max()) <= 0.02 * scale + 2e-45
