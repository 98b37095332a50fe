"""Documents divided among the parts of a run: none in two of them, each part with what it asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.shards import TokenShard
from lianlu.train.division import Division, Part
from lianlu.train.stream import Source, block_edges


def source_of(lengths: list[int], block_tokens: int = 1 << 26) -> Source:
    offsets = np.cumsum([0, *lengths])
    shard = TokenShard(Path("x"), 9, np.zeros(offsets[-1], np.uint16), offsets, np.ones(len(lengths), np.uint64))
    return Source(shard, 0, block_edges(shard, block_tokens))


def documents(source: Source, division: Division, number: int) -> list[int]:
    choice = division.choice(number)
    found = [choice.documents(block) for block in range(source.num_blocks)]
    assert [int(source.lengths(own).sum()) for own in found] == choice.block_tokens.tolist()
    return [int(index) for own in found for index in own]


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    asked=st.lists(st.tuples(st.floats(0.001, 1), st.sampled_from([0, 0, 20, 40])), min_size=1, max_size=4),
    load=st.floats(0.05, 1.5),
    seed=st.integers(0, 99),
    block_tokens=st.sampled_from([50, 300, 1 << 26]),
)
def test_no_document_is_in_two_parts_unless_one_epoch_is_not_enough(
    lengths: list[int], asked: list[tuple[float, int]], load: float, seed: int, block_tokens: int
) -> None:
    source = source_of(lengths, block_tokens)
    scale = load * sum(lengths) / sum(share for share, _ in asked)
    parts = [Part(share * scale, limit) for share, limit in asked]
    division = Division(source, parts, seed)
    found = [documents(source, division, number) for number in range(len(parts))]
    for own, part in zip(found, parts, strict=True):
        assert all(lengths[index] > part.longer_than for index in own)
        assert len(set(own)) == len(own)
        assert own == sorted(own)
    if division.is_divided:
        assert load <= 1
        assert all(found)
        together = [index for own in found for index in own]
        assert len(set(together)) == len(together)
        if all(part.longer_than == 0 for part in parts):
            assert sorted(together) == list(range(len(lengths)))
    else:
        for own, part in zip(found, parts, strict=True):
            assert own == [index for index, length in enumerate(lengths) if length > part.longer_than]


def test_what_is_asked_is_given_to_within_a_document() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 400).tolist()
    source, total = source_of(lengths, 3000), sum(lengths)
    parts = [Part(0.5 * total), Part(0.1 * total, 60), Part(0.3 * total), Part(0.05 * total, 30)]
    division = Division(source, parts, 4)
    assert division.is_divided
    for number, part in enumerate(parts):
        given_tokens = sum(lengths[index] for index in documents(source, division, number))
        assert given_tokens >= part.tokens - 100 * source.num_blocks / 2
    for number in (1, 3):
        given_tokens = sum(lengths[index] for index in documents(source, division, number))
        assert parts[number].tokens <= given_tokens <= parts[number].tokens + 100 * source.num_blocks


def test_the_division_is_a_matter_of_the_seed() -> None:
    source = source_of([7] * 50)
    parts = [Part(100), Part(100)]
    first, again, other = (documents(source, Division(source, parts, seed), 0) for seed in (1, 1, 2))
    assert first == again != other


def test_a_part_that_asks_for_nothing_is_in_nobodys_way() -> None:
    source = source_of([5, 5, 5, 5])
    division = Division(source, [Part(8), Part(0), Part(8), Part(0, 3)], 0)
    assert division.is_divided
    assert documents(source, division, 3) == []
