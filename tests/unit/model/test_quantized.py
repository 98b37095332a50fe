from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lianlu.core.errors import ConfigError
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.lora import add_lora, merge_adapter
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.quantized import Int8Linear, is_quantized, linear_names, quantize_linears
from lianlu.model.save import save_model

torch.set_num_threads(1)

QWEN2 = {"architecture": "qwen2", "attention_bias": True, "initializer_range": 0.1}


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(9) * 5
    return model(tokens, torch.arange(9), PackedCausal([0, 9]))


def test_is_close_and_touches_blocks_only() -> None:
    model = build_model(preset("internlm2-nano", initializer_range=0.1), 0)
    head, embedding, before = model.lm_head.weight, model.embed_tokens.weight, logits(model)
    names = linear_names(model)
    quantize_linears(model)
    assert is_quantized(model)
    assert names[:4] == [f"layers.0.{name}" for name in ("attention.wqkv", "attention.wo", "mlp.gate_up", "mlp.down")]
    assert all(isinstance(model.get_submodule(name), Int8Linear) for name in names)
    assert model.lm_head.weight is head
    assert model.embed_tokens.weight is embedding
    error = (logits(model) - before).abs().max() / before.abs().max()
    assert 0 < error < 0.05


@pytest.mark.parametrize("layout", ["internlm2", "llama", "qwen2"])
def test_saved_and_loaded_in_every_layout(tmp_path: Path, layout: str) -> None:
    shape = QWEN2 if layout == "qwen2" else {}
    model = build_model(preset("internlm2-nano", **shape), 0)
    quantize_linears(model)
    save_model(model, tmp_path, layout)
    loaded = load_model(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    files = load_file(tmp_path / "model.safetensors")
    wide = [name for name, tensor in files.items() if tensor.ndim == 2 and tensor.dtype != torch.int8]
    assert len(wide) == 2


def test_scales_stay_fp32_under_a_cast(tmp_path: Path) -> None:
    model = build_model(preset("internlm2-nano"), 0)
    quantize_linears(model)
    save_model(model, tmp_path)
    for narrow in (load_model(tmp_path, torch.bfloat16), model.to(torch.bfloat16)):
        layer = narrow.layers[0].mlp.down
        assert (layer.weight.dtype, layer.weight_scale.dtype) == (torch.int8, torch.float32)
        assert narrow.norm.weight.dtype == torch.bfloat16
        assert logits(narrow).dtype == torch.bfloat16


def test_dequantised_weights_are_what_the_layer_computes() -> None:
    linear = torch.nn.Linear(12, 7)
    layer = Int8Linear.from_linear(linear)
    x = torch.randn(3, 12)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.dequantised(), linear.bias))


def test_an_adapter_trains_on_int8_but_does_not_merge() -> None:
    model = build_model(preset("internlm2-nano", **QWEN2), 0)
    quantize_linears(model)
    before = logits(model)
    add_lora(model, LoraSpec(rank=2))
    assert torch.equal(logits(model), before)
    logits(model).square().sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "lora_B" in name)
    with pytest.raises(ConfigError, match="int8"):
        merge_adapter(model)


def test_an_open_adapter_is_not_quantised() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    add_lora(model, LoraSpec(rank=2))
    with pytest.raises(ConfigError, match="open adapter"):
        quantize_linears(model)
