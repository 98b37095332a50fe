"""Curves of metrics.jsonl, read back and drawn as SVG for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea")
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 220, 48, 28


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file in order; a half-written last line is left out. Empty if there is no file."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of one figure. A step met again after a resume counts once, with its last value."""
    found = {float(row["step"]): float(row[name]) for row in rows if "step" in row and isinstance(row.get(name), int | float)}
    return sorted(found.items())


def line_chart(
    lines: Mapping[str, Points],
    x_label: str,
    marks: Mapping[str, float] | None = None,
    edges: Mapping[str, float] | None = None,
) -> str:
    """An SVG line chart; `marks` are named horizontal lines, for baselines, `edges` vertical ones with a tip."""
    drawn = {name: [point for point in points if math.isfinite(point[1])] for name, points in lines.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    marks = marks or {}
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points] + list(marks.values())
    x_range, y_range = (min(xs), max(xs)), (min(ys), max(ys))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img" aria-label="{escape(", ".join(drawn))}">']
    parts += _axes(x_range, y_range, x_label)
    for index, (name, value) in enumerate(marks.items()):
        y = _place(value, y_range, HEIGHT - BOTTOM, 8)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" class="mark"/>')
        parts.append(f'<text x="{WIDTH - 10 - 130 * index}" y="{y - 3:.1f}" class="end">{escape(name)} {value:.3f}</text>')
    for name, value in (edges or {}).items():
        x = _place(min(max(value, x_range[0]), x_range[1]), x_range, LEFT, WIDTH - 8)
        tip = f"<title>{escape(name)}</title>"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{HEIGHT - BOTTOM}" class="mark">{tip}</line>')
    for index, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(
            f"{_place(x, x_range, LEFT, WIDTH - 8):.1f},{_place(y, y_range, HEIGHT - BOTTOM, 8):.1f}" for x, y in points
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{LEFT + 8}" y="{20 + 14 * index}" fill="{colour}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _place(value: float, bounds: tuple[float, float], start: float, end: float) -> float:
    low, high = bounds
    return start + (value - low) / ((high - low) or 1.0) * (end - start)


def _axes(x_range: tuple[float, float], y_range: tuple[float, float], x_label: str) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} 8V{base}H{WIDTH - 8}" class="axis"/>']
    for share in (0.0, 0.5, 1.0):
        value = y_range[0] + share * (y_range[1] - y_range[0])
        y = base + share * (8 - base)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{value:.4g}</text>')
        value = x_range[0] + share * (x_range[1] - x_range[0])
        anchor = ("start", "middle", "end")[round(share * 2)]
        x = LEFT + share * (WIDTH - 8 - LEFT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{value:.4g}</text>')
    return [*parts, f'<text x="{WIDTH / 2}" y="{HEIGHT - 1}" text-anchor="middle">{escape(x_label)}</text>']
