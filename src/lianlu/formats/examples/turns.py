"""Turns of a conversation, in the many ways they are written down, as messages.

A turn names its speaker in `from` or `role` and its text in `value`, `content` or `text`. Calls of tools come as OpenAI has
them (`tool_calls`, or `function_call` of old), flat as lianlu has them, or, in ShareGPT, as a turn of their own whose text
is JSON; that turn belongs to the assistant's text before it. Answers of tools belong to the calls in their order, where
they do not say to which. Texts may be numbers, and lists of parts if all of them are text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lianlu.formats.examples.record import RecordError, kind_of, text_of
from lianlu.formats.messages import Conversation, Message, Role, ToolCall, ToolSpec

CALL = "function_call"
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "question": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant", "answer": "assistant", CALL: "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
    "ipython": "tool", "environment": "tool",
}  # fmt: skip
_CALLS = (CALL, "tool_call")
_SPEAKERS, _TEXTS = ("from", "role"), ("value", "content", "text")
UNTRAINED = "untrained"
"""Key in `Conversation.meta`: the messages of the assistant that are not to be learnt."""


def conversation(
    name: str, turns: Any, tools: Any = None, system: Any = None, meta: Mapping[str, Any] | None = None
) -> Conversation:
    """A conversation to learn from. `system` is put in front if no turn is one. Raises: RecordError."""
    messages, untrained = read_turns(turns)
    prompt = text_of(system, "the system text")
    if prompt.strip() and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=prompt))
        untrained = [index + 1 for index in untrained]
    check(messages)
    noted = {**(meta or {}), **({UNTRAINED: untrained} if untrained else {})}
    return Conversation(id=name, messages=messages, tools=read_tools(tools), meta=noted)


def check(messages: Sequence[Message]) -> None:
    """Whether there is a question and an answer, and no turn of a person or an assistant is empty. Raises: RecordError."""
    for number, message in enumerate(messages):
        if message.role in ("user", "assistant") and not message.content.strip() and not message.tool_calls:
            raise RecordError("an empty answer" if message.role == "assistant" else "an empty question", f"turn {number + 1}")
    if all(message.role != "assistant" for message in messages):
        raise RecordError("no turn of an assistant")


def read_turns(turns: Any) -> tuple[list[Message], list[int]]:
    """Messages, and the indices of those that carry `weight` 0. Raises: RecordError."""
    if not isinstance(turns, list):
        raise RecordError(f"the turns are {kind_of(turns)}, not a list")
    if not turns:
        raise RecordError("no turns")
    messages: list[Message] = []
    untrained: list[int] = []
    waiting: list[ToolCall] = []
    count = 0
    for number, turn in enumerate(turns):
        try:
            message, is_call = _read_turn(turn)
        except RecordError as error:
            raise RecordError(error.reason, f"turn {number + 1}" + (f": {error.detail}" if error.detail else "")) from error
        for call in message.tool_calls:
            call.id = call.id or f"call_{count}"
            count += 1
        waiting = waiting + message.tool_calls if message.role in ("assistant", "tool") else []
        if message.role == "tool":
            _assign(message, waiting)
        if is_call and messages and messages[-1].role == "assistant":
            messages[-1].tool_calls += message.tool_calls
            continue
        if message.role == "assistant" and turn.get("weight") == 0:
            untrained.append(len(messages))
        messages.append(message)
    return messages, untrained


def _assign(message: Message, waiting: list[ToolCall]) -> None:
    """Let a tool's answer name its call: the one it names already, else the first that waits."""
    call = next((call for call in waiting if call.id == message.tool_call_id), waiting[0] if waiting else None)
    if call is not None:
        waiting.remove(call)
        message.tool_call_id = message.tool_call_id or call.id
        message.name = message.name or call.name


def _read_turn(turn: Any) -> tuple[Message, bool]:
    """A message, and whether the turn was nothing but calls."""
    if not isinstance(turn, Mapping):
        raise RecordError("a turn is not an object", kind_of(turn))
    speaker = next((turn[key] for key in _SPEAKERS if turn.get(key) is not None), None)
    name = speaker.strip().lower() if isinstance(speaker, str) else ""
    if name not in ROLES:
        said = "nobody" if speaker is None else json.dumps(speaker, ensure_ascii=False, default=str)[:80]
        raise RecordError("an unknown speaker", f"{said}, not one of {', '.join(ROLES)}")
    content = next((turn[key] for key in _TEXTS if turn.get(key) is not None), None)
    if name in _CALLS:
        return Message(role="assistant", tool_calls=_calls(_loaded(content, "a call"))), True
    role = ROLES[name]
    if role == "tool":
        text = json.dumps(content, ensure_ascii=False) if isinstance(content, Mapping) else _content(content)
        return Message(role=role, content=text, tool_call_id=_label(turn, "tool_call_id"), name=_label(turn, "name")), False
    calls = turn.get("tool_calls") or ([turn[CALL]] if turn.get(CALL) else [])
    return Message(role=role, content=_content(content), tool_calls=_calls(calls) if role == "assistant" else []), False


def _label(turn: Mapping[str, Any], key: str) -> str:
    value = turn.get(key)
    return value if isinstance(value, str) else ""


def _content(value: Any) -> str:
    """The text of a turn: a text, a number, or a list of parts that are text."""
    return "".join(map(_part, value)) if isinstance(value, list) else text_of(value, "the content of a turn")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    texts = [part[key] for key in ("text", "refusal") if isinstance(part.get(key), str)] if isinstance(part, Mapping) else []
    if not texts:
        kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
        raise RecordError("the content of a turn has a part that is not text", str(kind)[:80])
    return str(texts[0])


def _calls(value: Any) -> list[ToolCall]:
    """Calls, one or a list of them, flat or in OpenAI's nesting."""
    calls = []
    for raw in value if isinstance(value, list) else [value]:
        call = raw.get("function", raw) if isinstance(raw, Mapping) else None
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str) or not call["name"]:
            raise RecordError("a call without the name of a tool")
        given = next((call[key] for key in ("arguments", "parameters") if call.get(key) is not None), None)
        arguments = _loaded(given, "the arguments of a call") if given not in (None, "") else {}
        if not isinstance(arguments, dict):
            raise RecordError("the arguments of a call are not an object", f"{call['name']} gets {kind_of(arguments)}")
        calls.append(ToolCall(id=_label(raw, "id"), name=call["name"], arguments=arguments))
    return calls


def read_tools(value: Any) -> list[ToolSpec]:
    """Tools on offer: a list, or that list as JSON text; flat or in OpenAI's nesting. Raises: RecordError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    tools = _loaded(value, "the tools")
    return [_tool(raw) for raw in (tools if isinstance(tools, list) else [tools] if tools else [])]


def _tool(raw: Any) -> ToolSpec:
    tool = raw.get("function", raw) if isinstance(raw, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str) or not tool["name"]:
        raise RecordError("a tool without a name")
    parameters = tool.get("parameters")
    if isinstance(parameters, str):
        parameters = _loaded(parameters, "the parameters of a tool")
    if parameters is not None and not isinstance(parameters, dict):
        raise RecordError("the parameters of a tool are not an object", f"{tool['name']} has {kind_of(parameters)}")
    description = text_of(tool.get("description"), "the description of a tool")
    given = {"parameters": parameters} if parameters else {}
    return ToolSpec(name=tool["name"], description=description, **given)


def _loaded(value: Any, what: str) -> Any:
    """The value, or what JSON text of it says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except RecursionError as error:
        raise RecordError("nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{what} cannot be read as JSON", str(error)) from error
