"""What is exported from a run that was killed loads in transformers and PEFT and computes what the run computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from lianlu.core.config import validate
from lianlu.core.store import Store
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.lora import add_lora
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.checkpoint.describe import describe_run
from lianlu.train.checkpoint.export import RESUME, Wish, export
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.config import CheckpointConfig, TrainConfig
from lianlu.train.optim.build import build_optimizer
from lianlu.train.parallel.layout import Layout

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}
IDS = [5, 17, 3, 80, 41, 9]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    library = Library(models.BPE(vocab={chr(33 + i): i for i in range(94)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens(["<|endoftext|>"])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return Tokenizer.load(folder)


def logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS), torch.arange(len(IDS)), PackedCausal([0, len(IDS)]))


def killed_run(model: Decoder, run: Path, **described: Any) -> None:
    """A few steps, and a state after them."""
    config = validate(TrainConfig, {"precision": "float32", "optim": {"lr": 0.02}})
    optimizer = build_optimizer(model, config.optim)
    for _ in range(3):
        model(torch.tensor(IDS), torch.arange(len(IDS)), PackedCausal([0, len(IDS)])).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    describe_run(run / RESUME, **described)
    Checkpoints(run / RESUME, CheckpointConfig(), Layout(config), ()).save(model, optimizer, 3, None)


@pytest.mark.parametrize("architecture", ["llama", "internlm2", "qwen2", "qwen3"])
def test_a_state_in_transformers(tokenizer: Tokenizer, tmp_path: Path, architecture: str) -> None:
    own = {"qwen2": {"attention_bias": True}, "qwen3": {"qk_norm": True}}.get(architecture, {})
    model = build_model(validate(ModelConfig, {**SHAPE, **own, "architecture": architecture}), seed=1)
    killed_run(model, tmp_path / "run", tokenizer=tokenizer)
    layout = "llama" if architecture == "internlm2" else ""
    export(tmp_path / "run", tmp_path / "out", Wish(layout=layout), Store(tmp_path / "store"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.tensor([IDS])).logits[0], logits(model), rtol=1e-5, atol=1e-5)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read("abc")["input_ids"] == tokenizer.encode("abc")


@pytest.mark.parametrize("dora", [False, True])
def test_the_adapter_of_a_state_in_peft_and_merged_in_transformers(tokenizer: Tokenizer, tmp_path: Path, dora: bool) -> None:
    model = build_model(validate(ModelConfig, {**SHAPE, "architecture": "llama"}), seed=1)
    save_model(model, tmp_path / "base")
    spec = LoraSpec(rank=4, dora=dora)
    add_lora(model, spec, seed=2)
    killed_run(model, tmp_path / "run", tokenizer=tokenizer, base=str(tmp_path / "base"), tune=spec)
    wanted = logits(model)
    assert not torch.allclose(wanted, logits(build_model(model.config, seed=1)), atol=1e-3), "the adapter has learned something"
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    for name, merge in (("adapter", False), ("merged", True)):
        export(tmp_path / "run", tmp_path / name, Wish(merge=merge), Store(tmp_path / "store"))
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for theirs in (adapted, merged):
        with torch.no_grad():
            torch.testing.assert_close(theirs.eval()(torch.tensor([IDS])).logits[0], wanted, rtol=1e-5, atol=2e-5)
