"""Conversations as lianlu writes them (formats/messages.py), told by their header line; read strictly.

{"id": "...", "messages": [{"role": "user", "content": "..."}, ...], "tools": [...], "meta": {...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lianlu.formats.examples.record import RecordError
from lianlu.formats.examples.turns import check
from lianlu.formats.messages import Conversation

NAME = "conversations"
SHAPE = 'lianlu\'s own {"id": "...", "messages": [...], "tools": [...]}, after a header line'


def matches(raw: Mapping[str, Any]) -> bool:
    """Never: without the header, these are messages like OpenAI's."""
    return False


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """The conversation. Raises: RecordError."""
    try:
        found = Conversation.model_validate({"id": name, **raw})
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise RecordError("not a conversation of lianlu", f"{where}: {detail['msg']}" if where else detail["msg"]) from error
    check(found.messages)
    return found
