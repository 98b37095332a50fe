import torch

from lianlu.kernels.norm import rms_norm

torch.set_num_threads(1)


def test_is_the_definition() -> None:
    x, weight = torch.randn(5, 3, 16), torch.rand(16)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected)


def test_gradients() -> None:
    x, weight = torch.randn(4, 6, requires_grad=True), torch.rand(6, requires_grad=True)
    pull = torch.randn(4, 6)
    plain = x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * weight
    ours = torch.autograd.grad((rms_norm(x, weight, 1e-2) * pull).sum(), (x, weight))
    theirs = torch.autograd.grad((plain * pull).sum(), (x, weight))
    for mine, oracle in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-5, atol=1e-6)


def test_a_frozen_weight_costs_no_gradient() -> None:
    x, weight = torch.randn(4, 6, requires_grad=True), torch.rand(6)
    rms_norm(x, weight, 1e-5).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_computes_in_fp32_whatever_the_dtype() -> None:
    x = torch.full((1, 4096), 300.0, dtype=torch.float16)
    assert torch.equal(rms_norm(x, torch.ones(4096, dtype=torch.float16), 1e-5), torch.ones_like(x))


def test_zeros_stay_zeros() -> None:
    assert torch.equal(rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6), torch.zeros(2, 8))
