import pytest
import torch
from torch import Tensor

from lianlu.kernels.attention import PackedCausal, packed_positions
from lianlu.model.config import DynamicScaling, ModelConfig, preset
from lianlu.model.decoder import Decoder, build_model

torch.set_num_threads(1)

FAMILIES = {
    "internlm2": {},
    "internlm2-norm-head": {"norm_head": True},
    "llama-tied": {"architecture": "llama", "tie_word_embeddings": True},
    "qwen2": {"architecture": "qwen2", "attention_bias": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_dim": 24},
}


def ids(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 512, (count,), generator=torch.Generator().manual_seed(seed))


def whole(model: Decoder, tokens: Tensor) -> Tensor:
    return model(tokens, torch.arange(len(tokens)), PackedCausal([0, len(tokens)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_changes_nothing(family: str) -> None:
    model = build_model(preset("internlm2-nano", **FAMILIES[family]), 0)
    first, second, third = ids(7, 1), ids(1, 2), ids(12, 3)
    ends = [0, 7, 8, 20]
    positions, lengths = packed_positions(ends)
    packed = model(torch.cat([first, second, third]), positions, PackedCausal(ends), lengths)
    alone = torch.cat([whole(model, part) for part in (first, second, third)])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_token_changes_nothing_before_it(family: str) -> None:
    model = build_model(preset("internlm2-nano", **FAMILIES[family]), 0)
    tokens = ids(9)
    changed = torch.cat([tokens[:-1], (tokens[-1:] + 1) % 512])
    before, after = whole(model, tokens), whole(model, changed)
    torch.testing.assert_close(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_same_seed_same_model_and_the_global_generator_stays() -> None:
    config = preset("internlm2-nano")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = build_model(config, 1), build_model(config, 1), build_model(config, 2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.embed_tokens.weight, other.embed_tokens.weight)


def test_new_weights_have_the_asked_spread() -> None:
    model = build_model(preset("internlm2-nano", architecture="qwen2", attention_bias=True, initializer_range=0.05), 0)
    assert model.embed_tokens.weight.std().item() == pytest.approx(0.05, rel=0.05)
    block = model.layers[0]
    assert torch.equal(block.attention.wqkv.bias, torch.zeros_like(block.attention.wqkv.bias))
    assert block.attention.wo.bias is None
    assert torch.equal(block.mlp_norm.weight, torch.ones(64))


def test_dynamic_ntk_looks_at_each_sequence_by_itself() -> None:
    config = preset("internlm2-nano", max_position_embeddings=8, rope_scaling={"kind": "dynamic", "factor": 2.0})
    assert isinstance(config.rope_scaling, DynamicScaling)
    model = build_model(config, 0)
    short, long = ids(6, 1), ids(20, 2)
    ends = [0, 6, 26]
    positions, lengths = packed_positions(ends)
    packed = model(torch.cat([short, long]), positions, PackedCausal(ends), lengths)
    torch.testing.assert_close(packed[:6], whole(model, short), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed[6:], whole(model, long), rtol=1e-5, atol=1e-6)
    plain = build_model(preset("internlm2-nano", max_position_embeddings=8), 0)
    torch.testing.assert_close(whole(model, short), whole(plain, short))
    assert not torch.allclose(whole(model, long), whole(plain, long), atol=1e-4)


def test_a_longer_length_is_what_a_longer_sequence_would_see() -> None:
    """The engine decodes one token of a long sequence: its length decides the base, not the batch's positions."""
    config = preset("internlm2-nano", max_position_embeddings=8, rope_scaling={"kind": "dynamic", "factor": 2.0})
    seen: list[Tensor] = []

    def remember(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(q)
        return q

    model = build_model(config, 0)
    for length in (8, 16):
        model(ids(1), torch.tensor([3]), remember, torch.tensor([length]))
    assert not torch.allclose(seen[0], seen[2])


def test_attend_gets_rotated_heads_of_every_layer() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    shapes = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shapes.append((layer, tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return q

    model(ids(5), torch.arange(5), attend)
    assert shapes == [(layer, (5, 4, 16), (5, 2, 16), (5, 2, 16)) for layer in range(2)]


def test_norm_head_normalises_rows() -> None:
    model = build_model(preset("internlm2-nano", norm_head=True), 0)
    torch.testing.assert_close(model.head_weight().norm(dim=1), torch.ones(512))
    before = whole(model, ids(4))
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    torch.testing.assert_close(whole(model, ids(4)), before)


def test_bf16_stays_bf16_and_close() -> None:
    model = build_model(preset("internlm2-nano", initializer_range=0.1), 0)
    wide = whole(model, ids(10))
    narrow = whole(model.to(torch.bfloat16), ids(10))
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, rtol=0.1, atol=0.1 * float(wide.detach().abs().max()))


def test_no_tokens_give_no_logits() -> None:
    model = build_model(preset("internlm2-nano"), 0)
    empty = torch.zeros(0, dtype=torch.int64)
    assert model(empty, empty, PackedCausal([0])).shape == (0, 512)


def test_every_parameter_gets_a_gradient() -> None:
    model = build_model(ModelConfig(**{**preset("internlm2-nano").model_dump(), **FAMILIES["qwen2"]}), 0)
    whole(model, ids(8)).square().sum().backward()
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert lacking == []
