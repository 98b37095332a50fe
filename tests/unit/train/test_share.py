"""Dealing examples out: nothing lost, nothing twice, the same number of micro-batches for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lianlu.train.share import deal


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 5), st.integers(1, 40))
def test_every_example_goes_to_one_process_once(sizes: list[int], num_ranks: int, max_tokens: int) -> None:
    shares = deal(sizes, num_ranks, max_tokens)
    assert sorted(index for share in shares for part in share for index in part) == list(range(len(sizes)))
    assert len(shares) == num_ranks
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        for part in share:
            assert len(part) <= 1 or sum(sizes[index] for index in part) <= max_tokens


@given(st.lists(st.integers(1, 8), min_size=64, max_size=128), st.integers(2, 4))
def test_processes_get_about_as_much(sizes: list[int], num_ranks: int) -> None:
    loads = [sum(sizes[index] for part in share for index in part) for share in deal(sizes, num_ranks, 1000)]
    assert max(loads) - min(loads) <= 2 * 8 + sum(sizes) // (4 * num_ranks)


def test_a_step_smaller_than_the_limit_is_still_divided() -> None:
    assert all(part for share in deal([10] * 8, 4, 1000) for part in share)
