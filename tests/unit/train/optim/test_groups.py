"""Which parameter gets which settings: by kind, then by the first rule that finds its name."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.model.lora import add_lora
from lianlu.model.lora_spec import LoraSpec
from lianlu.train.config import AdamW, AdamW8, GroupRule, Muon, Optim
from lianlu.train.optim.groups import parameter_groups

SHAPE = ModelConfig(
    architecture="qwen3",
    vocab_size=80,
    hidden_size=64,
    intermediate_size=72,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_bias=True,
    qk_norm=True,
)


def by_name(model: nn.Module, config: Optim, part: bool = False) -> dict[str, dict[str, Any]]:
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, config, part)
    found = {names[id(p)]: group for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


def test_muon_takes_the_matrices_of_the_blocks_apart() -> None:
    found = by_name(build_model(SHAPE, 0), Muon())
    assert {name: group["rows"] for name, group in found.items() if group["update"] == "muon" and "layers.1" in name} == {
        "layers.1.attention.wqkv.weight": (32, 16, 16),
        "layers.1.attention.wo.weight": (),
        "layers.1.mlp.gate_up.weight": (72, 72),
        "layers.1.mlp.down.weight": (),
    }
    others = {name for name, group in found.items() if group["update"] == "adamw" and "layers.1" not in name}
    assert {"embed_tokens.weight", "lm_head.weight", "norm.weight", "layers.0.attention.q_norm.weight"} <= others
    assert "layers.0.attention.wqkv.bias" in others


def test_stacked_gates_are_the_same_two_matrices() -> None:
    model = build_model(SHAPE, 0)
    gates = model.layers[0].mlp.gate_up
    gates.weight = nn.Parameter(gates.weight.detach().view(2, 72, 64))
    assert by_name(model, Muon())["layers.0.mlp.gate_up.weight"]["rows"] == (72, 72)


def test_lora_matrices_are_matrices() -> None:
    model = build_model(SHAPE, 0)
    add_lora(model, LoraSpec(rank=4))
    found = by_name(model, Muon())
    assert {(group["update"], group["rows"]) for group in found.values()} == {("muon", ())}


def test_small_and_embedding_keep_32_bits() -> None:
    model = build_model(SHAPE, 0)
    wide = {name for name, group in by_name(model, AdamW8()).items() if group["update"] == "adamw"}
    assert "embed_tokens.weight" in wide
    assert "lm_head.weight" not in wide
    assert {name for name, p in model.named_parameters() if p.numel() < 4096} <= wide
    narrow = by_name(model, AdamW8(embedding_bits=8))
    assert narrow["embed_tokens.weight"]["update"] == "adamw8"


def test_the_first_rule_that_finds_a_name_counts() -> None:
    rules = (
        GroupRule(match=r"layers\.0\..*norm", weight_decay=0.7),
        GroupRule(match=r"^layers\.0\.", lr=0.1),
        GroupRule(match="layers", lr=0.5, weight_decay=0),
    )
    found = by_name(build_model(SHAPE, 0), AdamW(lr=1e-2, weight_decay=0.2, groups=rules))
    got = {name: (group["scale"], group["weight_decay"]) for name, group in found.items()}
    assert got["layers.0.mlp_norm.weight"] == (1.0, 0.7)
    assert got["layers.0.mlp.down.weight"] == (0.1, 0.2)
    assert got["layers.0.attention.wqkv.bias"] == (0.1, 0.0)
    assert got["layers.1.mlp.down.weight"] == (0.5, 0.0)
    assert got["lm_head.weight"] == (1.0, 0.2)
    assert found["layers.0.mlp.down.weight"]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("optim", [AdamW, AdamW8, Muon])
def test_equal_settings_share_a_group(optim: type[AdamW] | type[AdamW8] | type[Muon]) -> None:
    groups = parameter_groups(build_model(SHAPE, 0), optim())
    settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    assert all(settings.count(own) == 1 for own in settings)


@pytest.mark.parametrize(
    ("rules", "message", "hint"),
    [
        (["embed_token\\.weigth"], r"groups\[0\] .* finds no parameter", "did you mean embed_tokens.weight"),
        (["wqkv", "attention.wkqv"], r"groups\[1\] .* finds no parameter", "attention.wqkv.weight"),
        (["layers", "wo"], r"finds only what an earlier rule has taken, such as layers.0.attention.wo.weight", "put it first"),
        (["lm_head"], r"finds only what is not trained, such as lm_head.weight", "trained are"),
    ],
)
def test_a_rule_that_finds_nothing_is_refused(rules: list[str], message: str, hint: str) -> None:
    model = build_model(SHAPE, 0)
    model.lm_head.weight.requires_grad_(False)
    config = AdamW(groups=tuple(GroupRule(match=match) for match in rules))
    with pytest.raises(ConfigError, match=message) as caught:
        parameter_groups(model, config)
    assert hint in caught.value.hint


def test_a_part_of_a_model_need_not_have_what_a_rule_names() -> None:
    part = nn.ModuleDict({"layers": nn.ModuleDict({"3": nn.Linear(2, 2)})})
    found = by_name(part, AdamW(groups=(GroupRule(match="embed"), GroupRule(match="layers.3", lr=0.5))), part=True)
    assert {group["scale"] for group in found.values()} == {0.5}


def test_muon_without_a_matrix_is_refused() -> None:
    with pytest.raises(ConfigError, match="no matrix") as caught:
        parameter_groups(nn.Linear(3, 3), Muon())
    assert "adamw" in caught.value.hint
    nothing = nn.Linear(3, 3).requires_grad_(False)
    assert parameter_groups(nothing, Muon()) == []
