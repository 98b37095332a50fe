"""Newton-Schulz makes matrices orthogonal; fused weights are trained as the matrices they are made of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.train.config import Muon
from lianlu.train.optim.build import build_optimizer
from lianlu.train.optim.muon import orthogonal, orthogonalise, row_scales

SHAPE = ModelConfig(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), size=st.floats(-6, 6), seed=st.integers(0, 1000))
def test_singular_values_come_near_one(rows: int, columns: int, size: float, seed: int) -> None:
    x_MN = normal(rows, columns, seed=seed) * 10**size
    values = torch.linalg.svdvals(x_MN.double())
    found = torch.linalg.svdvals(orthogonalise(x_MN, 5))
    large = found[: int((values > 0.05 * values[0]).sum())]
    assert bool(((large > 0.3) & (large < 1.3)).all())
    assert float(found.max()) < 1.3


def test_it_points_where_the_nearest_orthogonal_matrix_points() -> None:
    x_MN = normal(24, 40)
    u, _, v = torch.linalg.svd(x_MN, full_matrices=False)
    assert float(F.cosine_similarity(orthogonalise(x_MN, 5).flatten(), (u @ v).flatten(), dim=0)) > 0.97


def test_nothing_stays_nothing() -> None:
    assert float(orthogonalise(torch.zeros(4, 6), 5).abs().max()) == 0


def test_rows_take_turns_between_matrices() -> None:
    query, key, value = normal(8, 10, seed=1), normal(4, 10, seed=2), normal(4, 10, seed=3)
    fused = torch.cat([torch.cat([query[4 * g : 4 * g + 4], key[2 * g : 2 * g + 2], value[2 * g : 2 * g + 2]]) for g in (0, 1)])
    done = orthogonal(fused, (4, 2, 2), 5).view(2, 8, 10)
    for part, whole in ((done[:, :4], query), (done[:, 4:6], key), (done[:, 6:], value)):
        torch.testing.assert_close(part.reshape(whole.shape), orthogonalise(whole, 5))
    scales = row_scales((16, 10), (4, 2, 2), CPU).view(2, 8)
    assert scales.unique().tolist() == pytest.approx([0.2 * math.sqrt(10)])
    tall = row_scales((48, 10), (16, 4, 4), CPU).view(2, 24)
    assert tall[:, :16].unique().tolist() == pytest.approx([0.2 * math.sqrt(32)])
    assert tall[:, 16:].unique().tolist() == pytest.approx([0.2 * math.sqrt(10)])


def test_stacked_and_fused_gates_are_trained_alike() -> None:
    fused, stacked = build_model(SHAPE, 0), build_model(SHAPE, 0)
    for block in stacked.layers:
        block.mlp.gate_up.weight = nn.Parameter(block.mlp.gate_up.weight.detach().view(2, 128, 64).clone())
    for model in (fused, stacked):
        optimizer = build_optimizer(model, Muon(precision="float32"))
        for parameter in model.parameters():
            parameter.grad = normal(parameter.numel()).view(parameter.shape)
        optimizer.step()
    for wanted, got in zip(fused.parameters(), stacked.parameters(), strict=True):
        assert torch.equal(got.view(wanted.shape), wanted)


def test_updates_have_the_size_of_adamws() -> None:
    """Moonlight: about 0.2 to 0.4 of the rate for each element."""
    model = build_model(SHAPE, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, Muon(lr=1e-2, weight_decay=0, precision="float32"))
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = normal(*parameter.shape, seed=number)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.ndim == 2:
            size = float((parameter.detach() - before[name]).square().mean().sqrt())
            assert 0.15e-2 < size < 0.3e-2


@pytest.mark.parametrize(("precision", "nesterov"), [("float32", True), ("bfloat16", True), ("float32", False)])
def test_it_learns(precision: str, nesterov: bool) -> None:
    ids = torch.randint(96, (120,), generator=torch.Generator().manual_seed(1))
    model, attend = build_model(SHAPE, 0), PackedCausal((0, 120))
    config = Muon.model_validate({"lr": 5e-3, "precision": precision, "nesterov": nesterov})
    optimizer = build_optimizer(model, config)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids, torch.arange(120), attend)[:-1], ids[1:])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
