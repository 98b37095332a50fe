"""The only place that prints.

Messages and progress go to stderr, results (`out`, `table`) to stdout. On a terminal, progress is one live line with
bar, rate, time left and the latest figures; elsewhere it is a plain line every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from lianlu.core import processes

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
PLAIN_INTERVAL_S = 5.0
DAY_S, YEAR_S = 86_400, 31_557_600


def hush() -> None:
    """Print nothing from now on but errors: of several processes only the main one speaks."""
    _out.quiet = _err.quiet = True


def out(text: str = "") -> None:
    """Print a result to stdout, as it is."""
    _out.print(text, markup=False)


def out_raw(text: str) -> None:
    """Write to stdout without a line end and at once (streamed replies)."""
    if _out.quiet:
        return
    sys.stdout.write(text)
    sys.stdout.flush()


def info(text: str) -> None:
    """Tell what is going on, on stderr."""
    _err.print(text, markup=False)


def log(text: str) -> None:
    """Tell it on stderr as a plain line, at a fiftieth of the cost of `info`; for lines that come with every request."""
    sys.stderr.write(text + "\n")


def warn(text: str) -> None:
    """Tell what may be wrong, on stderr."""
    _err.print(f"[yellow]warning:[/] {escape(text)}")


def error(message: str, hint: str = "") -> None:
    """Print an error and what to do about it, on stderr."""
    if _err.quiet:
        _err.quiet, message = False, f"process {processes.rank()}: {message}"
    _err.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        _err.print(f"[bold]hint:[/]  {escape(hint)}")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table to stdout; a column whose cells are all numbers is set flush right."""
    shown = Table(*(), title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(format_value(cell)) for cell in row))
    _out.print(shown, soft_wrap=False)


def is_terminal() -> bool:
    """Whether progress is shown live."""
    return _err.is_terminal and not _err.quiet


def format_value(value: Any) -> str:
    """A value for people: four significant digits for floats, thousands separators for integers."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def format_bytes(count: float) -> str:
    """Bytes for people: 512 B, 3.4 KB, 1.2 GB (powers of 1000)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """A duration for people: 0.4 s, 12 s, 3:05, 1:02:03, 12.5 days, 4.2 years."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds >= 3 * DAY_S:
        return f"{seconds / DAY_S:.1f} days" if seconds < YEAR_S else f"{seconds / YEAR_S:,.1f} years"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Bar:
    """A running piece of work: call `advance` as it goes, with the latest figures (loss=2.31, ...)."""

    def __init__(self, label: str, total: float | None, unit: str, done: float = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.figures: dict[str, Any] = {}
        self._begin = done
        self._started = time.monotonic()
        self._printed = self._started
        self._live: Progress | None = None
        self._task: Any = None

    def advance(self, amount: float = 1, **figures: Any) -> None:
        """Say that `amount` more units are done."""
        self.done += amount
        self.figures.update(figures)
        if self._live is not None:
            self._live.update(self._task, completed=self.done)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            info(f"  {self.label}: {self.describe()}")

    def rate(self) -> float:
        """Units per second since the bar was opened (work done before a resume is not counted)."""
        return (self.done - self._begin) / max(time.monotonic() - self._started, 1e-9)

    def describe(self) -> str:
        """Progress, rate, time left and figures as one line of text."""
        parts = [f"{format_value(_whole(self.done))}" + (f"/{format_value(_whole(self.total))}" if self.total else "")]
        parts[0] += f" {self.unit}"
        parts.append(f"{format_value(self.rate())} {self.unit}/s")
        if self.total and self.rate() > 0:
            parts.append(f"{format_seconds(max(self.total - self.done, 0) / self.rate())} left")
        parts.extend(f"{name} {format_value(value)}" for name, value in self.figures.items())
        return "  ".join(parts)


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


class _Description(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].describe())


@contextlib.contextmanager
def progress(label: str, total: float | None = None, unit: str = "item", done: float = 0) -> Iterator[Bar]:
    """Show the progress of the block; yields a `Bar`. `done` is what a resumed run has behind it."""
    bar = Bar(label, total, unit, done)
    if not is_terminal():
        yield bar
        return
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=24), _Description())
    with Progress(*columns, console=_err, transient=True, refresh_per_second=4) as live:
        bar._live, bar._task = live, live.add_task(label, total=total, bar=bar)
        live.update(bar._task, completed=done)
        yield bar


class MetricsLog:
    """An append-only `metrics.jsonl`: one JSON object a line, on disk at once; the reports draw it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, **figures: Any) -> None:
        """Append one record."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
