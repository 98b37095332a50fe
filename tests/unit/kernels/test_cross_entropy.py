"""The fused output layer and loss against PyTorch's two separate steps, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lianlu.kernels import cross_entropy
from lianlu.kernels.cross_entropy import IGNORE, linear_cross_entropy, masked_cross_entropy

torch.set_num_threads(1)


def case(num_rows: int, seed: int = 0, width: int = 24, vocab: int = 57) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator)
    return hidden, weight, torch.randint(0, vocab, (num_rows,), generator=generator)


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 40), block=st.integers(1, 50), seed=st.integers(0, 1000))
def test_equals_linear_then_cross_entropy(num_rows: int, block: int, seed: int) -> None:
    hidden, weight, targets = case(num_rows, seed)
    hidden.requires_grad_()
    weight.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "SMALL_BLOCK", block)
        ours = linear_cross_entropy(hidden, weight, targets)
        got = gradients(ours * 0.37, hidden, weight)
    reference = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    wanted = gradients(reference * 0.37, hidden, weight)
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("vocab_size", "hidden_size", "frozen", "rows"),
    [
        (49152, 64, True, 128),
        (49152, 576, True, 320),
        (92544, 4096, True, 160),
        (32000, 4096, True, 512),
        (92544, 4096, False, 512),
    ],
)
def test_logits_of_a_frozen_large_vocabulary_stay_small(vocab_size: int, hidden_size: int, frozen: bool, rows: int) -> None:
    found = cross_entropy.block_rows(vocab_size, hidden_size, frozen)
    assert found == rows
    assert not frozen or 4 * vocab_size * found <= 1 << 26
    assert cross_entropy.block_rows(10**9, 8, True) == 32


def test_rows_without_a_target_cost_nothing_and_change_nothing() -> None:
    hidden, weight, targets = case(20)
    mask = torch.arange(20) % 3 == 0
    hidden.requires_grad_()
    total, count = masked_cross_entropy(hidden, weight, torch.where(mask, targets, IGNORE))
    reference = F.cross_entropy(hidden @ weight.T, torch.where(mask, targets, -100), reduction="sum")
    assert count == int(mask.sum())
    torch.testing.assert_close(total, reference)
    grad = gradients(total, hidden)[0]
    assert not grad[~mask].any()
    assert grad[mask].any(dim=1).all()


def test_nothing_to_predict_is_a_zero_that_still_has_a_gradient() -> None:
    hidden, weight, targets = case(4)
    hidden.requires_grad_()
    total, count = masked_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE))
    assert (float(total), count) == (0.0, 0)
    assert not gradients(total, hidden)[0].any()


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, targets = case(5)
    hidden.requires_grad_()
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight, targets = case(33)
    hidden.requires_grad_()
    with_gradient = linear_cross_entropy(hidden, weight, targets)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets), with_gradient)


def test_flows_through_a_weight_that_is_computed() -> None:
    hidden, weight, targets = case(6)
    weight.requires_grad_()
    loss = linear_cross_entropy(hidden, F.normalize(weight, dim=1), targets)
    reference = F.cross_entropy(hidden @ F.normalize(weight, dim=1).T, targets, reduction="sum")
    torch.testing.assert_close(gradients(loss, weight), gradients(reference, weight), rtol=1e-5, atol=1e-5)


def test_bfloat16_autocast_keeps_the_softmax_in_float32() -> None:
    hidden, weight, targets = case(64, width=64, vocab=300)
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets)
    got = gradients(ours, hidden, weight)
    assert ours.dtype == got[0].dtype == got[1].dtype == torch.float32
    rounded = (hidden.bfloat16() @ weight.bfloat16().T).float()
    torch.testing.assert_close(ours, F.cross_entropy(rounded, targets, reduction="sum"), rtol=1e-6, atol=1e-6)
    wanted = gradients(F.cross_entropy(hidden @ weight.T, targets, reduction="sum"), hidden, weight)
    for ours_grad, wanted_grad in zip(got, wanted, strict=True):
        assert float((ours_grad - wanted_grad).norm() / wanted_grad.norm()) < 0.02


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = case(8)
    hidden = (hidden * 1e4).requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradients(loss, hidden)[0]).all()
