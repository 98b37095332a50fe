"""Conversations: messages with tool calls, as JSONL, one conversation a line.

The shape is that of the OpenAI chat API with two simplifications: a tool call is flat (`id`, `name`, `arguments`), and
arguments are an object, never a string of JSON. `from_openai` and `to_openai` convert a message both ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write

FORMAT = 1
Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(BaseModel):
    """A call an assistant makes: `arguments` is a JSON object."""

    model_config = ConfigDict(extra="forbid")
    id: str = ""
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolSpec(BaseModel):
    """A tool a model may call: `parameters` is a JSON Schema of an object."""

    model_config = ConfigDict(extra="forbid")
    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class Message(BaseModel):
    """One turn. `tool_calls` belongs to assistants; `tool_call_id` and `name` to the answers of tools."""

    model_config = ConfigDict(extra="forbid")
    role: Role
    content: str = ""
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_call_id: str = ""
    name: str = ""


class Conversation(BaseModel):
    """A conversation with the tools that were on offer. `meta` holds what is only for people and reports."""

    model_config = ConfigDict(extra="forbid")
    id: str
    messages: list[Message] = Field(min_length=1)
    tools: list[ToolSpec] = Field(default_factory=list)
    meta: dict[str, Any] = Field(default_factory=dict)


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write conversations as JSONL with a header line; returns how many."""
    count = 0
    with atomic_write(path, "w") as file:
        file.write(json.dumps({"lianlu": "conversations", "format": FORMAT}) + "\n")
        for conversation in conversations:
            file.write(json.dumps(conversation.model_dump(exclude_defaults=True), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Read conversations; a header line and ids are optional. Raises: DataError that names file and line."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and (conversation := _parse_line(path, number, line)):
                    yield conversation
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", hint="convert it to UTF-8") from error


def _parse_line(path: Path, number: int, line: str) -> Conversation | None:
    try:
        raw = json.loads(line)
        if number == 1 and isinstance(raw, dict) and raw.get("lianlu"):
            _check_header(path, raw)
            return None
        if isinstance(raw, dict):
            raw.setdefault("id", f"line-{number}")
        return Conversation.model_validate(raw)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        what = f"{where}: {detail['msg']}" if where else detail["msg"]
        raise DataError(f"{path}, line {number}: not a conversation: {what}", hint="docs/formats.md shows the shape") from error
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON: {error}", hint="docs/formats.md shows the shape") from error


def _check_header(path: Path, header: dict[str, Any]) -> None:
    if header["lianlu"] != "conversations":
        raise DataError(f"{path} holds {header['lianlu']}, not conversations", hint="point to another file")
    if header.get("format", 0) > FORMAT:
        raise DataError(f"{path} has format {header['format']}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu")


def from_openai(raw: dict[str, Any]) -> Message:
    """A message of the OpenAI chat API as ours. Raises: DataError for arguments that are no JSON object."""
    calls = []
    for call in raw.get("tool_calls") or []:
        function = call["function"]
        arguments = function.get("arguments") or "{}"
        try:
            value = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as error:
            raise DataError(f"the arguments of {function['name']} are not JSON: {arguments!r}") from error
        if not isinstance(value, dict):
            raise DataError(f"the arguments of {function['name']} are not a JSON object: {arguments!r}")
        calls.append(ToolCall(id=call.get("id") or "", name=function["name"], arguments=value))
    content = raw.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    return Message(
        role="system" if raw["role"] == "developer" else raw["role"],
        content=content,
        tool_calls=calls,
        tool_call_id=raw.get("tool_call_id") or "",
        name=raw.get("name") or "",
    )


def to_openai(message: Message) -> dict[str, Any]:
    """Our message as one of the OpenAI chat API."""
    raw: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        raw["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        raw["tool_call_id"] = message.tool_call_id
    if message.name:
        raw["name"] = message.name
    return raw
