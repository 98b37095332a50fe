"""What callers write, in our own types: conversations from dicts or `Message`s, tools in three spellings.

First station of `llm.LLM`. Dicts are those of the OpenAI chat API; flat tool calls and tools, as `formats.messages` has them,
are read too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lianlu.core.errors import DataError, RequestError
from lianlu.formats.messages import Message, ToolSpec, from_openai

Turn = Message | Mapping[str, Any]
Conversation = Sequence[Turn]
Prompt = str | Sequence[int]
Prompts = list[str] | list[list[int]] | tuple[str, ...]
Tool = ToolSpec | Mapping[str, Any]

_TURN = 'write {"role": "user", "content": "..."}'
_TOOL = 'write {"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'


def conversations_in(given: Any) -> tuple[bool, Sequence[Conversation]]:
    """Whether `given` is one conversation, and it or what it holds as a list. Raises: RequestError for a bare text."""
    if isinstance(given, str):
        hint = 'chat takes [{"role": "user", "content": "..."}]; to continue a text as it stands, use generate'
        raise RequestError("a text is no conversation", hint=hint)
    is_one = bool(given) and isinstance(given[0], Message | Mapping)
    return is_one, [given] if is_one else given


def prompts_in(given: Any) -> tuple[bool, Sequence[Prompt]]:
    """Whether `given` is one prompt, a text or token ids, and it or what it holds as a list."""
    is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    return is_one, [given] if is_one else given


def as_messages(conversation: Conversation | str) -> list[Message]:
    """A conversation as messages. Raises: RequestError that says which turn is wrong."""
    if isinstance(conversation, str) or not conversation:
        raise RequestError(f"a conversation is {conversation!r}", hint=f"{_TURN} for each turn, in a list")
    return [_as_message(number, turn) for number, turn in enumerate(conversation)]


def _as_message(number: int, turn: Turn) -> Message:
    if isinstance(turn, Message):
        return turn
    if not isinstance(turn, Mapping) or "role" not in turn:
        raise RequestError(f"message {number} is {turn!r}", hint=_TURN)
    try:
        _check_parts(number, turn.get("content"))
        is_flat = any("function" not in call for call in turn.get("tool_calls") or ())
        return Message.model_validate(dict(turn)) if is_flat else from_openai(dict(turn))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise RequestError(f"message {number}, {where}: {detail['msg'].lower()}", hint=_TURN) from error
    except DataError as error:
        raise RequestError(f"message {number}: {error.message}", hint="arguments are a JSON object") from error
    except (TypeError, AttributeError, KeyError) as error:
        raise RequestError(f"message {number} cannot be read: {turn!r}", hint=_TURN) from error


def _check_parts(number: int, content: Any) -> None:
    parts = content if isinstance(content, list) else []
    for part in parts:
        if part.get("type", "text") != "text":
            raise RequestError(f"message {number} has content of type {part.get('type')!r}", hint="this model reads text only")


def as_tools(tools: Sequence[Tool]) -> list[ToolSpec]:
    """Tools as we know them. Raises: RequestError that says which one is wrong."""
    return [_as_tool(number, tool) for number, tool in enumerate(tools)]


def _as_tool(number: int, tool: Tool) -> ToolSpec:
    if isinstance(tool, ToolSpec):
        return tool
    given = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(given, Mapping):
        raise RequestError(f"tool {number} is {tool!r}", hint=_TOOL)
    try:
        return ToolSpec.model_validate({key: value for key, value in given.items() if key != "strict" and value is not None})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise RequestError(f"tool {number}, {where}: {detail['msg'].lower()}", hint=_TOOL) from error
