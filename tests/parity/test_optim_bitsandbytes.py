"""8-bit AdamW beside bitsandbytes: the maps, the codes of blocks, and steps of its optimiser on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lianlu.kernels.blockwise8 import BLOCK, dequantise, dynamic_values, quantise
from lianlu.train.config import AdamW, AdamW8, Optim
from lianlu.train.optim.build import build_optimizer

bnb = pytest.importorskip("bitsandbytes")
BIN = 2**-14


def blocks(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(200, 2 * BLOCK, generator=generator) * 10.0 ** torch.randn(200, 1, generator=generator)


@pytest.mark.parametrize("signed", [True, False])
def test_the_maps_are_equal(signed: bool) -> None:
    assert torch.equal(dynamic_values(signed), bnb.functional.create_dynamic_map(signed))


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_equal(signed: bool) -> None:
    """Up to the width of the bins by which bitsandbytes looks codes up on the CPU; in between ours is the nearer one.

    Where the largest element of a block is negative, ours are the codes of the negated block.
    """
    x_RI = blocks(0) if signed else blocks(0).square()
    codes_RI, scales_RB = quantise(x_RI, signed)
    values = bnb.functional.create_dynamic_map(signed)
    turned_RI = x_RI * scales_RB.sign().repeat_interleave(BLOCK, 1)
    wanted_RI, state = bnb.functional.quantize_blockwise(turned_RI, code=values, blocksize=BLOCK)
    assert torch.equal(state.absmax, scales_RB.abs().flatten())
    relative_RI = turned_RI / scales_RB.abs().repeat_interleave(BLOCK, 1)
    error_RI, peers_error_RI = ((values[codes.long()] - relative_RI).abs() for codes in (codes_RI, wanted_RI))
    assert float((peers_error_RI - error_RI).abs().max()) < BIN
    large = relative_RI.abs() > 100 * BIN
    assert float((codes_RI == wanted_RI)[large].float().mean()) > 0.99
    if signed:  # nothing above zero becomes zero here, where that may be nearer
        assert float((peers_error_RI - error_RI).min()) > -1e-7


@pytest.mark.parametrize("signed", [True, False])
def test_codes_stand_for_the_same_numbers(signed: bool) -> None:
    x_RI = blocks(1) if signed else blocks(1).square()
    values = bnb.functional.create_dynamic_map(signed)
    codes_RI, state = bnb.functional.quantize_blockwise(x_RI, code=values, blocksize=BLOCK)
    wanted_RI = bnb.functional.dequantize_blockwise(codes_RI, state)
    assert torch.equal(dequantise(codes_RI, state.absmax.view(200, 2), signed), wanted_RI)


def trained(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        model.weight.grad = torch.randn(model.weight.shape, generator=generator) + 0.3
        optimizer.step()
    return model.weight.detach()


def test_steps_are_as_near_to_adamw_as_those_of_bitsandbytes() -> None:
    def ours(config: Optim) -> Tensor:
        model = nn.Linear(512, 64, bias=False)
        nn.init.zeros_(model.weight)
        return trained(model, build_optimizer(model, config))

    peer = nn.Linear(512, 64, bias=False)
    nn.init.zeros_(peer.weight)
    theirs = trained(peer, bnb.optim.AdamW8bit(peer.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1))
    exact, narrow = ours(AdamW(lr=1e-2)), ours(AdamW8(lr=1e-2))
    moved, error, peers_error = exact.norm(), (narrow - exact).norm(), (theirs - exact).norm()
    assert float(peers_error) < 0.05 * float(moved)
    assert float(error) < 1.1 * float(peers_error)
    assert float((narrow - theirs).norm()) < 0.03 * float(moved)
