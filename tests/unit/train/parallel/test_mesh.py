"""Sizes of the axes from configuration and number of processes; no process is started."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig, preset
from lianlu.train.config import ParallelConfig
from lianlu.train.parallel.mesh import Sizes, check_shape, divisors, sizes_of

SMALL = st.integers(1, 4)


@given(st.sampled_from(["none", "gradient", "full"]), st.integers(0, 6), SMALL, SMALL, SMALL, st.integers(1, 64))
def test_sizes_fill_the_processes_or_are_refused(
    sharding: Any, shard_size: int, tensor: int, sequence: int, pipeline: int, num_processes: int
) -> None:
    config = ParallelConfig(sharding=sharding, shard_size=shard_size, tensor=tensor, sequence=sequence, pipeline=pipeline)
    together = tensor * sequence * pipeline
    fits = num_processes % together == 0
    fits = fits and (sharding == "none" or shard_size == 0 or num_processes // together % shard_size == 0)
    if not fits:
        with pytest.raises(ConfigError):
            sizes_of(config, num_processes)
        return
    sizes = sizes_of(config, num_processes)
    assert sizes.pipeline * sizes.replica * sizes.shard * sizes.sequence * sizes.tensor == num_processes
    assert (sizes.pipeline, sizes.sequence, sizes.tensor) == (pipeline, sequence, tensor)
    assert sizes.num_data == num_processes // together
    assert sizes.shard == (1 if sharding == "none" else shard_size or sizes.num_data)


@given(st.integers(1, 500))
def test_divisors(number: int) -> None:
    found = divisors(number)
    assert found == sorted(size for size in range(1, number + 1) if number % size == 0)


@pytest.mark.parametrize(
    ("tensor", "sequence", "message"),
    [
        (16, 1, "8 key-value heads"),
        (1, 5, "16 query heads"),
        (8, 4, "2 query heads"),
    ],
)
def test_a_model_that_cannot_be_divided_so(tensor: int, sequence: int, message: str) -> None:
    config = preset("internlm2-1.8b")
    with pytest.raises(ConfigError, match=message) as caught:
        check_shape(Sizes(1, 1, 1, sequence, tensor), config)
    for size in caught.value.hint.removeprefix("choose one of ").split(", "):
        sizes = Sizes(1, 1, 1, int(size) if sequence > 1 else 1, tensor if sequence > 1 else int(size))
        check_shape(sizes, config)


def test_the_feed_forward_layer_and_the_vocabulary_have_to_divide_too() -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    with pytest.raises(ConfigError, match="50 feed-forward units"):
        check_shape(Sizes(1, 1, 1, 1, 4), ModelConfig(vocab_size=64, intermediate_size=50, **shape))
    with pytest.raises(ConfigError, match="63 tokens"):
        check_shape(Sizes(1, 1, 1, 1, 2), ModelConfig(vocab_size=63, intermediate_size=48, **shape))
