"""Weights counted without torch, held against the models themselves."""

from __future__ import annotations

import pytest
import torch

from lianlu.model.config import ModelConfig, num_parameters, preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.train.plan.setting import Adapter, Setting, updates, weights

NANO = preset("internlm2-nano")
QWEN = NANO.model_copy(update={"architecture": "qwen2", "attention_bias": True, "tie_word_embeddings": True})
QWEN3 = NANO.model_copy(update={"architecture": "qwen3", "qk_norm": True})


@pytest.mark.parametrize("config", [NANO, QWEN, QWEN3])
def test_the_weights_of_a_model_are_counted(config: ModelConfig) -> None:
    count = weights(config, None)
    assert count.model == num_parameters(config)
    with torch.device("meta"):
        model = Decoder(config)
    assert count.vectors == sum(p.numel() for p in model.parameters() if p.ndim == 1)


@pytest.mark.parametrize("config", [NANO, QWEN])
@pytest.mark.parametrize("target", ["all-linear", ("q_proj", "v_proj"), ("gate_proj", "o_proj", "k_proj")])
@pytest.mark.parametrize("dora", [False, True])
def test_the_weights_of_an_adapter_are_counted(config: ModelConfig, target: str | tuple[str, ...], dora: bool) -> None:
    model = build_model(config, 0)
    add_lora(model, LoraSpec(rank=3, target=target, dora=dora))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert weights(config, Adapter(3, target, magnitudes=dora)).adapter == trained


def test_names_of_either_family_are_understood() -> None:
    assert set(updates(NANO, ("wqkv", "w2"))) == {"wqkv", "down"}
    assert set(updates(NANO, ("q_proj",))) == {"wqkv"}
    assert updates(NANO, ("nonsense",)) == {}


def test_ways_have_names() -> None:
    assert [Setting(NANO, adapter=a).way for a in (None, Adapter(4), Adapter(4, quantised=True))] == ["full", "lora", "qlora"]
