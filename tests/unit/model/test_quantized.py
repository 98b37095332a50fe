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
from lianlu.model.quantized import KINDS, Method, dequantize_linears, is_quantized, linear_names, quantize_linears
from lianlu.model.save import save_model

torch.set_num_threads(1)

WHOLE_BLOCKS = {"intermediate_size": 192}
QWEN2 = {"architecture": "qwen2", "attention_bias": True, "initializer_range": 0.1}


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(9) * 5
    return model(tokens, torch.arange(9), PackedCausal([0, 9]))


@pytest.mark.parametrize(("method", "largest"), [("int8", 0.05), ("int4", 0.5), ("nf4", 0.5)])
def test_is_close_and_touches_blocks_only(method: Method, largest: float) -> None:
    model = build_model(preset("internlm2-nano", initializer_range=0.1, **WHOLE_BLOCKS), 0)
    head, embedding, before = model.lm_head.weight, model.embed_tokens.weight, logits(model)
    names = linear_names(model)
    quantize_linears(model, method)
    assert is_quantized(model)
    assert names[:4] == [f"layers.0.{name}" for name in ("attention.wqkv", "attention.wo", "mlp.gate_up", "mlp.down")]
    assert all(isinstance(model.get_submodule(name), KINDS[method]) for name in names)
    assert model.lm_head.weight is head
    assert model.embed_tokens.weight is embedding
    error = (logits(model) - before).abs().max() / before.abs().max()
    assert 0 < error < largest


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


def test_int4_keeps_its_dtypes_under_a_cast_and_has_no_file() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    quantize_linears(model, "int4")
    before = [buffer.clone() for buffer in model.layers[0].mlp.down.buffers()]
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        layer = model.to(dtype).layers[0].mlp.down
        assert [buffer.dtype for buffer in layer.buffers()] == [torch.uint8, torch.bfloat16, torch.bfloat16]
        assert logits(model).dtype == dtype
    assert all(torch.equal(one, other) for one, other in zip(model.layers[0].mlp.down.buffers(), before, strict=True))
    with pytest.raises(ConfigError, match="no file format"):
        save_model(model, "nowhere")


@pytest.mark.parametrize("method", ["nf4", "nf4-single"])
def test_nf4_keeps_its_dtypes_under_a_cast_and_has_no_file(method: Method) -> None:
    """Codes and steps are parameters, which training divides between processes; none of them is ever trained."""
    model = build_model(preset("internlm2-nano", **WHOLE_BLOCKS), 0)
    quantize_linears(model, method)
    before = {name: tensor.clone() for name, tensor in model.layers[0].mlp.down.state_dict().items()}
    step = torch.uint8 if method == "nf4" else torch.float32
    held = {"weight": ((64, 96), torch.uint8), "weight_step": ((64, 3), step)}
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        layer = model.to(dtype).layers[0].mlp.down
        found = {name: (tuple(p.shape), p.dtype) for name, p in layer.named_parameters()}
        assert found == held
        assert not any(parameter.requires_grad for parameter in layer.parameters())
        assert {buffer.dtype for buffer in layer.buffers()} <= {torch.float32}
        assert logits(model).dtype == dtype
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.layers[0].mlp.down.state_dict().items())
    with pytest.raises(ConfigError, match="no file format"):
        save_model(model, "nowhere")


@pytest.mark.parametrize("method", KINDS)
def test_dequantised_models_are_plain_and_compute_the_same(method: Method, tmp_path: Path) -> None:
    model = build_model(preset("internlm2-nano", **QWEN2, **WHOLE_BLOCKS), 0)
    quantize_linears(model, method)
    before = logits(model)
    dequantize_linears(model)
    assert not is_quantized(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    save_model(model, tmp_path)
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


@pytest.mark.parametrize(
    ("method", "size", "words", "hint"),
    [("int4", 80, r"groups of 32.* has 80", "int8"), ("nf4", 160, r"blocks of 64.* has 160", "lora")],
)
def test_inputs_come_in_whole_groups(method: Method, size: int, words: str, hint: str) -> None:
    model = build_model(preset("internlm2-nano", intermediate_size=size), 0)
    with pytest.raises(ConfigError, match=words) as caught:
        quantize_linears(model, method)
    assert hint in caught.value.hint


@pytest.mark.parametrize("method", KINDS)
def test_dequantised_weights_are_what_the_layer_computes(method: Method) -> None:
    linear = torch.nn.Linear(64, 7)
    layer = KINDS[method].from_linear(linear)
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.dequantised(), linear.bias))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("method", KINDS)
def test_an_adapter_trains_on_any_kind_but_does_not_merge(method: Method, dora: bool) -> None:
    model = build_model(preset("internlm2-nano", **QWEN2, **WHOLE_BLOCKS), 0)
    quantize_linears(model, method)
    before = logits(model)
    add_lora(model, LoraSpec(rank=2, dora=dora))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5 if dora else 0)
    logits(model).square().sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "lora_B" in name)
    with pytest.raises(ConfigError, match="quantised"):
        merge_adapter(model)


def test_an_open_adapter_is_not_quantised() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    add_lora(model, LoraSpec(rank=2))
    with pytest.raises(ConfigError, match="open adapter"):
        quantize_linears(model)
