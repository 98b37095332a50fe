import json
from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.model.config import preset
from lianlu.model.hf_config import from_hf, quantisation, to_hf, token_ids

FILE = Path("somewhere/config.json")
LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

VARIANTS = [
    {},
    {"rope_scaling": {"kind": "linear", "factor": 2.0}},
    {"rope_scaling": {"kind": "dynamic", "factor": 2.5}, "bos_token_id": 1, "eos_token_ids": (2, 7), "pad_token_id": 2},
    {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}},
    {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}},
    {"architecture": "llama", "tie_word_embeddings": True, "attention_bias": True},
    {"architecture": "qwen2", "attention_bias": True, "rope_theta": 1e6},
    {"architecture": "qwen3", "qk_norm": True, "head_dim": 24},
    {"norm_head": True, "eos_token_ids": (5,)},
    {"attention_bias": True},
]


@pytest.mark.parametrize("change", VARIANTS)
def test_written_configs_are_read_back_equal(change: dict[str, object]) -> None:
    config = preset("internlm2-nano", **change)
    table = json.loads(json.dumps(to_hf(config, config.architecture, "float32")))
    assert from_hf(table, FILE) == config


def test_transformers_5_names() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}
    config = from_hf({**LLAMA, "rope_parameters": rope, "dtype": "bfloat16"}, FILE)
    assert (config.rope_theta, config.rope_scaling.kind) == (5e4, "linear")
    assert from_hf({**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, FILE).rope_theta == 7.0


def test_internlm2_as_published() -> None:
    table = {
        **LLAMA,
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "attn_implementation": "eager",
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
    }
    config = from_hf(table, FILE, {"eos_token_id": [2, 92542], "pad_token_id": 2})
    assert config.architecture == "internlm2"
    assert config.rope_scaling.model_dump() == {"kind": "dynamic", "factor": 2.0}
    assert config.eos_token_ids == (2, 92542)
    assert config.rms_norm_eps == 1e-5


def test_defaults_of_the_families() -> None:
    assert from_hf({**LLAMA, "model_type": "qwen2"}, FILE).attention_bias
    qwen3 = from_hf({**LLAMA, "model_type": "qwen3"}, FILE)
    assert (qwen3.qk_norm, qwen3.head_dim, qwen3.attention_bias) == (True, 128, False)
    assert from_hf(LLAMA, FILE).rms_norm_eps == 1e-6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"use_sliding_window": True}, "sliding"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "longrope"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 0.7}}, "yarn"),
        ({"rope_scaling": "big"}, "rope_scaling"),
        ({"num_key_value_heads": 3}, "multiple"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused_by_file(change: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        from_hf({**LLAMA, **change}, FILE)
    assert str(FILE) in error.value.message
    assert error.value.hint


def test_quantisation_of_others_is_refused() -> None:
    assert quantisation({}, FILE) is None
    assert quantisation({"quantization_config": {"quant_method": "lianlu-int8"}}, FILE) == {"quant_method": "lianlu-int8"}
    with pytest.raises(DataError, match="gptq"):
        quantisation({"quantization_config": {"quant_method": "gptq"}}, FILE)


def test_end_ids_as_number_list_or_none() -> None:
    assert token_ids(preset("internlm2-nano"))["eos_token_id"] is None
    assert token_ids(preset("internlm2-nano", eos_token_ids=(3,)))["eos_token_id"] == 3
    assert token_ids(preset("internlm2-nano", eos_token_ids=(3, 4)))["eos_token_id"] == [3, 4]
