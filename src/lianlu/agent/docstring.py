"""A tool's description and the texts of its arguments, out of a docstring in Google's style.

`agent.tool` shows them to the model. Source: Google Python Style Guide, section 3.8.3. Limits: other styles give a
description without argument texts.
"""

from __future__ import annotations

import inspect
import re

ARGUMENTS = frozenset({"args", "arguments", "parameters"})
OTHERS = frozenset({"returns", "return", "yields", "raises", "example", "examples", "note", "notes", "attributes"})
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description (all before the first section, paragraphs kept) and the text of each argument."""
    lines = inspect.cleandoc(text).splitlines()
    first = next((number for number, line in enumerate(lines) if _section(line)), len(lines))
    description = re.sub(r"(?<!\n)\n(?!\n)", " ", "\n".join(line.strip() for line in lines[:first]).strip())
    arguments: list[str] = []
    inside = False
    for line in lines[first:]:
        name = _section(line)
        if name:
            inside = name in ARGUMENTS
        elif inside:
            arguments.append(line)
    return description, _entries(arguments)


def _section(line: str) -> str:
    """The section that the line opens, in lower case, or nothing."""
    name = line.strip().removesuffix(":").lower()
    return name if line.strip().endswith(":") and not line.startswith(" ") and name in ARGUMENTS | OTHERS else ""


def _entries(lines: list[str]) -> dict[str, str]:
    """`name (type): text` at the first indent; deeper lines continue the text."""
    found: dict[str, str] = {}
    indent, name = None, ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        indent = depth if indent is None else indent
        match = _ENTRY.match(line.strip())
        if depth <= indent and match:
            name = match[1]
            found[name] = match[2].strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
