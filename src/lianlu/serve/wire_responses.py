"""The body of POST /v1/responses, and the items that a conversation is written in there.

Items become messages of ours: a message with text parts is a message, calls that an assistant made join its message, the
output of a call is a tool's message. Reasoning items, which clients send back, are left out. Source: the OpenAI API
reference (responses). `wire` has what the body shares with the others, so further ways of sampling work here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lianlu.formats.messages import Message, ToolCall, ToolSpec
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import Body, StreamOptions, short
from lianlu.serve.wire_chat import ToolUse, tool_use
from lianlu.serve.wire_rules import ANY_OBJECT, Rule, schema_constraint

TEXT_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text"})
LOGPROBS = "message.output_text.logprobs"
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
}  # fmt: skip


class FlatTool(BaseModel):
    """A function on offer, written flat; its fields are those of `wire_chat.FunctionSpec`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: str
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _function_only(self) -> FlatTool:
        if self.type != "function" or self.name is None:
            what = f"a tool of type {short(self.type)} is not offered here" if self.type != "function" else "a tool has no name"
            raise ApiError(what, hint='send functions: {"type": "function", "name": ...}', param="tools", code="invalid_value")
        return self

    def spec(self) -> ToolSpec:
        """The function in our own form."""
        given = {"parameters": self.parameters} if self.parameters else {}
        return ToolSpec(name=self.name or "", description=self.description or "", **given)


class TextFormat(BaseModel):
    """The form of the text, written flat."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    body: Any = Field(None, alias="schema")


class TextConfig(BaseModel):
    """`text`: how the text shall be; how wordy is left to the model."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponsesBody(Body):
    """The body of POST /v1/responses."""

    input: str | list[dict[str, Any]] | None = None
    include: list[str] | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextConfig | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[FlatTool] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] | None = None
    max_tool_calls: int | None = None
    reasoning: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> ResponsesBody:
        if self.input is None and self.previous_response_id is None:
            raise ApiError("input is required", param="input", code="missing_required_parameter")
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options needs stream: true", param="stream_options")
        rule = self.rule()
        if self.tool_use().tools and rule is not None:
            hint = 'leave one of them out, or send tool_choice: "none"'
            raise ApiError("a reply cannot be held to a form while tools are offered", hint=hint, param="tools")
        return self

    def items(self) -> list[dict[str, Any]]:
        """The input as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return self.input or []

    def tool_use(self) -> ToolUse:
        """The tools the model may or has to call."""
        return tool_use([tool.spec() for tool in self.tools or []], self.tool_choice, self.parallel_tool_calls, flat=True)

    def rule(self) -> Rule | None:
        """The form the text is held to; None for free text. Raises: ApiError for a schema that is none."""
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return Rule(ANY_OBJECT, "text")
        return Rule(schema_constraint(form.body, "text", "text.format.schema"), "text")

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives a token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.top_logprobs or LOGPROBS in (self.include or ()) else None


def to_messages(items: Iterable[dict[str, Any]], names: dict[str, str] | None = None) -> list[Message]:
    """Items as messages; `names` has the functions of calls made before, by the call's id. Raises: ApiError."""
    messages: list[Message] = []
    known = dict(names or {})
    for number, item in enumerate(items):
        try:
            _add(messages, known, item)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            where = ".".join(map(str, ["input", number, *detail["loc"]]))
            raise ApiError(f"{where}: {detail['msg'].lower()}", param="input", code="invalid_value") from error
        except ApiError as error:
            raise ApiError(f"input.{number}: {error.message}", hint=error.hint, param="input", code="invalid_value") from error
    return messages


def _add(messages: list[Message], names: dict[str, str], item: dict[str, Any]) -> None:
    """Put one item behind the messages."""
    kind = item.get("type") or "message"
    if kind == "message":
        role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
        if role is None:
            raise ApiError(f"the role of a message cannot be {short(item.get('role'))}", hint="use user, assistant or system")
        messages.append(Message(role=role, content=_text(item.get("content"), "content")))
    elif kind == "function_call":
        call = ToolCall(id=_string(item, "call_id"), name=_string(item, "name"), arguments=_arguments(item))
        names[call.id] = call.name
        if messages and messages[-1].role == "assistant":
            messages[-1] = messages[-1].model_copy(update={"tool_calls": [*messages[-1].tool_calls, call]})
        else:
            messages.append(Message(role="assistant", tool_calls=[call]))
    elif kind == "function_call_output":
        call_id = _string(item, "call_id")
        output = _text(item.get("output"), "output")
        messages.append(Message(role="tool", content=output, tool_call_id=call_id, name=names.get(call_id, "")))
    elif kind != "reasoning":
        hint = "send messages, function_call and function_call_output"
        raise ApiError(f"an item of type {short(kind)} cannot be read", hint=hint)


def _string(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise ApiError(f"{key} should be a text (got {short(value)})")
    return value


def _arguments(item: dict[str, Any]) -> dict[str, Any]:
    text = _string(item, "arguments")
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the arguments of {item['name']} are not JSON: {short(text)}") from error
    if not isinstance(value, dict):
        raise ApiError(f"the arguments of {item['name']} are not a JSON object: {short(text)}")
    return value


def _text(content: Any, key: str) -> str:
    """The text of a string or of text parts. Raises: ApiError for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(f"{key} should be a text or a list of text parts (got {short(content)})")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXT_PARTS:
            raise ApiError(f"this model reads text only, not content of type {short(kind)}")
        texts.append(_string(part, "refusal" if kind == "refusal" else "text"))
    return "".join(texts)
