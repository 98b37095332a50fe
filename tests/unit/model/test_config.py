import subprocess
import sys

import pytest

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig, num_parameters, preset, preset_names
from lianlu.model.decoder import build_model

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def test_left_out_heads_follow_from_the_rest() -> None:
    config = ModelConfig(**SHAPE)
    assert (config.num_key_value_heads, config.head_dim, config.queries_per_group, config.qkv_size) == (4, 8, 1, 96)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_key_value_heads": 3}, "multiple of"),
        ({"head_dim": 7}, "even"),
        ({"hidden_size": 4, "num_attention_heads": 4}, "even"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"norm_head": True, "tie_word_embeddings": True}, "norm_head"),
        ({"rope_scaling": {"kind": "magic"}}, "rope_scaling"),
        ({"rope_scaling": {"kind": "linear"}}, "factor"),
        ({"hiden_size": 3}, "did you mean hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(ModelConfig, {**SHAPE, **change})


def test_presets_have_the_parameters_of_the_report() -> None:
    billions = {name: round(num_parameters(preset(name)) / 1e9, 2) for name in preset_names() if name.endswith("b")}
    assert billions == {"internlm2-1.8b": 1.89, "internlm2-7b": 7.74, "internlm2-20b": 19.86}
    assert preset("internlm2-7b").rope_scaling.kind == "dynamic"
    assert preset("internlm2-7b").eos_token_ids[0] == 2


def test_preset_with_changes_and_an_unknown_one() -> None:
    assert preset("internlm2-nano", num_hidden_layers=1).num_hidden_layers == 1
    with pytest.raises(ConfigError, match="internlm3") as error:
        preset("internlm3")
    assert "internlm2-7b" in error.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_word_embeddings": True},
        {"architecture": "qwen2", "attention_bias": True},
        {"architecture": "llama", "attention_bias": True},
        {"architecture": "qwen3", "qk_norm": True, "head_dim": 24},
    ],
)
def test_counted_parameters_are_those_of_the_model(change: dict[str, object]) -> None:
    config = preset("internlm2-nano", **change)
    assert num_parameters(config) == sum(parameter.numel() for parameter in build_model(config, 0).parameters())


def test_counting_needs_no_torch() -> None:
    code = "import sys; from lianlu.model.config import preset, num_parameters; num_parameters(preset('internlm2-7b'))"
    check = "; from lianlu.model import lora_spec, gguf_config, hf_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code + check], check=True)
