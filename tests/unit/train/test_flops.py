"""The operations of a step, held against those that PyTorch counts while it runs one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from lianlu.model.config import ModelConfig, num_parameters, preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.lora import add_lora
from lianlu.model.lora_spec import LoraSpec
from lianlu.train.flops import Flops, block_weights, head_weights
from lianlu.train.packing import Segment, pack, packed_loss
from lianlu.train.plan.setting import updates

SHAPE = ModelConfig(
    architecture="llama",
    vocab_size=320,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
ATTENTION = ("scaled_dot_product", "flash_attention")


def products(model: Decoder, lengths: list[int], num_targets: int) -> float:
    """Operations of matrix products that a step really does; attention is left out: PyTorch counts no causal half.

    The sizes asked for need no filling: tokens are multiples of 16, targets of 32.
    """
    segments = [Segment(np.zeros(n, dtype=np.int64), np.full(n, -100)) for n in lengths]
    flat = np.concatenate([segment.targets for segment in segments])
    flat[:num_targets] = 1
    parts = np.split(flat, np.cumsum(lengths)[:-1])
    batch = pack([Segment(segment.inputs, part) for segment, part in zip(segments, parts, strict=True)])
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        packed_loss(model, batch).backward()
    counted = counter.get_flop_counts()["Global"]
    return float(sum(count for op, count in counted.items() if not any(name in str(op) for name in ATTENTION)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("lengths", "num_targets"), [([64], 64), ([7, 24, 1], 32), ([30, 18], 32)])
def test_products_of_full_training_are_counted_exactly(tied: bool, lengths: list[int], num_targets: int) -> None:
    config = SHAPE.model_copy(update={"tie_word_embeddings": tied})
    flops = Flops(config)
    expected = flops.step(lengths, num_targets) - 3 * flops.attention(lengths)
    assert products(build_model(config, 0), lengths, num_targets) == expected


@pytest.mark.parametrize("target", ["all-linear", ("q_proj", "v_proj", "down_proj")])
def test_products_of_an_adapter_are_counted_exactly(target: str | tuple[str, ...]) -> None:
    lengths, rank = [40, 24], 4
    model = build_model(SHAPE, 0)
    add_lora(model, LoraSpec(rank=rank, target=target))
    flops = Flops(SHAPE, sum(p.numel() for p in model.parameters() if p.requires_grad))
    computed = products(model, lengths, 64)
    # what the code does besides: adapters of fused layers are applied with zeros between the pieces
    zeros = sum(rank * (len(update.rows) * update.outputs - sum(update.rows)) for update in updates(SHAPE, target).values())
    computed -= 6 * sum(lengths) * SHAPE.num_hidden_layers * zeros
    # and what it need not do: nothing trained lies before the first layer, so its inputs have no gradient
    first = SHAPE.hidden_size * SHAPE.qkv_size
    first += rank * len(updates(SHAPE, target)["wqkv"].rows) * SHAPE.hidden_size
    computed += 2 * sum(lengths) * first
    assert computed == flops.step(lengths, 64) - 3 * flops.attention(lengths)


def test_attention_is_the_causal_half_of_what_pytorch_counts() -> None:
    heads, width = SHAPE.num_attention_heads, SHAPE.head_dim
    with FlopCounterMode(display=False) as counter:
        for length in (5, 40):
            q = torch.ones(1, heads, length, width, device="meta")
            scaled_dot_product_attention(q, q, q)
    assert Flops(SHAPE).attention([5, 40]) == SHAPE.num_hidden_layers * counter.get_total_flops() / 2


def test_packing_counts_each_sequence_by_itself() -> None:
    flops = Flops(SHAPE)
    assert flops.step([10, 30], 0) == pytest.approx(flops.step([10], 0) + flops.step([30], 0))
    assert flops.step([10, 30], 0) < flops.step([40], 0)


def test_six_a_weight_is_the_rule_of_thumb() -> None:
    config = preset("internlm2-7b")
    embedding = head_weights(config)
    norms = num_parameters(config) - block_weights(config) - 2 * embedding
    assert 0 < norms < 1e6
    per_token = Flops(config).step([1], 1)
    assert per_token == pytest.approx(6 * (num_parameters(config) - embedding), rel=1e-3)


def test_only_whole_blocks_are_computed_twice() -> None:
    flops = Flops(SHAPE)
    assert flops.recomputed([40], "none") == flops.recomputed([40], "selective") == 0
    forward = (flops.step([40], 40) - 40 * 6 * head_weights(SHAPE)) / 3
    assert flops.recomputed([40], "full") == pytest.approx(forward)


def test_the_formula_names_its_numbers() -> None:
    text = Flops(preset("internlm2-7b"), adapter=40_000_000).formula()
    assert text.startswith("4 x 6.979 G (blocks) + 6 x 40 M (adapter) + 6 x 131.1 k x length (causal attention) a token")
