import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.kernels import int8

torch.set_num_threads(1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_error_is_at_most_half_a_step(seed: int, scale: float) -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(seed)) * scale
    quantised, steps = int8.quantise_rows(weight)
    error = (int8.dequantise_rows(quantised, steps) - weight).abs()
    assert (error <= steps[:, None] * 0.5001).all()
    assert quantised.abs().amax(1).eq(127).all()


def test_zero_rows_stay_zero() -> None:
    weight = torch.zeros(3, 4)
    weight[1] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    quantised, steps = int8.quantise_rows(weight)
    assert torch.equal(int8.dequantise_rows(quantised, steps)[0], torch.zeros(4))
    assert not torch.isnan(steps).any()


@pytest.mark.parametrize("block", [int8.BLOCK_WEIGHTS, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_and_gradient_equal_the_dequantised_layer(
    dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "BLOCK_WEIGHTS", block)
    quantised, steps = int8.quantise_rows(torch.randn(13, 10))
    bias = torch.randn(13).to(dtype)
    x = torch.randn(5, 10).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    ours = int8.int8_linear(x, quantised, steps, bias)
    theirs = torch.nn.functional.linear(wide, int8.dequantise_rows(quantised, steps), bias.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), theirs, rtol=tolerance, atol=tolerance)
    ours.float().square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=4 * tolerance, atol=40 * tolerance)
