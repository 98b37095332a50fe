"""Scaling of columns against the plain product, in fp32 and in bf16, where the plain product loses what magnitudes learn."""

from __future__ import annotations

import pytest
import torch

from lianlu.kernels import scale
from lianlu.kernels.scale import scale_columns

torch.set_num_threads(1)


@pytest.mark.parametrize("block", [8, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients(dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "BLOCK_VALUES", block)
    y, grad = torch.randn(11, 5).to(dtype), torch.randn(11, 5).to(dtype)
    factors = 1 + 0.01 * torch.randn(5)
    leaves = (y.requires_grad_(), factors.requires_grad_())
    found = scale_columns(*leaves)
    got = torch.autograd.grad(found, leaves, grad)
    expected = y.double() * factors.double()
    wanted = torch.autograd.grad(expected, leaves, grad.double())
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype)) or dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=4e-3, atol=1e-6)
    assert [tensor.dtype for tensor in got] == [dtype, torch.float32]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=4e-3 if one.dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_a_small_change_of_a_magnitude_is_not_lost_in_bf16() -> None:
    y, factor = torch.full((1, 1), 7.0, dtype=torch.bfloat16), torch.tensor([1.0035])
    assert float(y * factor.bfloat16()) == 7.0
    assert float(scale_columns(y, factor)) == 7.03125


def test_no_rows() -> None:
    assert scale_columns(torch.empty(0, 3, dtype=torch.bfloat16), torch.ones(3)).shape == (0, 3)
