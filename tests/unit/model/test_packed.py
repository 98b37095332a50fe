import weakref

import pytest
import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.kernels.int4 import can_pack_int4
from lianlu.kernels.int8 import can_pack_int8
from lianlu.kernels.linear import HAS_ONEDNN, PackedWeight
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.packed import PackedLinear, pack_linears
from lianlu.model.quantized import Int8Linear, Method, quantize_linears

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


def test_other_dtypes_stay_as_they_are() -> None:
    model = build_model(preset("internlm2-nano"), 0, torch.float64)
    before = logits(model, 4)
    pack_linears(model)
    assert torch.equal(logits(model, 4), before)


HAS_TWIN = {"int8": can_pack_int8(torch.zeros(16, 32, dtype=torch.int8)), "int4": can_pack_int4(torch.zeros(16, 16))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", HAS_TWIN)
def test_quantised_layers_get_their_twins(method: Method, dtype: torch.dtype) -> None:
    """Near the reference, biases included."""
    shape = {"architecture": "qwen2", "attention_bias": True, "initializer_range": 0.1}
    model = build_model(preset("internlm2-nano", **shape), 0)
    with torch.no_grad():
        model.layers[0].attention.wqkv.bias.normal_()
    quantize_linears(model, method)
    model.to(dtype)
    before = logits(model, 40)
    pack_linears(model)
    assert HAS_TWIN[method] == isinstance(model.layers[1].mlp.down, PackedLinear)
    after = logits(model, 40)
    assert after.dtype == dtype
    exact = method == "int8" and dtype == torch.float32
    error = (after - before).abs().max() / before.abs().max()
    assert error < (1e-3 if exact else 0.05)


def test_layers_without_a_twin_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(preset("internlm2-nano"), 0)
    quantize_linears(model)
    before = logits(model, 4)
    monkeypatch.setattr("lianlu.model.packed.can_pack_int8", lambda weight: False)
    pack_linears(model)
    assert isinstance(model.layers[0].mlp.down, Int8Linear)
    assert torch.equal(logits(model, 4), before)


def test_a_plain_weight_is_let_go_once_it_is_packed() -> None:
    """One layer at a time: nothing holds the plain weights of layers that are packed."""
    model = build_model(preset("internlm2-nano"), 0)
    plain = [weakref.ref(block.mlp.down.weight) for block in model.layers]
    alive: list[int] = []
    pack = PackedWeight.__init__

    def counting(self: PackedWeight, weight: torch.Tensor) -> None:
        alive.append(sum(reference() is not None for reference in plain))
        pack(self, weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedWeight, "__init__", counting)
        pack_linears(model)
    assert alive[0] == len(plain)
    assert alive[-1] == 0
    assert alive == sorted(alive, reverse=True)
