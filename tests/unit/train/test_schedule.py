"""Learning rates by hand, and properties that hold for every schedule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.train.config import ConstantSchedule, CosineSchedule, Schedule, WsdSchedule
from lianlu.train.schedule import rate

SCHEDULES = [
    CosineSchedule(),
    CosineSchedule(warmup=0.9, final=0),
    WsdSchedule(),
    WsdSchedule(warmup=0, decay=1, final=0.5),
    WsdSchedule(warmup=0.5, decay=0.5),
    ConstantSchedule(),
    ConstantSchedule(warmup=1),
]


def test_cosine_by_hand() -> None:
    schedule = CosineSchedule(warmup=0.2, final=0.1)
    got = [rate(schedule, step, 10) for step in range(10)]
    assert got[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert got[6] == pytest.approx(0.1 + 0.9 * 0.5)
    assert got[9] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_wsd_by_hand() -> None:
    schedule = WsdSchedule(warmup=0.1, decay=0.4, final=0.0)
    got = [rate(schedule, step, 10) for step in range(10)]
    assert got == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_constant_stays() -> None:
    assert {rate(ConstantSchedule(warmup=0), step, 5) for step in range(5)} == {1.0}


def test_a_warm_up_of_all_steps_climbs_to_the_end() -> None:
    for schedule in (CosineSchedule(warmup=1), WsdSchedule(warmup=1, decay=0), ConstantSchedule(warmup=1)):
        assert [rate(schedule, step, 4) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_one_step_is_taken_at_the_highest_rate() -> None:
    for schedule in (CosineSchedule(), WsdSchedule(), ConstantSchedule(), CosineSchedule(warmup=0)):
        assert rate(schedule, 0, 1) == 1.0


def test_wsd_without_a_decay_stays() -> None:
    assert {rate(WsdSchedule(warmup=0, decay=0), step, 7) for step in range(7)} == {1.0}


def test_wsd_without_a_stable_phase_is_linear() -> None:
    got = [rate(WsdSchedule(warmup=0.2, decay=0.8), step, 10) for step in range(10)]
    assert got == pytest.approx([1 / 3, 2 / 3, *(k / 9 for k in range(8, 0, -1))])


def test_the_end_is_near_final() -> None:
    assert rate(CosineSchedule(final=0.1), 999, 1000) == pytest.approx(0.1, abs=1e-5)
    assert rate(WsdSchedule(final=0.1), 999, 1000) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(num_steps=st.integers(1, 300))
def test_always_learns_and_never_exceeds_the_highest_rate(schedule: Schedule, num_steps: int) -> None:
    rates = [rate(schedule, step, num_steps) for step in range(num_steps)]
    assert all(0 < value <= 1 for value in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
