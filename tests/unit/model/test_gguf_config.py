"""Metadata to config without a file; whole GGUF models are in tests/parity."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lianlu.core.errors import DataError
from lianlu.formats.gguf import GGUF, TensorInfo
from lianlu.model.gguf_config import config_from_gguf

BASE: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 48,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    "llama.context_length": 128,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def opened(metadata: dict[str, Any], *names: str) -> GGUF:
    tensors = {name: TensorInfo(name, (99, 32), 0, 0, 0) for name in ("token_embd.weight", *names)}
    return GGUF(Path("m.gguf"), mmap.mmap(-1, 1), metadata, tensors)


def test_shape_and_defaults() -> None:
    config = config_from_gguf(opened(BASE))
    assert (config.vocab_size, config.head_dim, config.num_key_value_heads) == (99, 8, 2)
    assert (config.rms_norm_eps, config.rope_theta, config.rope_scaling.kind) == (1e-5, 10000.0, "none")
    assert (config.tie_word_embeddings, config.attention_bias, config.qk_norm) == (True, False, False)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), None)


def test_tensors_decide_the_switches() -> None:
    config = config_from_gguf(opened(BASE, "output.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight"))
    assert (config.tie_word_embeddings, config.attention_bias, config.qk_norm) == (False, True, True)


def test_end_of_turn_counts_as_end() -> None:
    config = config_from_gguf(opened({**BASE, "tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 2}))
    assert config.eos_token_ids == (2, 7)


def test_old_name_of_linear_scaling() -> None:
    config = config_from_gguf(opened({**BASE, "llama.rope.scale_linear": 2.0}))
    assert config.rope_scaling.model_dump() == {"kind": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"general.architecture": "bert"}, "bert"),
        ({"llama.embedding_length": None}, "embedding_length"),
        ({"llama.block_count": "two"}, "block_count"),
        ({"llama.attention.head_count_kv": 3}, "multiple"),
        ({"llama.rope.scaling.type": "su"}, "su"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        config_from_gguf(opened({**BASE, **change}))
    assert "m.gguf" in error.value.message


def test_no_embedding() -> None:
    with pytest.raises(DataError, match="token_embd"):
        config_from_gguf(GGUF(Path("m.gguf"), mmap.mmap(-1, 1), BASE, {}))
