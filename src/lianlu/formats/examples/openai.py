"""Messages of the OpenAI chat API, with tools and calls, developer messages, and content in parts.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "tools": [...]}

Flat tools and calls, as lianlu writes them, are understood too. A message with `weight` 0 is context and not learnt, as in
OpenAI's fine-tuning. A record with `label` false, an answer that people did not want (KTO), is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lianlu.formats.examples.record import RecordError, name_of
from lianlu.formats.examples.turns import conversation
from lianlu.formats.messages import Conversation

NAME = "openai"
SHAPE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
FIELDS = ("messages", "conversations", "conversation")


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has turns with `role`; without any turn, whether it has messages."""
    turns = _turns(raw)
    if not isinstance(turns, list) or not turns:
        return turns == [] and "messages" in raw
    return isinstance(turns[0], Mapping) and "role" in turns[0] and "from" not in turns[0]


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """The messages as ours. Raises: RecordError."""
    turns = _turns(raw)
    if turns is None:
        raise RecordError("no messages")
    require_wanted(raw)
    tools = next((raw[key] for key in ("tools", "functions") if key in raw), None)
    system = next((raw[key] for key in ("system", "system_prompt") if key in raw), None)
    return conversation(name_of(raw, name), turns, tools, system)


def require_wanted(raw: Mapping[str, Any]) -> None:
    """Raises: RecordError for an answer that is marked as one that people did not want."""
    if raw.get("label") is False:
        raise RecordError("its label is false: an answer that was not wanted", is_wrong=False)


def _turns(raw: Mapping[str, Any]) -> Any:
    return next((raw[key] for key in FIELDS if key in raw), None)
