"""ShareGPT: turns with `from` and `value`, tools as JSON text, calls and their results as turns of their own.

{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}], "tools": "[...]", "system": "..."}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lianlu.formats.examples.record import RecordError, name_of
from lianlu.formats.examples.turns import conversation
from lianlu.formats.messages import Conversation

NAME = "sharegpt"
SHAPE = '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}'
FIELDS = ("conversations", "conversation", "messages")


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has turns with `from`; without any turn, whether it is called so."""
    turns = turns_of(raw)
    if not isinstance(turns, list) or not turns:
        return turns == [] and "conversations" in raw
    return isinstance(turns[0], Mapping) and "from" in turns[0]


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """The turns as messages. Raises: RecordError."""
    turns = turns_of(raw)
    if turns is None:
        raise RecordError("no conversations")
    return conversation(name_of(raw, name), turns, raw.get("tools"), raw.get("system"))


def turns_of(raw: Mapping[str, Any]) -> Any:
    """The field that holds the turns, or None."""
    return next((raw[key] for key in FIELDS if key in raw), None)
