"""The runner: memory that is taken only when it is used, logits for the rows that sample, blocks that can be wiped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.engine.runner import Runner, _in_rows, kv_bytes_per_token
from lianlu.engine.scheduler import Chunk
from lianlu.engine.sequence import Request, Sequence
from lianlu.kernels.attention import PackedCausal


def sequence(prompt: Iterable[int], blocks: list[int]) -> Sequence:
    made = Sequence(0, Request(tuple(prompt)), 100)
    made.blocks = blocks
    return made


def dense(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))[-1]


def test_logits_come_in_the_order_of_the_chunks_that_sample(lab: Any) -> None:
    runner = Runner(lab.model, num_blocks=12, block_size=8, max_batch_tokens=64)
    long, short, unfinished = sequence(range(1, 20), [7, 2, 5]), sequence(range(30, 33), [0]), sequence(range(40, 60), [9, 10, 3])
    logits = runner.step([Chunk(long, 0, 19, True), Chunk(unfinished, 0, 16, False), Chunk(short, 0, 3, True)])
    assert logits.shape == (2, lab.vocab)
    assert torch.allclose(logits[0], dense(lab.model, list(range(1, 20))), atol=1e-5)
    assert torch.allclose(logits[1], dense(lab.model, [30, 31, 32]), atol=1e-5)
    short.tokens.append(33)
    both = runner.step([Chunk(unfinished, 16, 20, True), Chunk(short, 3, 4, True)])
    assert torch.allclose(both[0], dense(lab.model, list(range(40, 60))), atol=1e-5)
    assert torch.allclose(both[1], dense(lab.model, [30, 31, 32, 33]), atol=1e-5)


def test_a_step_without_a_last_token_computes_no_logits(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(lab.model, num_blocks=4, block_size=8, max_batch_tokens=64)
    monkeypatch.setattr(lab.model, "head", None)
    assert runner.step([Chunk(sequence(range(1, 20), [0, 1, 2]), 0, 8, False)]).shape == (0, lab.vocab)


def test_wiping_touches_the_named_blocks_only(lab: Any) -> None:
    runner = Runner(lab.model, num_blocks=4, block_size=8, max_batch_tokens=64)
    runner.step([Chunk(sequence(range(1, 25), [0, 1, 2]), 0, 24, True)])
    runner.wipe([1])
    filled = [bool(block.any()) for block in runner.export(range(4))]
    assert filled == [True, False, True, False]
    runner.clear()
    assert not runner.export(range(4)).any()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads the memory of the process from Linux")
def test_memory_is_taken_when_it_is_used(lab: Any) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    per_token = kv_bytes_per_token(lab.model)
    assert per_token == 2 * 2 * 2 * 8 * 4
    before = resident_bytes()
    runner = Runner(lab.model, num_blocks=1_000_000_000 // per_token // 32, block_size=32, max_batch_tokens=64)
    assert sum(pool.num_bytes for pool in runner.pools) > 900_000_000
    assert resident_bytes() - before < 50_000_000


def decoding(number: int, size: int, drafts: int) -> Sequence:
    """A sequence of which all but the last token are computed, with some proposed ones."""
    made = sequence([(number + i) % 60 + 1 for i in range(size)], list(range(8 * number, 8 * number + 8)))
    made.drafts = [(5 * number + place) % 60 + 1 for place in range(drafts)]
    return made


@pytest.mark.parametrize("kv", ["auto", "int4"])
def test_proposed_tokens_are_computed_as_if_they_were_known(lab: Any, kv: Any) -> None:
    """Sequences with none to ten proposed tokens in one step: the bits of a long prompt that has them."""
    sizes = [(number, 20 + 13 * number % 34, number % 11) for number in range(14)]
    runner, other = (Runner(lab.model, num_blocks=120, block_size=8, max_batch_tokens=1024, kv=kv) for _ in range(2))
    some = [decoding(*each) for each in sizes]
    runner.step([Chunk(each, 0, len(each.tokens) - 1, 0) for each in some])
    ends = [len(each.tokens) + len(each.drafts) for each in some]
    found = runner.step(
        [Chunk(each, len(each.tokens) - 1, end, len(each.drafts) + 1) for each, end in zip(some, ends, strict=True)]
    )
    row = 0
    for each, end in zip(some, ends, strict=True):
        alone = other.step([Chunk(each, 0, end, len(each.drafts) + 1)])
        assert torch.equal(found[row : row + len(alone)], alone)
        row += len(alone)
    assert row == len(found)


def test_short_chunks_are_attended_to_together(lab: Any) -> None:
    """Python's work in a layer depends on the number of sizes, not of sequences."""
    runner = Runner(lab.model, num_blocks=240, block_size=8, max_batch_tokens=1024)
    many = [decoding(number, 20, (0, 1, 3, 4, 7)[number % 5]) for number in range(30)]
    chunks = [Chunk(each, 19, 20 + len(each.drafts), 1) for each in many]
    spans = runner._spans(_in_rows(chunks))
    assert [span.end - span.begin for span in spans] == [6, 12, 24, 6 * 5 + 6 * 8]
    assert all(span.plan is not None for span in spans)


def test_a_second_runner_has_blocks_of_its_own_under_the_same_numbers(lab: Any) -> None:
    one, other = (Runner(lab.model, num_blocks=4, block_size=8, max_batch_tokens=64) for _ in range(2))
    one.step([Chunk(sequence(range(1, 25), [0, 1, 2]), 0, 24, 1)])
    assert not other.export(range(4)).any()
    other.load([3, 1], one.export([0, 2]))
    assert torch.equal(other.export([3, 1]), one.export([0, 2]))
    assert not other.export([0, 2]).any()
    assert one.block_bytes == 8 * kv_bytes_per_token(lab.model)
