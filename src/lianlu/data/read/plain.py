"""Values of any origin (YAML, TOML, JSON, tables) as JSON values that every reader of JSON takes back.

Half characters (lone surrogates) become question marks, numbers that are none become null, dates are written in ISO 8601,
bytes that are no text are told by their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time
from typing import Any

MAX_DEPTH = 100
"""Levels of nesting; what writes, sends or reads JSON has limits of its own further on."""


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The same as a JSON value. Raises: ValueError if it is nested deeper than `depth`."""
    if isinstance(value, str):
        return storable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return {storable(str(key)): plain(one, depth - 1) for key, one in value.items()}
        return [plain(one, depth - 1) for one in value]
    if isinstance(value, bytes):
        return text_of(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def storable(text: str) -> str:
    """The text with what UTF-8 cannot hold as question marks."""
    return text.encode("utf-8", "replace").decode()


def text_of(value: bytes) -> str:
    """Bytes as the text they are, or how many there are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"<{len(value):,} bytes>"
