"""Crop and pad rates, against packing documents one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.pack_rates import num_bins, pack_rates


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(30, 47))
def test_as_many_bins_as_one_by_one(lengths: list[int], capacity: int) -> None:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        room = min(fitting, default=capacity)
        if fitting:
            rooms.remove(room)
        rooms.append(room - length)
    assert num_bins(np.array(lengths, dtype=np.int64), capacity) == len(rooms)


def test_the_packing_of_training_needs_as_many() -> None:
    packing = pytest.importorskip("lianlu.train.packing")
    lengths = np.random.default_rng(1).integers(1, 2049, 3000)
    assert num_bins(lengths, 2048) == len(packing.best_fit(sorted(lengths.tolist(), reverse=True), 2048))


def test_rates_are_shares_of_documents_tokens_and_places() -> None:
    rates = pack_rates(np.array([12, 4, 4, 10]), 10)
    assert (rates.num_sequences, rates.cropped_documents) == (3, 0.25)
    assert rates.cropped_tokens == pytest.approx(2 / 30)
    assert rates.padded == pytest.approx(2 / 30)
    none = pack_rates(np.array([], dtype=np.int64), 10)
    assert (none.num_sequences, none.cropped_documents, none.cropped_tokens, none.padded) == (0, 0, 0, 0)
