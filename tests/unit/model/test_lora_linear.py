import pytest
import torch

from lianlu.model import layouts
from lianlu.model.config import preset
from lianlu.model.decoder import build_model
from lianlu.model.lora_linear import (
    LayerUpdate,
    attach,
    merged_weight,
    num_inputs,
    piece_names,
    piece_sizes,
    row_squares,
)
from lianlu.model.quantized import KINDS

torch.set_num_threads(1)


@pytest.mark.parametrize("module", ["attention.wqkv", "attention.wo", "mlp.gate_up", "mlp.down"])
@pytest.mark.parametrize("layout", ["llama", "internlm2"])
def test_sizes_fit_the_layers(module: str, layout: str) -> None:
    model = build_model(preset("internlm2-nano", head_dim=24), 0)
    weight = model.get_submodule(f"layers.0.{module}").weight
    assert sum(piece_sizes(module, len(piece_names(layout, module)), model.config)) == weight.shape[0]
    assert num_inputs(module, model.config) == weight.shape[1]


@pytest.mark.parametrize("module", ["attention.wqkv", "mlp.gate_up"])
def test_stacked_update_is_each_piece_in_its_rows(module: str) -> None:
    """Ranks and strengths may differ from piece to piece, and a piece may have none."""
    model = build_model(preset("internlm2-nano"), 0)
    names = piece_names("llama", module)
    sizes = piece_sizes(module, len(names), model.config)
    chosen = {name: (rank, size) for rank, (name, size) in enumerate(zip(names, sizes, strict=True), start=2) if name != "k_proj"}
    updates = {name: (torch.randn(rank, 64), torch.randn(size, rank)) for name, (rank, size) in chosen.items()}
    scaling = {name: 0.5 * rank for name, (rank, _) in chosen.items()}
    layer = attach(model, f"layers.1.{module}", LayerUpdate("llama", updates, scaling))
    a, b = layer.stacked()
    whole = [
        scaling[name] * updates[name][1] @ updates[name][0] if name in updates else torch.zeros(size, 64)
        for name, size in zip(names, sizes, strict=True)
    ]
    torch.testing.assert_close(b @ a, layouts.fuse(f"layers.1.{module}.weight", whole, model.config))


def test_forward_is_the_base_plus_the_update() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    base = model.layers[0].mlp.down
    a, b = torch.randn(3, 160), torch.randn(64, 3)
    layer = attach(model, "layers.0.mlp.down", LayerUpdate("internlm2", {"w2": (a, b)}, {"w2": 2.0}))
    x = torch.randn(5, 160)
    torch.testing.assert_close(layer(x), base(x) + 2.0 * x @ a.T @ b.T, rtol=1e-4, atol=1e-4)
    assert model.layers[0].mlp.down is layer
    assert not base.weight.requires_grad


@pytest.mark.parametrize("module", ["attention.wqkv", "mlp.gate_up"])
def test_dora_brings_updated_rows_to_their_magnitudes(module: str) -> None:
    """A piece without an update stays what it is; the bias is added behind the scaling."""
    model = build_model(preset("internlm2-nano", architecture="qwen2", attention_bias=True), 0)
    names = piece_names("llama", module)[1:]
    sizes = piece_sizes(module, len(names) + 1, model.config)[1:]
    updates = {name: (torch.randn(2, 64), torch.randn(size, 2)) for name, size in zip(names, sizes, strict=True)}
    magnitudes = {name: torch.rand(size) + 0.5 for name, size in zip(names, sizes, strict=True)}
    base = model.get_submodule(f"layers.1.{module}")
    whole = base.weight.detach().clone()
    update = LayerUpdate("llama", updates, dict.fromkeys(names, 0.3), magnitudes)
    expected = layouts.split(f".{module}.", merged_weight(whole, module, model.config, update), len(names) + 1, model.config)
    first = layouts.split(f".{module}.", whole, len(names) + 1, model.config)[0]
    torch.testing.assert_close(expected[0], first)
    for name, rows in zip(names, expected[1:], strict=True):
        torch.testing.assert_close(rows.norm(dim=1), magnitudes[name])
    layer = attach(model, f"layers.1.{module}", update)
    x = torch.randn(9, 64)
    plain = layouts.fuse(f".{module}.", list(expected), model.config)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, plain, base.bias), rtol=1e-4, atol=1e-5)


def test_norms_are_those_of_the_weight_that_is_multiplied_by() -> None:
    for method in KINDS:
        layer = KINDS[method].from_linear(torch.nn.Linear(64, 40))
        torch.testing.assert_close(row_squares(layer), layer.dequantised().square().sum(1))
    narrow = torch.nn.Linear(64, 40).bfloat16()
    torch.testing.assert_close(row_squares(narrow), narrow.weight.float().square().sum(1))


def test_dora_keeps_small_changes_of_a_magnitude_under_bf16() -> None:
    model = build_model(preset("internlm2-nano"), 0).to(torch.bfloat16)
    layer = attach(
        model, "layers.0.mlp.down", LayerUpdate("internlm2", {"w2": (torch.zeros(1, 160), torch.zeros(64, 1))}, {"w2": 1.0})
    )
    layer.add_magnitudes()
    x = torch.randn(64, 160).bfloat16()
    before = layer(x).float()
    with torch.no_grad():
        layer.lora_magnitude_vector["w2"].mul_(1.003)
    grown = layer(x).float()
    assert float((grown / before).mean().detach()) == pytest.approx(1.003, abs=5e-4)
