"""One record of training data on its way from a file to a conversation or a document.

`files` gives out `Raw` records, text as it stands in the file, so that a reader has next to nothing to do and the work of
parsing and converting can go to other processes. A record that cannot be used raises `RecordError`; nothing stops for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lianlu.core.errors import DataError

MAX_KEPT_CHARS = 2000
MAX_KEPT_DEPTH = 200
_KINDS = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as the file has it: JSON text, or a row of a table. `reason`: why not even that could be read.

    `place` is its line, from 1, in files of lines, and its index, from 0, elsewhere. `continues`: the next record goes on
    with the same document.
    """

    place: int
    data: bytes | str | Mapping[str, Any]
    reason: str = ""
    continues: bool = False


class RecordError(DataError):
    """A record that cannot be used. `reason` is the same for all records of its sort, `detail` is about this one.

    `is_wrong` is False where the record is as it should be and only not wanted.
    """

    def __init__(self, reason: str, detail: str = "", is_wrong: bool = True) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.is_wrong = reason, detail, is_wrong


def parsed(raw: Raw) -> dict[str, Any]:
    """The record as an object, fields that are null left out; a list of objects is one of messages. Raises: RecordError."""
    if raw.reason:
        raise RecordError(raw.reason)
    value: Any = raw.data
    try:
        if isinstance(value, bytes):
            value = value.decode("utf-8-sig" if raw.place == 1 else "utf-8")
        if isinstance(value, str):
            value = json.loads(value)
    except UnicodeDecodeError as error:
        raise RecordError("not UTF-8", f"byte {error.start} of the record") from error
    except RecursionError as error:
        raise RecordError("nested too deeply") from error
    except ValueError as error:
        raise RecordError("not JSON", str(error)) from error
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {"messages": value}
    if not isinstance(value, Mapping):
        raise RecordError("not a JSON object", f"it is {kind_of(value)}")
    return {key: item for key, item in value.items() if item is not None}


def kept(raw: Raw) -> Any:
    """What a list of rejected records shows of one: its value, or the beginning of its text where that is long."""
    text = raw.data
    if isinstance(text, Mapping):
        text = json.dumps(text, ensure_ascii=False, default=str)
    if isinstance(text, bytes):
        text = text[: 4 * MAX_KEPT_CHARS + 4].decode("utf-8-sig", "replace").strip()
    if len(text) > MAX_KEPT_CHARS:
        return text[:MAX_KEPT_CHARS] + " ..."
    if text.count("[") + text.count("{") > MAX_KEPT_DEPTH:
        return text
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), "text" if isinstance(value, str) else "a number")


def text_of(value: Any, what: str) -> str:
    """A field that holds text; a number stands for its digits, nothing for no text. Raises: RecordError for anything else."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return json.dumps(value)
    raise RecordError(f"{what} is {kind_of(value)}, not text")


def name_of(value: Mapping[str, Any], fallback: str) -> str:
    """The name a record gives itself, or `fallback`."""
    found = value.get("id")
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) and found != "" else fallback
