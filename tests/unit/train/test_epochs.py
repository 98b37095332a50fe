"""The order of examples: each once an epoch, in an order of its own, known for any step at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.train import epochs
from lianlu.train.epochs import Epochs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    capacity=st.integers(1, 40),
    seed=st.integers(0, 5),
    window=st.integers(1, 50),
)
def test_every_epoch_has_every_example_once_in_full_steps(lengths: list[int], capacity: int, seed: int, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "WINDOW", window)
        plan = Epochs(np.array(lengths, dtype=np.int32), capacity, seed)
        starts = [0, *(plan.steps_of(number) for number in (1, 2, 3))]
        steps = [plan.examples_at(step) for step in range(starts[-1])]
        again = Epochs(np.array(lengths, dtype=np.int32), capacity, seed)
        assert [again.examples_at(step) for step in reversed(range(starts[-1]))] == steps[::-1]
    for start, stop in itertools.pairwise(starts):
        assert sorted(index for step in steps[start:stop] for index in step) == list(range(len(lengths)))
    for chosen in steps:
        assert chosen
        assert len(chosen) == 1 or sum(lengths[index] for index in chosen) <= capacity


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = np.full(50, 3, dtype=np.int32)
    plan, other = Epochs(lengths, 3, 0), Epochs(lengths, 3, 1)
    orders = [[plan.examples_at(epoch * 50 + step) for step in range(50)] for epoch in range(2)]
    orders.append([other.examples_at(step) for step in range(50)])
    assert orders[0] != orders[1] != orders[2] != orders[0]
