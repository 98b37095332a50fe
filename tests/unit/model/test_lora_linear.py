import pytest
import torch

from lianlu.model import layouts
from lianlu.model.config import preset
from lianlu.model.decoder import build_model
from lianlu.model.lora_linear import LayerUpdate, attach, num_inputs, piece_names, piece_sizes

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
