"""How layers are dealt out to stages, and two stages (`cases_pipeline.py`) against one process."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig
from lianlu.train.parallel.pipeline import layers_of_stages

CASES = Path(__file__).with_name("cases_pipeline.py")
SPAWN = runpy.run_path(str(CASES.with_name("spawn.py")))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return dict(SPAWN["run_cases"]([CASES], 2, tmp_path_factory.mktemp("stages")))


@pytest.mark.e2e
@pytest.mark.parametrize("name", SPAWN["case_names"]([CASES]))
def test_two_stages(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def shape(num_layers: int, vocab_size: int) -> ModelConfig:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    size = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": vocab_size}
    return ModelConfig(num_hidden_layers=num_layers, **heads, **size)


def slowest(config: ModelConfig, counts: list[int]) -> float:
    """Weights that a token meets in the stage that has most to do."""
    block = 32 * (64 + 32 + 3 * 64)
    return max([count * block for count in counts[:-1]] + [counts[-1] * block + 32 * config.vocab_size])


@given(st.integers(2, 4), st.integers(0, 6), st.integers(10, 3000))
@settings(max_examples=60, deadline=None)
def test_stages_hold_all_layers_in_order_and_the_slowest_is_as_fast_as_any_cut_allows(stages: int, more: int, vocab: int) -> None:
    config = shape(stages + more, vocab)
    dealt = layers_of_stages(config, stages)
    assert [layer for own in dealt for layer in own] == list(range(stages + more))
    counts = [len(own) for own in dealt]
    assert min(counts) >= 1
    cuts = itertools.product(range(1, more + 2), repeat=stages)
    best = min(slowest(config, list(cut)) for cut in cuts if sum(cut) == stages + more)
    assert slowest(config, counts) == best


def test_a_large_output_layer_costs_the_last_stage_layers() -> None:
    assert [len(own) for own in layers_of_stages(shape(24, 10), 4)] == [6, 6, 6, 6]
    assert [len(own) for own in layers_of_stages(shape(24, 288 * 3), 4)] == [6, 7, 7, 4]
    assert [len(own) for own in layers_of_stages(shape(23, 288 * 3), 4)] == [6, 6, 7, 4]


def test_fewer_layers_than_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than the model's 3 layers") as caught:
        layers_of_stages(shape(3, 10), 4)
    assert "at most 3" in caught.value.hint
