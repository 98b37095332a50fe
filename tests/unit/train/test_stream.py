"""The order of pretraining data: a function of seed and position, every token a target once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.shards import ShardWriter, TokenShard, open_shard
from lianlu.train.stream import Choice, DocumentStream, Source, block_edges, document_segments, held_out_documents

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


def stream(shard: TokenShard, seed: int, max_segment: int, block_tokens: int = 1 << 26) -> DocumentStream:
    return DocumentStream(Source(shard, SEPARATOR, block_edges(shard, block_tokens), 70), (seed, 0), max_segment)


def flat(stream: DocumentStream, start: int, count: int) -> tuple[list[int], list[int]]:
    segments = stream.segments(start, count)
    return [int(t) for s in segments for t in s.inputs], [int(t) for s in segments for t in s.targets]


@pytest.mark.parametrize("block_tokens", [1, 5, 12, 1 << 26])
def test_an_epoch_has_every_token_as_a_target_once(shard: TokenShard, block_tokens: int) -> None:
    own = stream(shard, 3, 5, block_tokens)
    assert own.num_tokens == shard.num_tokens
    for epoch in range(3):
        _, targets = flat(own, epoch * shard.num_tokens, shard.num_tokens)
        assert sorted(targets) == sorted(shard.tokens.tolist())


def test_blocks_cover_the_documents_and_hold_what_is_asked() -> None:
    offsets = np.cumsum([0, *LENGTHS])
    fake = TokenShard(None, 9, np.zeros(offsets[-1], np.uint16), offsets, np.ones(len(LENGTHS), np.uint64))  # type: ignore[arg-type]
    for block_tokens in range(1, 45):
        edges = block_edges(fake, block_tokens)
        assert edges[0] == 0
        assert edges[-1] == len(LENGTHS)
        sizes = np.diff(offsets[edges])
        assert (np.diff(edges) > 0).all()
        assert sizes.max() < block_tokens + max(LENGTHS)


def test_inputs_are_what_comes_before_the_targets(shard: TokenShard) -> None:
    for segment in stream(shard, 3, 5).segments(0, shard.num_tokens):
        assert len(segment.inputs) == len(segment.targets) <= 5
        assert segment.inputs[1:].tolist() == segment.targets[:-1].tolist()
        number, place = divmod(int(segment.targets[0]), 100)
        if segment.targets[0] != SEPARATOR:
            assert segment.inputs[0] == (SEPARATOR if place == 0 else 100 * number + place - 1)
            assert segment.source == 70 + number - 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 50),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    max_segment=st.integers(1, 20),
    block_tokens=st.integers(1, 50),
)
def test_cutting_into_batches_changes_neither_inputs_nor_targets(
    shard: TokenShard, seed: int, cuts: list[int], max_segment: int, block_tokens: int
) -> None:
    whole = flat(stream(shard, seed, max_segment, block_tokens), 0, sum(cuts))
    fresh = stream(shard, seed, max_segment, block_tokens)
    starts = np.cumsum([0, *cuts])[:-1]
    parts = {int(start): flat(fresh, int(start), cut) for start, cut in reversed(list(zip(starts, cuts, strict=True)))}
    assert [t for start in starts for t in parts[int(start)][0]] == whole[0]
    assert [t for start in starts for t in parts[int(start)][1]] == whole[1]


def test_epochs_seeds_and_streams_have_orders_of_their_own(shard: TokenShard) -> None:
    source = Source(shard, SEPARATOR, block_edges(shard))
    orders = [
        tuple(flat(DocumentStream(source, key, 40), epoch * shard.num_tokens, shard.num_tokens)[1])
        for key, epoch in (((0, 0), 0), ((0, 0), 1), ((1, 0), 0), ((1, 0), 1), ((0, 1), 0))
    ]
    assert len(set(orders)) == 5


def test_blocks_are_taken_in_another_order_each_epoch(shard: TokenShard) -> None:
    own = stream(shard, 0, 40, 10)
    firsts = {own.segments(epoch * shard.num_tokens, 1)[0].source for epoch in range(12)}
    assert len(firsts) > 2


def test_a_stream_over_some_documents_has_no_other(shard: TokenShard) -> None:
    source = Source(shard, SEPARATOR, block_edges(shard, 10))

    def odd_ones(block: int) -> np.ndarray:
        return source.documents(block)[source.documents(block) % 2 == 1]

    sizes = np.array([source.lengths(odd_ones(block)).sum() for block in range(source.num_blocks)])
    odd = DocumentStream(source, (0, 0), 4, Choice(odd_ones, sizes))
    assert odd.num_tokens == sum(LENGTHS[1::2])
    assert {segment.source for segment in odd.segments(0, 3 * odd.num_tokens)} == {1, 3, 5}


def test_held_out_documents_are_whole_and_within_the_limit(shard: TokenShard) -> None:
    chosen = held_out_documents(shard, max_tokens=20)
    assert sum(LENGTHS[index] for index in chosen) <= 20
    assert chosen == held_out_documents(shard, max_tokens=20)
    assert held_out_documents(shard, max_tokens=1000) == list(range(len(LENGTHS)))
    segments = document_segments(shard, chosen, SEPARATOR, max_segment=4)
    assert [int(t) for s in segments for t in s.targets] == [int(t) for i in chosen for t in shard.document(i)]
    assert max(len(s.targets) for s in segments) <= 4


def test_where_every_document_is_too_long_the_shortest_is_held_out(shard: TokenShard) -> None:
    assert [LENGTHS[index] for index in held_out_documents(shard, max_tokens=0)] == [min(LENGTHS)]
