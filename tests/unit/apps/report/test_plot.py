"""Curves as text: where dots and letters lie, and that any numbers can be drawn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.apps.report.plot import LABEL, plot, smoothed

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(st.tuples(st.floats(0, 1e6), NUMBERS), max_size=30)


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Places of the dots of the plot, x from the left, y from the bottom."""
    rows = [line[LABEL + 2 :] for line in lines[:-2]]
    found = set()
    for number, row in enumerate(rows):
        for column, letter in enumerate(row):
            bits = ord(letter) - 0x2800
            for x, masks in enumerate(((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))):
                for y, mask in enumerate(masks):
                    if 0 < bits < 256 and bits & mask:
                        found.add((2 * column + x, 4 * (len(rows) - number) - 1 - y))
    return found


def test_a_falling_line_goes_from_corner_to_corner() -> None:
    lines = plot([(0, 10), (100, 0)], {}, width=50, height=5)
    found = dots(lines)
    assert {(0, 19), (79, 0)} <= found
    assert all(abs(y - (19 - x * 19 / 79)) <= 1 for x, y in found)
    assert lines[0].startswith("      10 |")
    assert lines[4].startswith("       0 |")
    assert lines[-1].split() == ["0", "50", "100"]


def test_letters_lie_over_the_curve() -> None:
    lines = plot([(0, 0), (10, 10)], {"o": [(10, 5), (5, 20)], "x": [(5, math.inf), (0, math.nan)]}, width=50, height=5)
    assert lines[0].count("x") == 2
    assert lines[0].startswith("      20 |")
    assert lines[3].endswith("o")


def test_a_single_value_and_none_at_all() -> None:
    assert len(dots(plot([(3, 7)], {}))) == 1
    assert plot([], {}) == []
    assert plot([(1, math.nan)], {"o": []}) == []


@given(curve=POINTS, letters=POINTS, width=st.integers(1, 120), height=st.integers(1, 20))
def test_any_points_make_lines_that_fit(
    curve: list[tuple[float, float]], letters: list[tuple[float, float]], width: int, height: int
) -> None:
    lines = plot(curve, {"o": letters}, width, height)
    assert not lines or len(lines) == max(height, 3) + 2
    assert all(len(line) <= max(width, 38) for line in lines)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), parts=st.integers(1, 50))
def test_smoothing_keeps_the_range_and_the_order(values: list[float], parts: int) -> None:
    made = smoothed(list(enumerate(map(float, values))), parts)
    assert len(made) == min(parts, len(values))
    assert all(min(values) - 1e-6 <= y <= max(values) + 1e-6 for _, y in made)
    assert [x for x, _ in made] == sorted(x for x, _ in made)


def test_smoothing_leaves_out_what_is_no_number() -> None:
    assert smoothed([(0, 1.0), (1, math.nan), (2, 3.0)], 1) == [(1.0, 2.0)]


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 12345.6789, 1e12])
def test_values_on_the_axis_are_no_longer_than_their_column(scale: float) -> None:
    lines = plot([(0, -1.23456789 * scale), (1, 9.87654321 * scale)], {}, width=40)
    assert all(line[LABEL + 1] == "|" for line in lines[:-2])


@pytest.mark.parametrize("value", [-1.712e308, 1.7976931348623157e308, 5e-324])
def test_the_largest_and_the_smallest_number_can_be_drawn(value: float) -> None:
    assert len(plot([], {"o": [(0.0, value)]}, 1, 1)) == len(plot([], {"o": [(0.0, 1.0)]}, 1, 1))
