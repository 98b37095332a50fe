import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.model import layouts
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder

torch.set_num_threads(1)


def shape(groups: int, queries: int, head_dim: int = 4) -> ModelConfig:
    heads = groups * queries
    return ModelConfig(
        vocab_size=11,
        hidden_size=6,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
    )


@settings(max_examples=30, deadline=None)
@given(groups=st.integers(1, 4), queries=st.integers(1, 6), rest=st.sampled_from([(), (3,)]))
def test_fusing_and_splitting_are_inverse(groups: int, queries: int, rest: tuple[int, ...]) -> None:
    config = shape(groups, queries)
    fused = torch.randn(config.qkv_size, *rest)
    q, k, v = layouts.split_qkv(fused, config)
    assert len(q) == config.num_attention_heads * 4
    assert len(k) == len(v) == groups * 4
    assert torch.equal(layouts.fuse_qkv(q, k, v, config), fused)


def test_wqkv_rows_are_grouped_as_internlm2_has_them() -> None:
    """Group by group the queries, then the key, then the value (arXiv 2403.17297, figure 2)."""
    config = shape(groups=2, queries=2, head_dim=2)
    fused = torch.arange(16)
    q, k, v = layouts.split_qkv(fused, config)
    assert q.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert k.tolist() == [4, 5, 12, 13]
    assert v.tolist() == [6, 7, 14, 15]


@pytest.mark.parametrize("layout", ["llama", "internlm2"])
def test_every_weight_has_foreign_names_of_its_own(layout: str) -> None:
    with torch.device("meta"):
        model = Decoder(shape(2, 2))
    names = [piece for name in model.state_dict() for piece in layouts.LAYOUTS[layout].pieces(name)]
    assert len(names) == len(set(names))
    wanted = {"llama": "model.layers.1.self_attn.k_proj.weight", "internlm2": "model.layers.1.attention.wqkv.weight"}
    assert wanted[layout] in names


def test_gate_comes_before_up() -> None:
    config = shape(1, 1)
    gate, up = torch.zeros(10, 2), torch.ones(10, 2)
    fused = layouts.fuse("layers.0.mlp.gate_up.weight", [gate, up], config)
    assert torch.equal(fused, torch.cat([gate, up]))
    assert torch.equal(layouts.split("layers.0.mlp.gate_up.weight", fused, 2, config)[1], up)


@settings(max_examples=20, deadline=None)
@given(heads=st.integers(1, 5), half=st.integers(1, 4))
def test_llama_cpp_row_order_is_undone(heads: int, half: int) -> None:
    """llama.cpp's converter reshapes to (heads, 2, half) and swaps the last two axes."""
    rows = torch.randn(heads * 2 * half, 3)
    theirs = rows.reshape(heads, 2, half, 3).swapaxes(1, 2).reshape(rows.shape)
    assert torch.equal(layouts.unpermute_rows(theirs, heads), rows)
