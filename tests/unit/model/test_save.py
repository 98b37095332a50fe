import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lianlu.core.errors import ConfigError
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.lora import add_lora
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.save import save_model

torch.set_num_threads(1)

FAMILIES = {
    "internlm2": {},
    "llama": {"architecture": "llama", "tie_word_embeddings": True},
    "llama-bias": {"architecture": "llama", "attention_bias": True},
    "qwen2": {"architecture": "qwen2", "attention_bias": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_dim": 24},
}


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(9) * 5
    return model(tokens, torch.arange(9), PackedCausal([0, 9]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_exact(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    model = build_model(preset("internlm2-nano", **FAMILIES[family]), 3, dtype)
    save_model(model, tmp_path, max_shard_bytes=100_000)
    loaded = load_model(tmp_path, dtype)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(("own", "other"), [("internlm2", "llama"), ("llama", "internlm2")])
def test_internlm2_and_llama_convert_into_each_other(tmp_path: Path, own: str, other: str) -> None:
    model = build_model(preset("internlm2-nano", architecture=own), 0)
    save_model(model, tmp_path / "there", other)
    there = load_model(tmp_path / "there")
    assert there.config.architecture == other
    assert torch.equal(logits(there), logits(model))
    save_model(there, tmp_path / "back", own)
    save_model(model, tmp_path / "direct")
    files = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert files == ["config.json", "generation_config.json", "model.safetensors"]
    for name in files:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "direct" / name).read_bytes()


def test_internlm2_names(tmp_path: Path) -> None:
    save_model(build_model(preset("internlm2-nano", num_hidden_layers=1), 0), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "model.tok_embeddings.weight": (512, 64),
        "model.layers.0.attention_norm.weight": (64,),
        "model.layers.0.attention.wqkv.weight": (128, 64),
        "model.layers.0.attention.wo.weight": (64, 64),
        "model.layers.0.ffn_norm.weight": (64,),
        "model.layers.0.feed_forward.w1.weight": (160, 64),
        "model.layers.0.feed_forward.w3.weight": (160, 64),
        "model.layers.0.feed_forward.w2.weight": (64, 160),
        "model.norm.weight": (64,),
        "output.weight": (512, 64),
    }


def test_norm_head_is_folded_and_remembered(tmp_path: Path) -> None:
    model = build_model(preset("internlm2-nano", norm_head=True), 0)
    save_model(model, tmp_path)
    written = load_file(tmp_path / "model.safetensors")["output.weight"]
    torch.testing.assert_close(written.norm(dim=1), torch.ones(512))
    loaded = load_model(tmp_path)
    assert loaded.config.norm_head
    torch.testing.assert_close(logits(loaded), logits(model))


def test_generation_config_holds_the_special_ids(tmp_path: Path) -> None:
    save_model(build_model(preset("internlm2-nano", bos_token_id=1, eos_token_ids=(2, 9)), 0), tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"bos_token_id": 1, "eos_token_id": [2, 9]}


@pytest.mark.parametrize(
    ("family", "layout"), [("qwen2", "llama"), ("llama", "qwen3"), ("qwen3", "internlm2"), ("llama", "bert")]
)
def test_layouts_that_cannot_hold_the_model(tmp_path: Path, family: str, layout: str) -> None:
    with pytest.raises(ConfigError, match="layout"):
        save_model(build_model(preset("internlm2-nano", **FAMILIES[family]), 0), tmp_path, layout)
    assert list(tmp_path.iterdir()) == []


def test_an_open_adapter_is_not_lost_silently(tmp_path: Path) -> None:
    model = build_model(preset("internlm2-nano"), 0)
    add_lora(model, LoraSpec(rank=2))
    with pytest.raises(ConfigError, match="adapter"):
        save_model(model, tmp_path)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("x", "y"):
        save_model(build_model(preset("internlm2-nano"), 0), tmp_path / name)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
