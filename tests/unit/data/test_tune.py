"""Thresholds moved by looking at what is near them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.scores.decide import is_broken
from lianlu.data.tune import moved

ANSWERS = st.lists(st.tuples(st.integers(0, 30).map(float), st.booleans()), max_size=12)


def wrong(rule: str, limit: float, answers: list[tuple[float, bool]]) -> int:
    return sum(bool(is_broken(rule, value, limit)) == worth for value, worth in answers)


@given(ANSWERS, st.sampled_from(["f.min_x", "f.max_x"]), st.floats(0, 30))
def test_no_threshold_agrees_with_more_answers(answers: list[tuple[float, bool]], rule: str, threshold: float) -> None:
    best = wrong(rule, moved(rule, threshold, answers), answers)
    assert best <= min(wrong(rule, limit / 2, answers) for limit in range(-3, 65))


def test_a_threshold_that_is_right_stays() -> None:
    assert moved("f.min_x", 10, [(8.0, False), (9.0, False), (11.0, True)]) == 10
    assert moved("f.max_x", 10, []) == 10


def test_a_threshold_goes_between_what_is_kept_and_what_is_not() -> None:
    assert moved("f.min_x", 50, [(20.0, False), (40.0, True), (60.0, True)]) == 30
    assert moved("f.max_x", 0.5, [(0.4, True), (0.6, True), (0.8, False)]) == 0.7
