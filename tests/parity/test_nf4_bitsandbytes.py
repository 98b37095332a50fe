"""NF4 against bitsandbytes on the CPU: codes, steps, double quantisation, dequantised weights, and a layer's product."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import bitsandbytes.functional as theirs
import pytest
import torch
from torch import Tensor

from lianlu.kernels import nf4
from lianlu.model.quantized import NF4Linear, SingleNF4Linear

torch.set_num_threads(1)

WEIGHTS: dict[str, Tensor] = {
    "normal": torch.randn(300, 448, generator=torch.Generator().manual_seed(0)) * 0.02,
    "bf16": (torch.randn(96, 256, generator=torch.Generator().manual_seed(1)) * 0.1).bfloat16(),
    "outliers": torch.randn(64, 128, generator=torch.Generator().manual_seed(2)) ** 5,
    "rows apart": torch.randn(128, 128, generator=torch.Generator().manual_seed(3)) * torch.logspace(-6, 2, 128)[:, None],
    "zeros": torch.zeros(8, 128),
}


def quantised(weight: Tensor, double: bool) -> tuple[Tensor, Any]:
    return theirs.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double)


@pytest.mark.parametrize("name", WEIGHTS)
def test_codes_and_steps(name: str) -> None:
    weight = WEIGHTS[name]
    codes, state = quantised(weight, double=False)
    ours = nf4.quantise(weight, double=False)
    assert torch.equal(ours.codes_OJ.flatten(), codes.flatten())
    assert torch.equal(ours.steps_OG.flatten(), state.absmax)


def step_errors(weight: Tensor, ours: nf4.Nf4, theirs_N: Tensor) -> tuple[Tensor, Tensor]:
    """How far from each step, relative to its block of 256, our 8-bit number is and how far theirs is."""
    relative = (weight.float().view(-1, 64).abs().amax(1) - ours.mean).double()
    relative /= ours.scale_S.double().repeat_interleave(256)[: len(relative)].clamp(min=1e-30)
    levels = nf4._step_levels(torch.device("cpu")).double()
    return tuple((relative - levels[codes.flatten().long()]).abs() for codes in (ours.steps_OG, theirs_N))


@pytest.mark.parametrize("name", [name for name in WEIGHTS if name != "zeros"])
def test_double_quantisation(name: str) -> None:
    """Equal but for near-ties, which the table that bitsandbytes looks codes up in is too coarse for: there ours are nearer."""
    weight = WEIGHTS[name]
    _, state = quantised(weight, double=True)
    ours = nf4.quantise(weight)
    assert torch.equal(nf4._step_levels(torch.device("cpu")), state.state2.code)
    torch.testing.assert_close(ours.mean, state.offset, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.scale_S, state.state2.absmax, rtol=1e-6, atol=0)
    apart = (ours.steps_OG.flatten().int() - state.absmax.int()).abs()
    assert int(apart.max()) <= 1
    assert apart.double().mean() < 0.01
    mine, reference = step_errors(weight, ours, state.absmax)
    assert torch.all(mine <= reference + 1e-7)
    assert torch.all((reference - mine)[apart > 0] < 1e-4)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", WEIGHTS)
def test_dequantised(name: str, double: bool) -> None:
    weight = WEIGHTS[name]
    codes, state = quantised(weight, double)
    reference = theirs.dequantize_4bit(codes, state).float()
    held = nf4.quantise(weight, double)
    found = nf4.dequantise(held.codes_OJ, held.steps(), weight.dtype).float()
    if not double:
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-6)
        return
    same = (held.steps_OG.flatten() == state.absmax) | (weight.float().view(-1, 64).abs().amax(1) == 0)
    assert same.double().mean() > 0.99
    apart = (found - reference).view(-1, 64).abs().amax(1)
    largest = weight.float().view(-1, 64).abs().amax(1)
    assert torch.all(apart[same] <= 1e-3 * largest[same])
    # a near-tie: one number of the 8-bit type apart
    assert torch.all(apart <= 0.0142 * held.scale_S.repeat_interleave(256)[: len(apart)] + 1e-3 * largest)


@pytest.mark.parametrize("kind", [NF4Linear, SingleNF4Linear])
@pytest.mark.filterwarnings("ignore")
def test_a_layer_computes_and_has_the_gradients_of_theirs(kind: type[NF4Linear]) -> None:
    """Both hold the same codes and steps: where a step is a near-tie, theirs, since rounding is tested above."""
    plain = torch.nn.Linear(128, 48)
    ours = kind.from_linear(plain)
    layer = bnb.nn.Linear4bit(128, 48, compute_dtype=torch.float32, compress_statistics=kind.double_quant, quant_type="nf4")
    layer.load_state_dict(plain.state_dict())
    layer = layer.to("cpu")
    if layer.weight.quant_state is None:
        layer.weight = layer.weight._quantize("cpu")
    ours.weight_step.data = layer.weight.quant_state.absmax.view_as(ours.weight_step)
    x = torch.randn(7, 128, requires_grad=True)
    grad = torch.randn(7, 48)
    torch.testing.assert_close(ours(x), layer(x), rtol=1e-5, atol=1e-5)
    wanted, found = (torch.autograd.grad(made(x), x, grad)[0] for made in (layer, ours))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
