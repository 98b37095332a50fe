"""The order of pretraining data: a function of seed and position, every token a target once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.shards import ShardWriter, TokenShard, open_shard
from lianlu.train.stream import DocumentStream, document_segments, held_out_documents

SEPARATOR = 0
LENGTHS = [3, 1, 17, 6, 9, 2]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> TokenShard:
    """Token values are 100 * document + place, so that a token says where it is from; the last of each is the separator."""
    path = tmp_path_factory.mktemp("shard") / "train.bin"
    with ShardWriter(path, 1000) as writer:
        for number, length in enumerate(LENGTHS, 1):
            writer.add([*(100 * number + place for place in range(length - 1)), SEPARATOR], text_bytes=length)
    return open_shard(path)


def flat(stream: DocumentStream, start: int, count: int) -> tuple[list[int], list[int]]:
    segments = stream.segments(start, count)
    return [int(t) for s in segments for t in s.inputs], [int(t) for s in segments for t in s.targets]


def test_an_epoch_has_every_token_as_a_target_once(shard: TokenShard) -> None:
    stream = DocumentStream(shard, SEPARATOR, seed=3, max_segment=5)
    for epoch in range(3):
        _, targets = flat(stream, epoch * shard.num_tokens, shard.num_tokens)
        assert sorted(targets) == sorted(shard.tokens.tolist())


def test_inputs_are_what_comes_before_the_targets(shard: TokenShard) -> None:
    stream = DocumentStream(shard, SEPARATOR, seed=3, max_segment=5)
    for segment in stream.segments(0, shard.num_tokens):
        inputs, targets = segment.inputs, segment.targets
        assert len(inputs) == len(targets) <= 5
        assert inputs[1:].tolist() == targets[:-1].tolist()
        number, place = divmod(int(targets[0]), 100)
        if targets[0] != SEPARATOR:
            assert inputs[0] == (SEPARATOR if place == 0 else 100 * number + place - 1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=8), max_segment=st.integers(1, 20))
def test_cutting_into_batches_changes_neither_inputs_nor_targets(
    shard: TokenShard, seed: int, cuts: list[int], max_segment: int
) -> None:
    whole = flat(DocumentStream(shard, SEPARATOR, seed, max_segment), 0, sum(cuts))
    fresh = DocumentStream(shard, SEPARATOR, seed, max_segment)
    starts = np.cumsum([0, *cuts])[:-1]
    parts = {int(start): flat(fresh, int(start), cut) for start, cut in reversed(list(zip(starts, cuts, strict=True)))}
    assert [t for start in starts for t in parts[int(start)][0]] == whole[0]
    assert [t for start in starts for t in parts[int(start)][1]] == whole[1]


def test_epochs_and_seeds_have_orders_of_their_own(shard: TokenShard) -> None:
    orders = [
        tuple(flat(DocumentStream(shard, SEPARATOR, seed, 40), epoch * shard.num_tokens, shard.num_tokens)[1])
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len(set(orders)) == 4


def test_held_out_documents_are_whole_and_within_the_limit(shard: TokenShard) -> None:
    chosen = held_out_documents(shard, max_tokens=20)
    assert sum(LENGTHS[index] for index in chosen) <= 20
    assert chosen == held_out_documents(shard, max_tokens=20)
    assert held_out_documents(shard, max_tokens=1000) == list(range(len(LENGTHS)))
    segments = document_segments(shard, chosen, SEPARATOR, max_segment=4)
    assert [int(t) for segment in segments for t in segment.targets] == [int(t) for i in chosen for t in shard.document(i)]
    assert max(segment.num_tokens for segment in segments) <= 4


def test_where_every_document_is_too_long_the_shortest_is_held_out(shard: TokenShard) -> None:
    assert [LENGTHS[index] for index in held_out_documents(shard, max_tokens=0)] == [min(LENGTHS)]
