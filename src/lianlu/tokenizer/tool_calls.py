"""From the text of a reply to a message with tool calls.

Two dialects are read, whichever appears:

    Hermes, Qwen 2.5, SmolLM2   <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>
    InternLM2                   <|action_start|><|plugin|>{"name": "add", "parameters": {"a": 1}}<|action_end|>
                                <|action_start|><|interpreter|>```python ... ```<|action_end|>

Small models are forgiven a missing end tag, several calls in one tag, `parameters` for `arguments` and the other way round,
line breaks inside strings, and (with tools on offer) a reply that is nothing but the JSON of a call to one of them. What
cannot be read as a call stays in the content, so that nothing a model wrote is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lianlu.formats.messages import Message, ToolCall, ToolSpec

OPENERS = ("<tool_call>", "<|action_start|>")
# control tokens that carry meaning for a reader of the reply, so that decoding keeps them where a vocabulary marks them special
MARKERS = (*OPENERS, "</tool_call>", "<|action_end|>", "<|plugin|>", "<|interpreter|>", "<think>", "</think>")
_OPENING = re.compile(r"<tool_call>|<\|action_start\|>\s*<\|(?P<kind>plugin|interpreter)\|>")
_CODE = re.compile(r"\s*```(?:python|py)?[ \t]*\n(?P<code>.*?)\n?```\s*(?:<\|action_end\|>|\Z)", re.DOTALL)
_SPACE = re.compile(r"\s*")
INTERPRETERS = ("python", "python_interpreter", "interpreter", "ipython", "code_interpreter")
_READER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class _Call:
    name: str
    arguments: dict[str, Any]


def parse(text: str, tools: Sequence[ToolSpec] = ()) -> Message:
    """An assistant's reply as a message. Calls are numbered `call_0`, `call_1`, ... in order."""
    found: list[_Call] = []
    rest: list[str] = []
    at = 0
    while match := _OPENING.search(text, at):
        calls, end = _read_code(text, match.end(), tools) if match["kind"] == "interpreter" else _read_calls(text, match)
        rest.append(text[at : match.start() if calls else end])
        found += calls
        at = end
    rest.append(text[at:])
    if not found and (bare := _bare(text, tools)):
        found, rest = [bare], []
    content = "".join(rest)
    calls_made = [ToolCall(id=f"call_{number}", name=call.name, arguments=call.arguments) for number, call in enumerate(found)]
    return Message(role="assistant", content=content.rstrip() if found else content, tool_calls=calls_made)


def visible(text: str, tools: Sequence[ToolSpec] = ()) -> str:
    """The beginning of a partial reply that `parse` leaves in the content however the reply goes on."""
    if tools and text.lstrip().startswith("{"):
        return ""
    ends = [position for opener in OPENERS if (position := text.find(opener)) >= 0]
    shown = text[: min(ends)] if ends else text[: len(text) - _begun(text)]
    return shown.rstrip()


def _begun(text: str) -> int:
    """How many of the last characters may be the beginning of a tool call."""
    lengths = (length for opener in OPENERS for length in range(1, len(opener)) if text.endswith(opener[:length]))
    return max(lengths, default=0)


def _read_calls(text: str, opening: re.Match[str]) -> tuple[list[_Call], int]:
    """The JSON calls after an opening tag and where they end; no calls, and the end of the tag, if they cannot be read."""
    closer = "<|action_end|>" if opening["kind"] else "</tool_call>"
    calls: list[_Call] = []
    at = _skip_space(text, opening.end())
    while text.startswith(("{", "["), at):
        value, at = _json_at(text, at)
        read = [_call(item) for item in (value if isinstance(value, list) else [value])]
        calls += [call for call in read if call is not None]
        if not read or None in read:
            return [], opening.end()
        at = _skip_space(text, at)
    if calls and text.startswith(closer, at):
        return calls, at + len(closer)
    following = _OPENING.search(text, at)
    is_closed_later = closer in text[at : following.start() if following else None]
    return ([], opening.end()) if is_closed_later else (calls, at if calls else opening.end())


def _read_code(text: str, at: int, tools: Sequence[ToolSpec]) -> tuple[list[_Call], int]:
    """The code block after an interpreter tag, as a call of the Python tool on offer."""
    block = _CODE.match(text, at)
    if block is None:
        return [], at
    names = {tool.name for tool in tools}
    name = next((name for name in INTERPRETERS if name in names), "python")
    return [_Call(name, {"code": block["code"]})], block.end()


def _bare(text: str, tools: Sequence[ToolSpec]) -> _Call | None:
    """The call of a reply that is nothing but the JSON of a call to a tool on offer."""
    start = _skip_space(text, 0)
    if not tools or not text.startswith("{", start):
        return None
    value, end = _json_at(text, start)
    call = _call(value) if not text[end:].strip() else None
    return call if call and call.name in {tool.name for tool in tools} else None


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _json_at(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at `at` and its end; None where there is none."""
    try:
        return _READER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at


def _call(value: Any) -> _Call | None:
    """Name and arguments of one call, or None if it is not one."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json_at(arguments, _skip_space(arguments, 0))[0]
    elif arguments is None:
        arguments = {}
    return _Call(name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None
