"""Writing TOML: the standard library only reads it. None is left out, as TOML has no null."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dump_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A nested table as TOML text that `tomllib` reads back equal (but for None)."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping) and value is not None}
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    blocks = []
    if plain:
        lines = [f"[{prefix}]"] if prefix else []
        lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
        blocks.append("\n".join(lines))
    elif prefix and not nested:
        blocks.append(f"[{prefix}]")
    for key, value in nested.items():
        blocks.append(dump_toml(value, f"{prefix}.{_key(key)}" if prefix else _key(key)))
    return "\n\n".join(blocks)


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isalnum() and bare.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
