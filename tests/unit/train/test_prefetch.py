"""One step ahead: in order, errors surface where the step is taken."""

from __future__ import annotations

import threading

import pytest

from lianlu.train.prefetch import Prefetch


def test_steps_come_in_order_and_the_next_one_is_made_meanwhile() -> None:
    made = threading.Semaphore(0)
    seen: list[int] = []

    def make(step: int) -> int:
        seen.append(step)
        made.release()
        return step * step

    with Prefetch(make, 4) as ahead:
        for step in range(4):
            assert ahead.take(step)[0] == step * step
        assert all(made.acquire(timeout=10) for _ in range(4))
    assert seen == [0, 1, 2, 3]


def test_a_step_out_of_order_is_made_anew() -> None:
    with Prefetch(lambda step: step, 10) as ahead:
        assert [ahead.take(step)[0] for step in (3, 7, 8)] == [3, 7, 8]


def test_an_error_comes_with_its_step() -> None:
    def make(step: int) -> int:
        if step == 1:
            raise ValueError("bad batch")
        return step

    with Prefetch(make, 4) as ahead:
        assert ahead.take(0)[0] == 0
        with pytest.raises(ValueError, match="bad batch"):
            ahead.take(1)
