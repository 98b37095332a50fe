"""Shapes for pretraining: named ones with changes, one's own, and what is refused."""

from __future__ import annotations

import pytest

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.model.config import DynamicScaling, preset, preset_names
from lianlu.train.shape import ShapeConfig

SPECIALS = {"bos_token_id", "eos_token_ids", "pad_token_id"}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_the_shape_of_its_name(name: str) -> None:
    shape, named = validate(ShapeConfig, {"preset": name}), preset(name)
    made = shape.as_model(300, 64)
    assert made.model_dump(exclude=SPECIALS) == named.model_dump(exclude=SPECIALS)
    assert (made.bos_token_id, made.eos_token_ids) == (None, ())


def test_fields_beside_a_preset_change_it() -> None:
    shape = validate(ShapeConfig, {"preset": "internlm2-1.8b", "num_attention_heads": 32, "rope_scaling": {"factor": 3.0}})
    made = shape.as_model(300, 64)
    assert (made.num_attention_heads, made.head_dim, made.num_key_value_heads) == (32, 64, 8)
    assert made.rope_scaling == DynamicScaling(factor=3.0)
    assert made.hidden_size == 2048


def test_the_report_sizes() -> None:
    report = {
        "internlm2-1.8b": (24, 2048, 16, 8192),
        "internlm2-7b": (32, 4096, 32, 14336),
        "internlm2-20b": (48, 6144, 48, 16384),
    }
    for name, sizes in report.items():
        made = validate(ShapeConfig, {"preset": name}).as_model(92544, 32768)
        assert (made.num_hidden_layers, made.hidden_size, made.num_attention_heads, made.intermediate_size) == sizes
        assert (made.vocab_size, made.max_position_embeddings, made.rope_theta) == (92544, 32768, 1e6)
        assert (made.num_key_value_heads, made.head_dim) == (8, 128)
        assert (made.rope_scaling, made.tie_word_embeddings) == (DynamicScaling(factor=2.0), False)


def test_vocabulary_and_length_are_the_larger_of_two() -> None:
    shape = validate(ShapeConfig, {"vocab_size": 500, "max_position_embeddings": 100})
    assert (shape.as_model(300, 64).vocab_size, shape.as_model(300, 64).max_position_embeddings) == (500, 100)
    assert (shape.as_model(700, 640).vocab_size, shape.as_model(700, 640).max_position_embeddings) == (700, 640)


def test_read_back_it_is_the_same() -> None:
    shape = validate(ShapeConfig, {"preset": "internlm2-20b", "tie_word_embeddings": True})
    assert validate(ShapeConfig, shape.model_dump(mode="json")) == shape
    assert shape.tie_word_embeddings


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"preset": "internlm3"}, "there is no model shape 'internlm3'"),
        ({"preset": "internlm2-nano", "hiden_size": 3}, "did you mean hidden_size"),
        ({"num_attention_heads": 5}, "must be a multiple"),
        ({"hidden_size": 12}, "head_dim 3 must be even"),
        ({"norm_head": True}, "output layer of its own"),
    ],
)
def test_what_cannot_be_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ShapeConfig, table)
