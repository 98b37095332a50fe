"""Blocks: nothing is lost, nothing is given twice, equal beginnings are found, the oldest goes first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lianlu.engine.blocks import BlockPool, chain


def digests(count: int, seed: int = 0) -> list[bytes]:
    found: list[bytes] = []
    for index in range(count):
        found.append(chain(found[-1] if found else b"", [seed, index]))
    return found


def hold_published(pool: BlockPool, names: Sequence[bytes]) -> list[int]:
    blocks = pool.take(len(names))
    assert blocks is not None
    for block, name in zip(blocks, names, strict=True):
        pool.publish(block, name)
    return blocks


def test_chain_depends_on_parent_and_tokens() -> None:
    first = chain(b"", [1, 2])
    assert first == chain(b"", [1, 2])
    assert len({first, chain(b"", [2, 1]), chain(b"x", [1, 2]), chain(first, [1, 2])}) == 4
    assert len(first) == 16


def test_new_blocks_come_in_ascending_order() -> None:
    assert BlockPool(5, 4).take(4) == [0, 1, 2, 3]


def test_take_is_all_or_nothing() -> None:
    pool = BlockPool(4, 2)
    assert pool.take(5) is None
    assert pool.take(3, reserve=2) is None
    assert pool.num_free == 4
    names = digests(2)
    pool.release(hold_published(pool, names))
    shared = pool.match(names)
    assert pool.take(3, shared) is None
    assert (pool.num_cached, pool.num_free, pool.num_used) == (2, 2, 0)
    assert pool.take(2, shared) == [*shared, *pool_rest(pool, shared)]


def pool_rest(pool: BlockPool, shared: Sequence[int]) -> list[int]:
    return sorted(set(range(pool.num_blocks)) - set(shared))


def test_a_published_block_is_found_while_held_and_after() -> None:
    pool = BlockPool(4, 2)
    names = digests(3)
    blocks = hold_published(pool, names)
    assert pool.match(names) == blocks
    pool.release(blocks)
    assert pool.match(names) == blocks
    assert pool.match([names[1]]) == [blocks[1]]
    assert pool.match([*names[:2], b"other"]) == blocks[:2]
    pool.audit([])


def test_the_end_of_the_oldest_sequence_goes_first() -> None:
    pool = BlockPool(4, 2)
    old, new = digests(2, seed=1), digests(2, seed=2)
    old_blocks = hold_published(pool, old)
    new_blocks = hold_published(pool, new)
    pool.release(old_blocks)
    pool.release(new_blocks)
    assert pool.take(1) == [old_blocks[1]]
    assert pool.match(old) == old_blocks[:1]
    assert pool.take(1) == [old_blocks[0]]
    assert pool.match(old) == []
    assert pool.match(new) == new_blocks


def test_free_blocks_are_used_before_cached_ones() -> None:
    pool = BlockPool(3, 2)
    names = digests(1)
    pool.release(hold_published(pool, names))
    assert pool.take(2) == [1, 2]
    assert pool.match(names) == [0]


def test_shared_blocks_are_held_until_the_last_holder_is_gone() -> None:
    pool = BlockPool(4, 2)
    names = digests(2)
    first = hold_published(pool, names)
    second = pool.take(1, first)
    assert second is not None
    pool.release(first)
    assert pool.num_used == 3
    pool.audit([second])
    pool.release(second)
    assert pool.num_used == 0


def test_equal_blocks_computed_twice_do_no_harm() -> None:
    pool = BlockPool(4, 2)
    names = digests(1)
    first, second = hold_published(pool, names), hold_published(pool, names)
    assert pool.match(names) == first
    pool.release(second)
    assert (pool.num_free, pool.num_cached) == (3, 0)
    pool.release(first)
    assert (pool.num_free, pool.num_cached) == (3, 1)
    pool.audit([])


def test_discarded_blocks_are_not_found_and_shared_ones_are_not_wiped() -> None:
    pool = BlockPool(4, 2)
    names = digests(2)
    first = hold_published(pool, names)
    second = pool.take(1, first[:1])
    assert second is not None
    assert pool.discard(first) == [first[1]]
    assert pool.match(names) == []
    assert pool.discard(second) == [second[1], first[0]]
    assert pool.num_free == 4
    pool.audit([])


def test_clear_cache_keeps_what_is_held() -> None:
    pool = BlockPool(4, 2)
    held = hold_published(pool, digests(1, seed=1))
    pool.release(hold_published(pool, digests(2, seed=2)))
    pool.clear_cache()
    assert (pool.num_free, pool.num_cached, pool.num_used) == (3, 0, 1)
    assert pool.match(digests(1, seed=1)) == []
    pool.audit([held])


def test_giving_back_twice_is_noticed() -> None:
    pool = BlockPool(2, 2)
    blocks = pool.take(1)
    assert blocks is not None
    pool.release(blocks)
    with pytest.raises(AssertionError):
        pool.release(blocks)


def test_the_audit_notices_a_lost_block() -> None:
    pool = BlockPool(3, 2)
    blocks = pool.take(2)
    assert blocks is not None
    pool.audit([blocks])
    with pytest.raises(AssertionError):
        pool.audit([blocks[:1]])
    with pytest.raises(AssertionError):
        pool.audit([blocks, blocks])


class Books(RuleBasedStateMachine):
    """Random taking, publishing, releasing and discarding against a list of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(7, 2)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, 4), seed=st.integers(0, 2), length=st.integers(0, 4), reserve=st.integers(0, 2))
    def take(self, count: int, seed: int, length: int, reserve: int) -> None:
        names = digests(length, seed)
        shared = self.pool.match(names)
        before = self.pool.num_available
        blocks = self.pool.take(count, shared, reserve)
        if blocks is None:
            assert self.pool.num_available == before
            return
        assert blocks[: len(shared)] == shared
        assert len(set(blocks)) == len(blocks) == len(shared) + count
        self.tables.append(blocks)
        for block, name in zip(blocks, names, strict=False):
            self.pool.publish(block, name)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 100), worthless=st.booleans())
    def give_back(self, which: int, worthless: bool) -> None:
        blocks = self.tables.pop(which % len(self.tables))
        if worthless:
            held = {block for table in self.tables for block in table}
            assert set(self.pool.discard(blocks)) == set(blocks) - held
        else:
            self.pool.release(blocks)

    @rule()
    def clear(self) -> None:
        self.pool.clear_cache()

    @invariant()
    def books_are_right(self) -> None:
        self.pool.audit(self.tables)
        assert self.pool.num_free + self.pool.num_used + self.pool.num_cached == self.pool.num_blocks


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.integers(0, 1000), st.integers(1, 64))
def test_blocks_for_is_enough_and_no_more(num_tokens: int, size: int) -> None:
    count = BlockPool(1, size).blocks_for(num_tokens)
    assert (count - 1) * size < num_tokens <= count * size or num_tokens == count == 0
