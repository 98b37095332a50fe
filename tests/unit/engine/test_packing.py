"""How inputs are packed: groups in order, common beginnings found."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lianlu.engine.packing import Group, common, cuts

ids = st.lists(st.integers(0, 2), max_size=6)


@given(ids, ids)
def test_common_beginning(one: list[int], other: list[int]) -> None:
    found = common(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64))
    assert one[:found] == other[:found]
    assert found == min(len(one), len(other)) or one[found] != other[found]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=20), st.integers(1, 12), st.integers(1, 4))
def test_cuts_keep_the_order_and_their_size(inputs: list[list[int]], max_tokens: int, max_inputs: int) -> None:
    found = list(cuts(inputs, max_tokens, max_inputs))
    assert [one for part in found for one in inputs[part]] == inputs
    for part in found:
        group = inputs[part]
        assert 1 <= len(group) <= max_inputs
        shared = sum(common(np.array(ids), np.array(before)) for before, ids in pairwise(group))
        new = sum(map(len, group)) - shared
        assert len(group) == 1 or new <= max_tokens


def test_a_group_knows_the_rows_of_each_input() -> None:
    group = Group()
    for one in (range(1, 21), [*range(1, 11), 40, 41], range(1, 11), [7]):
        group.add(np.array(one))
    assert [[group.ids[row] for row in rows] for rows in group.rows_of] == [
        list(range(1, 21)),
        [*range(1, 11), 40, 41],
        list(range(1, 11)),
        [7],
    ]
    assert len(group.ids) == 20 + 2 + 1
