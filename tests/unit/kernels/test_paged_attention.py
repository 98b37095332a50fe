"""Attention over blocks: right against dense attention, and the same to the bit however the work is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lianlu.kernels import paged_attention as paged

SHAPES = [(2, 1, 16), (1, 4, 16), (3, 3, 64), (2, 7, 32)]
LENGTH = 300
BLOCK = 8
NUM_BLOCKS = 60


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Case:
    """One sequence, dense and in scattered blocks."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        groups, per_group, head_dim = shape
        generator = torch.Generator().manual_seed(1)
        self.q = torch.randn(LENGTH, groups * per_group, head_dim, generator=generator).to(dtype)
        self.k, self.v = (torch.randn(LENGTH, groups, head_dim, generator=generator).to(dtype) for _ in range(2))
        self.table = torch.randperm(NUM_BLOCKS, generator=generator)[: -(-LENGTH // BLOCK)].tolist()
        self.layout = paged.Layout(NUM_BLOCKS + 1, BLOCK, per_group)
        self.cache = torch.zeros(2, NUM_BLOCKS + 1, BLOCK, groups, head_dim, dtype=dtype)
        for position in range(LENGTH):
            block, place = self.table[position // BLOCK], position % BLOCK
            self.cache[0, block, place], self.cache[1, block, place] = self.k[position], self.v[position]

    def chunk(self, begin: int, end: int, extra: int = 0) -> Tensor:
        size = paged.round_up(end, paged.KEYS) + extra
        k, v = (torch.zeros(size, *x.shape[1:], dtype=x.dtype) for x in (self.k, self.v))
        k[:end], v[:end] = self.k[:end], self.v[:end]
        return paged.chunk_attention(self.q[begin:end], k, v, end)

    def decode(self, ends: list[int], counts: list[int] | None = None) -> Tensor:
        """Attention of the last rows before each end, ends in falling order."""
        counts = counts or [1] * len(ends)
        tables = [self.table[: -(-end // BLOCK)] for end in ends]
        rows = torch.cat([torch.arange(end - count, end) for end, count in zip(ends, counts, strict=True)])
        plan = paged.plan_decode(tables, ends, counts, self.layout, self.cache)
        return paged.paged_decode(self.q[rows], self.read, plan)

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.cache.flatten(0, 1)[rows].view(2, -1, *self.cache.shape[3:])
        return k, v

    def dense(self) -> Tensor:
        """The plainest causal attention, in fp64."""
        per_group = self.q.shape[1] // self.k.shape[1]
        q, k, v = self.q.double(), *(x.double().repeat_interleave(per_group, 1) for x in (self.k, self.v))
        scores = torch.einsum("qhk,shk->hqs", q, k) / q.shape[-1] ** 0.5
        scores.masked_fill_(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
        return torch.einsum("hqs,shk->qhk", scores.softmax(-1), v)


CASES = {(shape, dtype): Case(shape, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16)}


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_a_whole_prompt_is_causal_attention(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    case = CASES[shape, dtype]
    error = (case.chunk(0, LENGTH).double() - case.dense()).abs().max().item()
    assert error < (2e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize(("shape", "dtype"), CASES)
@pytest.mark.parametrize("step", [1, 3, 37, 128])
def test_chunks_give_the_bits_of_the_whole(shape: tuple[int, int, int], dtype: torch.dtype, step: int) -> None:
    case = CASES[shape, dtype]
    cut = [*range(0, LENGTH, step), LENGTH]
    assert torch.equal(torch.cat([case.chunk(*span) for span in pairwise(cut)]), case.chunk(0, LENGTH))


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_what_lies_behind_the_last_key_does_not_matter(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    case = CASES[shape, dtype]
    assert torch.equal(case.chunk(5, 100, extra=64), case.chunk(5, 100))


RUNS = st.lists(st.tuples(st.integers(1, LENGTH), st.integers(1, 11) | st.integers(1, 32)), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CASES, key=str)), RUNS)
def test_decoding_gives_the_bits_of_the_prompt(
    which: tuple[tuple[int, int, int], torch.dtype], runs: list[tuple[int, int]]
) -> None:
    case = CASES[which]
    runs = sorted(((end, min(count, end)) for end, count in runs), reverse=True)
    whole = case.chunk(0, LENGTH)
    expected = torch.cat([whole[end - count : end] for end, count in runs])
    assert torch.equal(case.decode([end for end, _ in runs], [count for _, count in runs]), expected)


@pytest.mark.parametrize("piece", [1, 2])
def test_keys_that_are_read_in_pieces_give_the_same_bits(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[SHAPES[2], torch.float32]
    whole, ends, counts = case.chunk(0, LENGTH), [LENGTH, 299, 131, 20], [1, 7, 9, 3]
    decoded = case.decode(ends, counts)
    monkeypatch.setattr(paged, "PIECE", piece)
    assert torch.equal(case.decode(ends, counts), decoded)
    size = piece * paged.SPLIT
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 0, 0, paged.KEYS)).split(size) for x in (case.k, case.v)]
    assert torch.equal(paged.prompt_attention(case.q, zip(*padded, strict=True), LENGTH), whole)


def test_a_split_that_outweighs_the_first_by_far_is_finite() -> None:
    q, k = torch.full((300, 2, 16), 60.0), torch.zeros(320, 1, 16)
    k[200:] = 60.0
    o = paged.chunk_attention(q, k, torch.ones(320, 1, 16), 300)
    assert torch.allclose(o, torch.ones_like(o))


def test_sequences_do_not_see_each_other() -> None:
    alone = CASES[SHAPES[2], torch.float32].decode([201], [3])
    poisoned = Case(SHAPES[2], torch.float32)
    poisoned.cache[:, [block for block in range(NUM_BLOCKS) if block not in poisoned.table[:26]]] = torch.nan
    both = poisoned.decode([291, 201], [2, 3])
    assert torch.equal(both[2:], alone)
    assert both[:2].isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fast_twin_is_the_reference(shape: tuple[int, int, int]) -> None:
    groups, rows, head_dim = shape[0], 8, shape[2]
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(2, groups, rows, head_dim, generator=generator)
    k, v = (torch.randn(2, groups, 32, head_dim, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 1, rows, 32).masked_fill_(torch.rand(2, 1, rows, 32, generator=generator) < 0.5, -torch.inf)
    mask[..., 0] = 0
    for some in (None, mask):
        for fast, plain in zip(paged.partial_flash(q, k, v, some), paged.partial_reference(q, k, v, some), strict=True):
            assert torch.allclose(fast, plain, atol=2e-6)


def test_the_reference_alone_gives_the_same_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[SHAPES[3], torch.float32]
    expected = case.chunk(0, LENGTH)
    monkeypatch.setattr(paged, "partial", paged.partial_reference)
    assert torch.allclose(case.chunk(0, LENGTH), expected, atol=2e-6)
    assert torch.allclose(case.decode([300, 131, 6]), expected[[299, 130, 5]], atol=2e-6)
