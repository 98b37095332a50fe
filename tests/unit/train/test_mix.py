"""The mixture of sources: exact at every position, the same for any division into steps, every document once an epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.shards import TokenShard
from lianlu.train.config import ConstantSchedule
from lianlu.train.mix import Mixture, Quotas, mixtures
from lianlu.train.packing import Segment
from lianlu.train.phases import PhaseConfig, Timeline
from lianlu.train.stream import Source, block_edges

WEIGHTS = st.lists(st.floats(0, 1000).filter(lambda w: w == 0 or w > 1e-6), min_size=1, max_size=6).filter(any)


@given(weights=WEIGHTS, positions=st.lists(st.integers(0, 4 * 10**12), min_size=1, max_size=20))
def test_quotas_add_up_only_grow_and_keep_to_the_weights(weights: list[float], positions: list[int]) -> None:
    quotas, before = Quotas(weights), [0] * len(weights)
    for position in sorted(positions):
        now = quotas(position)
        assert sum(now) == position
        assert all(new >= old for new, old in zip(now, before, strict=True))
        shares = np.array(weights) / sum(weights) * position
        assert np.abs(np.array(now) - shares).max() <= len(weights) + 1e-3
        before = now


def sources_of(*lengths: list[int], block_tokens: int = 1 << 26) -> list[Source]:
    """Sources whose token values are the places in their file."""
    found: list[Source] = []
    first = 0
    for own in lengths:
        offsets = np.cumsum([0, *own])
        shard = TokenShard(Path("x"), 1 << 16, np.arange(offsets[-1]), offsets, np.ones(len(own), np.uint64))
        found.append(Source(shard, 0, block_edges(shard, block_tokens), first))
        first += len(own)
    return found


def mixed(
    sources: list[Source], phases: list[dict[str, Any]], tokens: int, seed: int = 0, **whole: Any
) -> tuple[Timeline, list[Mixture], list[str]]:
    base = PhaseConfig(share=1, **{"sequence_length": 8, "batch_tokens": 20, **whole})
    timeline = Timeline([PhaseConfig(**phase) for phase in phases], base, tokens, ConstantSchedule())
    made, notes = mixtures(sources, [f"s{index}" for index in range(len(sources))], timeline.phases, seed)
    return timeline, made, notes


def tokens_of(segments: list[Segment], sources: list[Source]) -> Counter[tuple[int, int]]:
    """How often each token (source, place in its file) is a target."""
    firsts = [source.first_document for source in sources]
    return Counter(
        (int(np.searchsorted(firsts, segment.source, side="right")) - 1, int(token))
        for segment in segments
        for token in segment.targets
    )


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 1), min_size=2, max_size=3),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    seed=st.integers(0, 20),
    short_share=st.sampled_from([0.0, 0.4, 1.0]),
    block_tokens=st.sampled_from([30, 1 << 26]),
)
def test_any_division_into_steps_gives_the_same_tokens_in_the_same_order(
    weights: list[float], cuts: list[int], seed: int, short_share: float, block_tokens: int
) -> None:
    lengths = [[3, 20, 9, 4, 4], [12, 2, 30], [5] * 9][: len(weights)]
    sources = sources_of(*lengths, block_tokens=block_tokens)
    phase = {"share": 1.0, "short_share": short_share, "short_length": 4}
    _, (mixture,), _ = mixed(sources, [phase], sum(cuts), seed, weights=tuple(weights), batch_tokens=sum(cuts))
    _, (other,), _ = mixed(sources, [phase], sum(cuts), seed, weights=tuple(weights), batch_tokens=sum(cuts))
    starts = np.cumsum([0, *cuts])[:-1].tolist()
    parts = {start: mixture.segments(start, cut) for start, cut in reversed(list(zip(starts, cuts, strict=True)))}
    whole = other.segments(0, sum(cuts))
    for index, source in enumerate(sources):
        first, last = source.first_document, source.first_document + source.shard.num_documents

        def own(segments: list[Segment], first: int = first, last: int = last) -> list[Segment]:
            return [s for s in segments if first <= s.source < last]

        pieces = own([segment for start in starts for segment in parts[start]])
        for side in ("inputs", "targets"):
            joined = [int(token) for s in pieces for token in getattr(s, side)]
            wanted = [int(token) for s in own(whole) for token in getattr(s, side)]
            # two streams of a source take turns in steps, so that only what they have together is alike
            assert (sorted(joined) == sorted(wanted)) if 0 < short_share < 1 else (joined == wanted)
        seen = sum(len(s.targets) for s in own(whole))
        assert abs(seen - sum(cuts) * weights[index] / sum(weights)) <= 2 * len(weights)


def test_without_weights_an_epoch_of_all_is_an_epoch_of_each() -> None:
    sources = sources_of([3, 20, 9, 4], [12, 2, 31], [5] * 7)
    total = sum(source.shard.num_tokens for source in sources)
    _, (mixture,), notes = mixed(sources, [], 2 * total, batch_tokens=total)
    for epoch in range(2):
        seen = tokens_of(mixture.segments(epoch * total, total), sources)
        assert set(seen.values()) == {1}
        assert len(seen) == total
    assert mixture.tokens(2 * total) == {index: 2 * source.shard.num_tokens for index, source in enumerate(sources)}
    assert notes == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 30), load=st.floats(0.2, 0.9), block_tokens=st.sampled_from([200, 1 << 26]))
def test_phases_that_fit_into_an_epoch_share_no_document(seed: int, load: float, block_tokens: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 40, 150).tolist()
    sources = sources_of(lengths, block_tokens=block_tokens)
    phases = [
        {"share": 0.5},
        {"share": 0.4, "sequence_length": 32, "short_share": 0.6, "short_length": 8},
        {"share": 0.1, "batch_tokens": 10},
    ]
    timeline, made, notes = mixed(sources, phases, int(load * sum(lengths)), seed)
    seen = [mixture.segments(0, phase.num_tokens) for mixture, phase in zip(made, timeline.phases, strict=True)]
    sets = [{segment.source for segment in segments} for segments in seen]
    assert notes == []
    for first in range(3):
        for second in range(first):
            assert not sets[first] & sets[second]
    together = [segment for segments in seen for segment in segments]
    # several blocks are each divided to within a document, so that a part may be a little short and begin again
    assert max(tokens_of(together, sources).values()) <= (1 if block_tokens > 200 else 2)
    long_ones = [s for s in seen[1] if lengths[s.source] > 8 and len(s.targets) > 8]
    assert long_ones


def test_the_short_share_is_exact_and_the_rest_comes_from_long_documents() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 300).tolist()
    sources = sources_of(lengths)
    phase = {"share": 1.0, "sequence_length": 64, "short_share": 0.25, "short_length": 8}
    timeline, (mixture,), _ = mixed(sources, [phase], 4000)
    short, long = (mixture.streams[i] for i in (1, 0))
    assert [leaf.longer_than for leaf in mixture.leaves] == [8, 0]
    assert {stream.num_tokens for stream in (short, long)} != {sum(lengths)}
    segments = mixture.segments(0, timeline.num_tokens)
    assert max(len(s.targets) for s in segments) == 64
    assert sum(len(s.targets) for s in segments if len(s.targets) > 8) >= 0.6 * 4000
    assert abs(sum(len(s.targets) for s in short.segments(0, 1000)) - 1000) == 0
    assert max(len(s.targets) for s in short.segments(0, 1000)) == 8
    assert min(lengths[s.source] for s in long.segments(0, 3000)) > 8


def test_a_source_without_long_documents_gives_short_ones_and_says_so() -> None:
    sources = sources_of([4] * 30, [4, 50] * 10)
    phase = {"share": 1.0, "sequence_length": 32, "short_share": 0.5, "short_length": 8}
    _, (mixture,), notes = mixed(sources, [phase], 100)
    assert any("no document of s0 is longer than 8" in note for note in notes)
    assert not any("s1" in note for note in notes)
    assert [(leaf.source, leaf.longer_than) for leaf in mixture.leaves] == [(0, 0), (1, 8), (1, 0)]


def test_a_source_of_weight_nought_is_left_out_of_a_phase() -> None:
    sources = sources_of([10] * 5, [10] * 5)
    phases = [{"share": 0.5, "weights": (1, 0)}, {"share": 0.5, "weights": (0, 1)}]
    _, (first, second), _ = mixed(sources, phases, 80)
    assert {segment.source < 5 for segment in first.segments(0, 40)} == {True}
    assert {segment.source < 5 for segment in second.segments(0, 40)} == {False}
    assert (first.tokens(40), second.tokens(40)) == ({0: 40}, {1: 40})


def test_text_that_is_repeated_too_often_is_reported() -> None:
    sources = sources_of([10] * 5, [10] * 100)
    _, _, notes = mixed(sources, [], 500, weights=(0.5, 0.5))
    assert [note.split(":")[0] for note in notes] == ["s0 is read 5.0 times"]
    _, _, quiet = mixed(sources, [], 380, weights=(0.5, 0.5))
    assert quiet == []
    rare = sources_of([10] * 5 + [40])
    _, _, notes = mixed(rare, [{"share": 1.0, "sequence_length": 40, "short_share": 0.1, "short_length": 20}], 200)
    assert any("long documents of s0 4.5 times" in note for note in notes)


@pytest.mark.parametrize("seed", [0, 1])
def test_adding_a_source_changes_nothing_in_the_order_of_the_others(seed: int) -> None:
    one, two = sources_of([3, 20, 9, 4, 8]), sources_of([3, 20, 9, 4, 8], [5] * 4)
    _, (alone,), _ = mixed(one, [], 40, seed)
    _, (beside,), _ = mixed(two, [], 40, seed)
    pair = zip(alone.streams[0].segments(0, 44), beside.streams[0].segments(0, 44), strict=True)
    assert all(a.targets.tolist() == b.targets.tolist() for a, b in pair)
