"""QLoRA through the sft stage: what is held how, learning, resuming, and what it cannot be put on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.core.store import Output
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.model.frozen import hold_frozen
from lianlu.model.load import load_model
from lianlu.model.lora import add_lora
from lianlu.model.lora_files import trained_base
from lianlu.model.lora_linear import lora_layers
from lianlu.model.quantized import NF4Linear, SingleNF4Linear, quantize_linears
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.parallel.layout import Layout
from lianlu.train.sft import FullTune, LoraTune, QLoraTune, SftConfig, estimate, planned_adapter, run
from lianlu.train.sft_task import SftTask, open_model

MakeConfig = Callable[..., SftConfig]
MakeOutput = Callable[[str], Output]
QLORA = {"kind": "qlora", "rank": 4}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def wider(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers have whole blocks of inputs."""
    folder = tmp_path_factory.mktemp("checkpoint") / "wider"
    config = ModelConfig(vocab_size=tokenizer.vocab_size, eos_token_ids=tokenizer.eos_ids, initializer_range=0.1, **SHAPE)
    save_model(build_model(config, seed=1), folder)
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("tune", [{}, {"dora": True, "rslora": True}, {"double_quant": False, "dropout": 0.1}])
def test_qlora_learns_and_says_what_it_was_trained_on(
    sft_config: MakeConfig, new_output: MakeOutput, wider: Path, tune: dict[str, object]
) -> None:
    out = new_output("a")
    run(sft_config(model=str(wider), tune={**QLORA, **tune}, epochs=4), out)
    assert out.figures["held_out_loss"] < out.figures["held_out_loss_start"] - 0.1
    assert trained_base(out.path) == ("nf4" if tune.get("double_quant", True) else "nf4-single")
    table = json.loads((out.path / "adapter_config.json").read_text())
    assert (table["use_dora"], table["use_rslora"]) == (tune.get("dora", False), tune.get("rslora", False))
    assert not (out.path / "model.safetensors").exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_ends_in_the_same_bits(
    sft_config: MakeConfig, new_output: MakeOutput, wider: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    tune = {**QLORA, "dora": True, "dropout": 0.2}
    config = sft_config(model=str(wider), tune=tune, precision=precision, steps=6, checkpoint={"every": 2}, checkpointing="full")
    whole, broken = new_output("whole"), new_output("broken")
    run(config, whole)
    rate = SftTask.rate

    def killed(self: SftTask, step: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return rate(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(SftTask, "rate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, broken)
    run(config, broken)
    for name in ("adapter_model.safetensors", "adapter_config.json", "lianlu.json", "losses.jsonl", "samples.jsonl"):
        assert (whole.path / name).read_bytes() == (broken.path / name).read_bytes(), name


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_held_how(sft_config: MakeConfig, tokenizer: Tokenizer, tmp_path: Path, tied: bool) -> None:
    shape = {**SHAPE, "architecture": "qwen2", "attention_bias": True, "tie_word_embeddings": tied}
    save_model(build_model(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=1), tmp_path)
    tokenizer.save(tmp_path)
    config = sft_config(model=str(tmp_path), tune={**QLORA, "dora": True}, precision="bfloat16")
    model = open_model(config, Layout(config))
    layers = [layer for _, layer in lora_layers(model)]
    assert len(layers) == 8
    assert all(type(layer.base) is NF4Linear for layer in layers)
    tables = [model.embed_tokens.weight] if tied else [model.embed_tokens.weight, model.lm_head.weight]
    assert {table.dtype for table in tables} == {torch.bfloat16}
    wide = {name for name, tensor in model.named_parameters() if tensor.dtype == torch.float32}
    assert all("lora_" in name or "norm" in name or "bias" in name for name in wide)
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained == {name for name in wide if "lora_" in name}
    plain = [module for module in model.layers.modules() if isinstance(module, nn.Linear)]
    assert plain == []


def test_single_steps_are_asked_for(sft_config: MakeConfig, wider: Path) -> None:
    config = sft_config(model=str(wider), tune={**QLORA, "double_quant": False})
    model = open_model(config, Layout(config))
    assert all(type(layer.base) is SingleNF4Linear for _, layer in lora_layers(model))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_lora_is_read_narrow_as_it_was_made_narrow(sft_config: MakeConfig, wider: Path, precision: str) -> None:
    """The model is to the bit the one that is read in fp32, given an adapter, and then cast."""
    config = sft_config(model=str(wider), tune={"kind": "lora", "rank": 4}, precision=precision)
    layout = Layout(config)
    model = open_model(config, layout)
    reference = load_model(wider)
    hold_frozen(reference, layout.dtype, tables=False)
    add_lora(reference, config.tune, config.seed)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
        assert model.state_dict()[name].dtype == tensor.dtype
    assert reference.embed_tokens.weight.dtype == torch.float32
    assert reference.layers[0].mlp.down.base.weight.dtype == layout.dtype


def test_what_qlora_cannot_be_put_on(
    sft_config: MakeConfig, new_output: MakeOutput, checkpoint: Path, wider: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="blocks of 64, a layer of this model has 32") as caught:
        run(sft_config(tune=QLORA), new_output("a"))
    assert "lora" in caught.value.hint
    model = load_model(wider)
    quantize_linears(model)
    save_model(model, tmp_path / "int8")
    Tokenizer.load(wider).save(tmp_path / "int8")
    with pytest.raises(ConfigError, match="cannot be held in NF4"):
        run(sft_config(model=str(tmp_path / "int8"), tune=QLORA), new_output("b"))
    with pytest.raises(ConfigError, match="do not fit the model"):
        run(sft_config(model=str(wider), tune={**QLORA, "target": ["q_prj"]}), new_output("c"))


def test_tune_is_one_of_three_things() -> None:
    base = {"model": "m", "data": "d"}
    tune = validate(SftConfig, {**base, "tune": {"kind": "qlora", "rank": 8, "rslora": True}}).tune
    assert isinstance(tune, QLoraTune)
    assert (tune.quant, tune.scaling) == ("nf4", 32 / 8**0.5)
    assert planned_adapter(tune).quantised
    assert planned_adapter(LoraTune(dora=True)).magnitudes
    assert planned_adapter(FullTune()) is None
    for wrong in ({"kind": "lora", "double_quant": False}, {"kind": "full", "dora": True}, {"kind": "qlora", "bits": 8}):
        with pytest.raises(ConfigError):
            validate(SftConfig, {**base, "tune": wrong})


def test_the_plan_knows_that_it_needs_less(sft_config: MakeConfig, wider: Path) -> None:
    needs = [estimate(sft_config(model="@pretrain", tune={"kind": kind})).memory_bytes for kind in ("qlora", "lora", "full")]
    assert needs == sorted(needs)
    assert sft_config(tune=QLORA).artifact_kind == "adapter"
