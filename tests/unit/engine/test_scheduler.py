"""The scheduler: budgets are kept, the old come first, nobody starves, cancel is legal everywhere, no block is lost."""

from __future__ import annotations

import os
import random

import pytest

from lianlu.client.base import Sampling
from lianlu.engine.blocks import BlockPool
from lianlu.engine.scheduler import Chunk, Scheduler
from lianlu.engine.sequence import Request, Sequence, State

RANDOM_STEPS = int(os.environ.get("LIANLU_TEST_STEPS", "180000"))


def scheduler(blocks: int = 16, size: int = 4, tokens: int = 16, running: int = 4, cache: bool = True) -> Scheduler:
    return Scheduler(BlockPool(blocks, size), max_batch_tokens=tokens, max_running=running, prefix_cache=cache)


def sequence(number: int, prompt: list[int], new: int = 8) -> Sequence:
    return Sequence(number, Request(tuple(prompt), Sampling(max_tokens=new)), len(prompt) + new)


def distinct(number: int, length: int) -> list[int]:
    return [number * 1000 + index for index in range(length)]


def run(books: Scheduler, chunks: list[Chunk]) -> None:
    """Pretend to compute: append a made-up token, advance, end what is complete."""
    for chunk in chunks:
        if chunk.num_samples:
            chunk.sequence.tokens.append(7 + len(chunk.sequence.tokens))
        books.advance(chunk)
        if len(chunk.sequence.tokens) >= chunk.sequence.max_len:
            books.end(chunk.sequence, State.FINISHED)
    books.audit()


def spans(chunks: list[Chunk]) -> list[tuple[int, int, int]]:
    return [(chunk.sequence.id, chunk.start, chunk.end) for chunk in chunks]


def test_a_long_prompt_goes_in_chunks_that_end_with_blocks() -> None:
    books = scheduler(tokens=10)
    one = sequence(1, distinct(1, 23))
    books.add(one)
    seen = []
    while not (chunks := books.plan())[-1].num_samples:
        seen += spans(chunks)
        run(books, chunks)
    assert [*seen, *spans(chunks)] == [(1, 0, 8), (1, 8, 16), (1, 16, 23)]


def test_decoding_comes_first_and_prompts_share_what_is_left() -> None:
    books = scheduler(tokens=10, blocks=40)
    books.add(sequence(1, distinct(1, 3)))
    run(books, books.plan())
    books.add(sequence(2, distinct(2, 20)))
    books.add(sequence(3, distinct(3, 4)))
    chunks = books.plan()
    assert spans(chunks) == [(1, 3, 4), (2, 0, 8), (3, 0, 1)]
    run(books, chunks)
    assert spans(books.plan()) == [(1, 4, 5), (2, 8, 16), (3, 1, 2)]


def test_the_budget_is_never_exceeded_and_everybody_gets_done() -> None:
    books = scheduler(tokens=9, blocks=30)
    everybody = [sequence(number, distinct(number, 5 + number % 7)) for number in range(12)]
    for one in everybody:
        books.add(one)
    for _ in range(400):
        chunks = books.plan()
        assert sum(chunk.end - chunk.start for chunk in chunks) <= 9
        assert len(books.running) <= 4
        run(books, chunks)
    assert all(one.state is State.FINISHED for one in everybody)
    assert books.pool.num_used == 0


def test_a_known_beginning_is_not_computed_again() -> None:
    books = scheduler()
    prompt = distinct(1, 10)
    books.add(sequence(1, prompt))
    run(books, books.plan())
    books.add(again := sequence(2, prompt))
    assert spans(books.plan()) == [(1, 10, 11), (2, 8, 10)]
    assert again.num_cached == 8
    books.audit()


def test_at_least_one_token_is_computed() -> None:
    books = scheduler()
    prompt = distinct(1, 8)
    books.add(sequence(1, prompt, new=1))
    run(books, books.plan())
    books.add(sequence(2, prompt, new=1))
    assert spans(books.plan()) == [(2, 4, 8)]


def test_without_the_cache_everything_is_computed() -> None:
    books = scheduler(cache=False)
    prompt = distinct(1, 10)
    for number in (1, 2):
        books.add(sequence(number, prompt, new=1))
        chunks = books.plan()
        assert spans(chunks) == [(number, 0, 10)]
        run(books, chunks)
    assert books.pool.num_cached == 0


def test_sequences_with_different_roots_share_nothing() -> None:
    books = scheduler()
    prompt = distinct(1, 10)
    for number in (1, 2):
        books.add(Sequence(number, Request(tuple(prompt), Sampling(max_tokens=1)), 11, root=bytes([number])))
        chunks = books.plan()
        assert spans(chunks) == [(number, 0, 10)]
        run(books, chunks)


def test_who_wants_the_same_beginning_waits_for_the_first_to_compute_it() -> None:
    books = scheduler(tokens=32, blocks=40)
    common = distinct(1, 12)
    for number in range(1, 4):
        books.add(sequence(number, common + distinct(number, 3)))
    books.add(sequence(9, distinct(9, 5)))
    chunks = books.plan()
    assert spans(chunks) == [(1, 0, 15), (9, 0, 5)]
    run(books, chunks)
    assert spans(books.plan()) == [(1, 15, 16), (9, 5, 6), (2, 12, 15), (3, 12, 15)]


def test_when_the_first_is_cancelled_another_one_computes_the_beginning() -> None:
    books = scheduler(tokens=8)
    common = distinct(1, 16)
    first, second = sequence(1, common), sequence(2, common)
    books.add(first)
    books.add(second)
    run(books, books.plan())
    assert spans(books.plan()) == [(1, 8, 16)]
    books.end(first, State.CANCELLED)
    assert spans(books.plan()) == [(2, 8, 16)]


def test_the_newest_gives_way_and_comes_back_to_where_it_was() -> None:
    books = scheduler(blocks=6, size=2, tokens=12)
    old, new = sequence(1, distinct(1, 4), new=8), sequence(2, distinct(2, 4), new=8)
    books.add(old)
    books.add(new)
    seen = []
    while new.num_preempted == 0:
        chunks = books.plan()
        if new.num_preempted == 0:
            run(books, chunks)
    assert new.state is State.PREEMPTED
    assert not new.blocks
    assert new.num_computed == 0
    known = len(new.tokens)
    assert known > 4
    run(books, chunks)
    while new.state is State.PREEMPTED:
        chunks = books.plan()
        seen += [chunk for chunk in chunks if chunk.sequence is new]
        run(books, chunks)
    assert old.state is State.FINISHED or old.is_live
    assert seen[0].end == known
    assert seen[0].num_samples


def test_expelled_blocks_are_handed_back_for_wiping() -> None:
    books = scheduler()
    one = sequence(1, distinct(1, 10))
    books.add(one)
    run(books, books.plan())
    assert sorted(books.expel(one)) == [0, 1, 2]
    assert one.state is State.FAILED
    assert books.pool.num_free == books.pool.num_blocks
    books.audit()


@pytest.mark.parametrize("stage", ["queued", "half", "decoding"])
def test_cancel_is_legal_in_every_live_state(stage: str) -> None:
    books = scheduler(tokens=8)
    one = sequence(1, distinct(1, 20))
    books.add(one)
    for _ in range({"queued": 0, "half": 1, "decoding": 4}[stage]):
        run(books, books.plan())
    books.end(one, State.CANCELLED)
    assert books.pool.num_used == 0
    assert books.plan() == []
    books.audit()
    with pytest.raises(AssertionError):
        one.to(State.RUNNING)


class Churn:
    """Requests that come, share beginnings, are cancelled, fail and finish at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.books = scheduler(blocks=24, size=4, tokens=20, running=8)
        self.live: list[Sequence] = []
        self.beginnings = [distinct(number, 24) for number in range(3)]
        self.num_changes = 0
        self.ended = {State.FINISHED: 0, State.CANCELLED: 0, State.FAILED: 0}

    def come(self, step: int) -> None:
        rng = self.rng
        prompt = rng.choice(self.beginnings)[: rng.randrange(1, 24)] + distinct(step, rng.randrange(0, 20))
        self.live.append(sequence(step, prompt, new=rng.randrange(1, 40)))
        self.books.add(self.live[-1])
        self.num_changes += 1

    def go(self) -> None:
        one = self.rng.choice(self.live)
        if self.rng.random() < 0.2:
            self.books.expel(one)
        else:
            self.books.end(one, State.CANCELLED)
        self.num_changes += 1
        self.forget_ended()

    def compute(self) -> None:
        """A step with proposals of which some come true."""
        for one in self.books.running:
            if one.num_pending == 1 and self.rng.random() < 0.3:
                count = self.books.reserve(one, min(self.rng.randrange(1, 6), one.max_len - len(one.tokens) - 1))
                one.drafts = [self.rng.randrange(3) for _ in range(count)]
        for chunk in self.books.plan():
            one = chunk.sequence
            if chunk.num_samples:
                one.tokens += [*one.drafts[: self.rng.randrange(chunk.num_samples)], self.rng.randrange(3)]
            self.books.advance(chunk)
            if len(one.tokens) >= one.max_len:
                self.books.end(one, State.FINISHED)
        self.forget_ended()

    def forget_ended(self) -> None:
        for one in self.live:
            if not one.is_live:
                self.ended[one.state] += 1
        self.live = [one for one in self.live if one.is_live]


def test_random_submit_and_cancel_loses_no_block() -> None:
    """A hundred thousand submissions, cancels and failures; `LIANLU_TEST_STEPS=4000` runs a short version."""
    churn = Churn(seed=5)
    for step in range(RANDOM_STEPS):
        if churn.rng.random() < 0.7 and len(churn.live) < 40:
            churn.come(step)
        if churn.live and churn.rng.random() < 0.3:
            churn.go()
        churn.compute()
        if step % 8 == 0:
            churn.books.audit()
    while churn.live:
        churn.go()
    churn.books.audit()
    assert churn.books.pool.num_used == 0
    assert churn.books.num_preempted > 0
    assert min(churn.ended.values()) > 0
    assert churn.num_changes > RANDOM_STEPS * 5 / 9
