"""Writes the table of rules in docs/data.md from the shipped thresholds: python scripts/rules_table.py

A test compares the two, so that the table cannot go stale.
"""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from lianlu.data.rules.thresholds import TABLES

DOCS = Path(__file__).resolve().parent.parent / "docs" / "data.md"
BEGIN, END = "<!-- rules: scripts/rules_table.py -->", "<!-- end of rules -->"
_HEAD = re.compile(r"^\[([\w.]+)\]\s*#\s*(.*)$", re.MULTILINE)


def table() -> str:
    """The rows of the table, family by family: source, defaults, and what differs for a sort of text."""
    rows = ["| family | source | defaults | for some texts |", "|---|---|---|---|"]
    for name in TABLES:
        text = (files("lianlu.data.rules") / name).read_text(encoding="utf-8")
        sources = dict(_HEAD.findall(text))
        for family, rules in tomllib.loads(text).items():
            special = {key: own for key, own in rules.items() if isinstance(own, dict)}
            differs = "; ".join(f"**{key}** {listed(own)}" for key, own in special.items())
            rows.append(f"| `{family}` | {sources.get(family, '').replace('|', '/')} | {listed(rules)} | {differs} |")
    return "\n".join(rows)


def listed(rules: dict[str, Any]) -> str:
    """Rules with their thresholds; lists of words by their length."""
    return ", ".join(f"`{key}` {_shown(value)}" for key, value in rules.items() if not isinstance(value, dict) and value != [])


def _shown(value: Any) -> str:
    if value is False:
        return "off"
    return f"{len(value)} of them" if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def with_table(text: str) -> str:
    """The document with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCS.write_text(with_table(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
