"""Curves as lines of text for a terminal: dots of braille characters, two by four a character, between two axes.

A pure function of its points. Curves are drawn as connected dots; points and marks are letters that lie above them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
BRAILLE = 0x2800
# bit of the dot in column x, row y of a character
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
LABEL = 8
LEAST_WIDTH, LEAST_HEIGHT = 28, 3


@dataclass(frozen=True)
class Range:
    """Where values lie; a single value gets some room around it."""

    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Range:
        """The range of finite values."""
        low, high = min(values), max(values)
        room = 0.0 if high > low else abs(low) * 0.05 or 1.0
        return Range(max(low - room, -sys.float_info.max), min(high + room, sys.float_info.max))

    def place(self, value: float, size: int) -> int:
        """The cell of `size` cells that a value falls into; what lies outside falls into the outermost."""
        value = min(max(value, self.low), self.high)
        # halves, so that the difference of the largest numbers is one
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2 or 1.0)
        return round(share * (size - 1))


class _Canvas:
    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._letters: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int) -> None:
        """A dot, y counted from the bottom."""
        y = 4 * self.height - 1 - y
        self._bits[y // 4][x // 2] |= DOTS[x % 2][y % 4]

    def line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Dots from one to the other, both included."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            x, y = (round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))
            self.dot(x, y)

    def letter(self, x: int, y: int, letter: str) -> None:
        """A letter over the dots at a dot's place."""
        self._letters[x // 2, self.height - 1 - y // 4] = letter

    def rows(self) -> list[str]:
        """The lines, from the top."""
        return [
            "".join(self._letters.get((x, y)) or (chr(BRAILLE | bits) if bits else " ") for x, bits in enumerate(row))
            for y, row in enumerate(self._bits)
        ]


def plot(curve: Points, letters: Mapping[str, Points], width: int = 72, height: int = 12) -> list[str]:
    """Lines of at most `width` characters: a curve, and points shown as letters, over axes with their values.

    Values of the curve that are no numbers are left out, letters without one lie at the top.
    """
    curve = [point for point in curve if all(map(math.isfinite, point))]
    shown = {letter: [p for p in points if math.isfinite(p[0])] for letter, points in letters.items()}
    steps = [x for points in (curve, *shown.values()) for x, _ in points]
    values = [y for points in (curve, *shown.values()) for _, y in points if math.isfinite(y)]
    if not steps or not values:
        return []
    x_range, y_range = Range.of(steps), Range.of(values)
    canvas = _Canvas(max(width - LABEL - 2, LEAST_WIDTH), max(height, LEAST_HEIGHT))
    columns, rows = 2 * canvas.width, 4 * canvas.height
    places = [(x_range.place(x, columns), y_range.place(y, rows)) for x, y in curve]
    for start, end in zip(places, places[1:] or places, strict=False):
        canvas.line(start, end)
    for letter, points in shown.items():
        for x, y in points:
            canvas.letter(x_range.place(x, columns), y_range.place(y, rows) if math.isfinite(y) else rows - 1, letter)
    return [*_with_values(canvas.rows(), y_range), *_steps(x_range, canvas.width)]


def smoothed(points: Points, parts: int) -> list[tuple[float, float]]:
    """At most `parts` points, each the mean of its share; what are no numbers are left out."""
    finite = [point for point in points if math.isfinite(point[1])]
    parts = min(parts, len(finite))
    shares = [finite[i * len(finite) // parts : (i + 1) * len(finite) // parts] for i in range(parts)]
    return [(sum(x for x, _ in share) / len(share), sum(y for _, y in share) / len(share)) for share in shares]


def _with_values(rows: Sequence[str], values: Range) -> list[str]:
    """The vertical axis: the value at the top, in the middle and at the bottom."""
    last = len(rows) - 1
    named = {0: values.high, last // 2: values.high - (values.high / last - values.low / last) * (last // 2), last: values.low}
    return [f"{_short(named[i]) if i in named else '':>{LABEL}} |{row}".rstrip() for i, row in enumerate(rows)]


def _steps(steps: Range, width: int) -> list[str]:
    """The horizontal axis: the first, the middle and the last step."""
    whole, middle = steps.high - steps.low > 10, (steps.low + steps.high) / 2
    first, between, last = (_short(round(step) if whole else step) for step in (steps.low, middle, steps.high))
    line = f"{first}{between:^{max(width - len(first) - len(last), len(between) + 2)}}{last}"
    return [" " * LABEL + " +" + "-" * width, " " * (LABEL + 2) + line]


def _short(value: float) -> str:
    """A value in at most LABEL characters."""
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    return next(text for digits in (4, 3, 2, 1) if len(text := f"{value:.{digits}g}") <= LABEL or digits == 1)
