import pytest
import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model, empty_model
from lianlu.model.frozen import frozen_dtypes, hold_frozen

torch.set_num_threads(1)


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(9) * 5
    with torch.autocast("cpu", torch.bfloat16):
        return model(tokens, torch.arange(9), PackedCausal([0, 9]))


@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_matrices_are_narrow_and_the_rest_is_not(tables: bool, tied: bool) -> None:
    model = empty_model(preset("internlm2-nano", architecture="qwen2", attention_bias=True, tie_word_embeddings=tied))
    hold_frozen(model, torch.bfloat16, tables)
    wanted = frozen_dtypes(torch.bfloat16, tables)
    narrow = {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.bfloat16}
    assert all(tensor.dtype == wanted(name) for name, tensor in model.state_dict().items())
    outer = ({"lm_head.weight"} if not tied else set()) | ({"embed_tokens.weight"} if tables else set())
    assert narrow - outer == {
        name for name in narrow if name.endswith((".wqkv.weight", ".wo.weight", ".gate_up.weight", ".down.weight"))
    }
    assert {name for name in narrow if not name.startswith("layers.")} == outer
    assert len(narrow - outer) == 8


@pytest.mark.parametrize("tables", [False, True])
def test_what_autocast_computes_stays_the_same_to_the_bit(tables: bool) -> None:
    """The embedding is the only weight that is not cast for its use anyway; a bf16 checkpoint has no more digits either."""
    model = build_model(preset("internlm2-nano", initializer_range=0.1), 0)
    if tables:
        model.embed_tokens.weight.data = model.embed_tokens.weight.data.bfloat16().float()
    before = logits(model)
    hold_frozen(model, torch.bfloat16, tables)
    assert torch.equal(logits(model), before)
    assert model.embed_tokens(torch.arange(3)).dtype == torch.float32


def test_in_fp32_nothing_changes() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    embedding, before = model.embed_tokens, dict(model.state_dict())
    hold_frozen(model, torch.float32, tables=True)
    assert model.embed_tokens is embedding
    assert all(tensor.data_ptr() == before[name].data_ptr() for name, tensor in model.state_dict().items())
