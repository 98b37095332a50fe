"""AdamW and Muon beside PyTorch's own, on one model, from the same weights and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.train.config import AdamW, Muon
from lianlu.train.optim.build import build_optimizer, scale_gradients

STEPS = 20
CLIP = 0.5
SHAPE = ModelConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_bias=True,
)
# fused weights and the rows of one turn that belong to each matrix in them
FUSED = {"wqkv.weight": (32, 16, 16), "gate_up.weight": (96, 96)}


def batches() -> Iterable[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(96, (50,), generator=generator) for _ in range(STEPS))


def run(model: Decoder, step: Callable[[Tensor], None]) -> list[float]:
    """Losses of all steps; `step` gets the loss and does the rest."""
    losses = []
    for ids in batches():
        model.zero_grad()
        loss = F.cross_entropy(model(ids, torch.arange(50), PackedCausal((0, 50)))[:-1], ids[1:])
        step(loss)
        losses.append(float(loss.detach()))
    return losses


def test_twenty_steps_of_adamw() -> None:
    ours, theirs = build_model(SHAPE, 0), build_model(SHAPE, 0)
    optimizer = build_optimizer(ours, AdamW(lr=3e-3, weight_decay=0.2, clip=CLIP))
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    peer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.2
    )

    def our_step(loss: Tensor) -> None:
        (loss * 49).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in ours.parameters()])
        scale_gradients(ours.parameters(), float(norm), num_targets=49, clip=CLIP)
        optimizer.step()

    def their_step(loss: Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)
        peer.step()

    assert run(ours, our_step) == pytest.approx(run(theirs, their_step), rel=1e-5)
    for (name, got), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_fused_step_is_to_the_bit() -> None:
    ours, theirs = build_model(SHAPE, 0), build_model(SHAPE, 0)
    optimizer = build_optimizer(ours, AdamW(lr=1e-2, weight_decay=0))
    peer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0, fused=True)
    for step, model in ((optimizer.step, ours), (peer.step, theirs)):
        run(model, lambda loss, step=step: (loss.backward(), step())[0])
    for got, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(got, wanted)
    for got, wanted in zip(optimizer.state.values(), peer.state.values(), strict=True):
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in got)


def unfused(name: str, fused: Tensor) -> list[Tensor]:
    """The matrices that a fused weight is made of."""
    rows = next((rows for end, rows in FUSED.items() if name.endswith(end)), (len(fused),))
    parts = fused.detach().view(-1, sum(rows), fused.shape[-1]).split(list(rows), dim=1)
    return [part.reshape(-1, fused.shape[-1]).clone() for part in parts]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_on_the_matrices_that_fused_weights_are_made_of(nesterov: bool) -> None:
    """The same gradients for both: PyTorch's Muon gets the pieces as parameters of their own. It casts to bfloat16."""
    model = build_model(SHAPE, 0)
    config = Muon(lr=2e-2, weight_decay=0.1, momentum=0.9, nesterov=nesterov, newton_schulz_steps=4, precision="bfloat16")
    optimizer = build_optimizer(model, config)
    matrices = {name: p for name, p in model.named_parameters() if "layers" in name and p.ndim == 2}
    pieces = {name: [nn.Parameter(part) for part in unfused(name, p)] for name, p in matrices.items()}
    peer = torch.optim.Muon(
        [part for parts in pieces.values() for part in parts],
        lr=2e-2,
        weight_decay=0.1,
        momentum=0.9,
        nesterov=nesterov,
        ns_steps=4,
        adjust_lr_fn="match_rms_adamw",
    )

    def step(loss: Tensor) -> None:
        loss.backward()
        for name, parts in pieces.items():
            for part, grad in zip(parts, unfused(name, matrices[name].grad), strict=True):
                part.grad = grad
        optimizer.step()
        peer.step()

    run(model, step)
    for name, parts in pieces.items():
        for got, wanted in zip(unfused(name, matrices[name]), parts, strict=True):
            torch.testing.assert_close(got, wanted.detach(), rtol=1e-6, atol=1e-6)
