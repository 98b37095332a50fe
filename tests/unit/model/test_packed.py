import pytest
import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.kernels.linear import HAS_ONEDNN
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.packed import PackedLinear, pack_linears
from lianlu.model.quantized import quantize_linears

torch.set_num_threads(1)


def logits(model: Decoder, count: int) -> torch.Tensor:
    tokens = torch.arange(count) * 5
    with torch.inference_mode():
        return model(tokens, torch.arange(count), PackedCausal([0, count]))


@pytest.mark.skipif(not HAS_ONEDNN, reason="needs an x86 processor")
@pytest.mark.parametrize("change", [{}, {"norm_head": True}, {"architecture": "llama", "tie_word_embeddings": True}])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_same_bits(change: dict[str, object], count: int) -> None:
    model = build_model(preset("internlm2-nano", **change), 0)
    before = logits(model, count)
    pack_linears(model)
    assert isinstance(model.layers[1].mlp.down, PackedLinear)
    assert torch.equal(logits(model, count), before)


def test_biases_are_kept() -> None:
    model = build_model(preset("internlm2-nano", architecture="qwen2", attention_bias=True), 0)
    with torch.no_grad():
        model.layers[0].attention.wqkv.bias.normal_()
    before = logits(model, 5)
    pack_linears(model)
    torch.testing.assert_close(logits(model, 5), before)


def test_other_dtypes_and_int8_stay_as_they_are() -> None:
    model = build_model(preset("internlm2-nano"), 0, torch.float64)
    before = logits(model, 4)
    pack_linears(model)
    assert torch.equal(logits(model, 4), before)
    narrow = build_model(preset("internlm2-nano"), 0)
    quantize_linears(narrow)
    before = logits(narrow, 4)
    pack_linears(narrow)
    assert torch.equal(logits(narrow, 4), before)
