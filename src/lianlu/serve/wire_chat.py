"""The body of POST /v1/chat/completions: a conversation, tools, and the form of the reply.

Source: the OpenAI API reference (chat completions). `wire` has what it shares with the other bodies, `wire_rules` the forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lianlu.core.errors import DataError
from lianlu.formats.messages import Message, ToolSpec, from_openai
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import Choices, short
from lianlu.serve.wire_rules import Ruled

Mode = Literal["none", "auto", "required"]


class Part(BaseModel):
    """One part of a message's content; only text can be read."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: str
    text: str = ""

    @model_validator(mode="after")
    def _text_only(self) -> Part:
        if self.type not in ("text", "refusal"):
            raise ApiError(f"this model reads text only, not content of type {short(self.type)}", param="messages")
        return self


class FunctionCall(BaseModel):
    """The function of a tool call; `arguments` is a JSON object written as a string."""

    model_config = ConfigDict(strict=True, extra="ignore")
    name: str
    arguments: str = "{}"


class Call(BaseModel):
    """A tool call that an assistant made earlier in the conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """A message as OpenAI writes it; what a reply carries besides (refusal, annotations, ...) may be sent back with it."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and not self.tool_calls:
            raise ApiError(f"a message of role {self.role!r} has no content", param="messages")
        return self


class FunctionSpec(BaseModel):
    """A function on offer; `parameters` is a JSON Schema of an object."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def spec(self) -> ToolSpec:
        """The function in our own form."""
        given = {"parameters": self.parameters} if self.parameters else {}
        return ToolSpec(name=self.name, description=self.description or "", **given)


class Tool(BaseModel):
    """A tool on offer; only functions exist here."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["function"]
    function: FunctionSpec


@dataclass(frozen=True)
class ToolUse:
    """The tools that may be called, whether one has to be, and whether it may be more than one."""

    tools: tuple[ToolSpec, ...] = ()
    mode: Mode = "none"
    parallel: bool = True
    shown: tuple[ToolSpec, ...] = ()
    """The tools that the model is told of; a choice of one of them changes nothing in the prompt."""


def tool_use(specs: list[ToolSpec], choice: str | dict[str, Any] | None, parallel: bool | None, flat: bool = False) -> ToolUse:
    """What a choice of tools comes to; `flat`: written as in the responses API. Raises: ApiError for one that makes no sense."""
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ApiError(f"two tools are called {name!r}", hint="give each a name of its own", param="tools")
    wanted, mode = _chosen(choice, flat)
    if mode == "none":
        return ToolUse()
    if mode == "required" and not specs:
        raise ApiError("tool_choice asks for a call, but there are no tools", hint="send tools", param="tool_choice")
    for name in wanted or ():
        if name not in names:
            hint = f"offered are {', '.join(names)[:200]}" if names else "send it in tools"
            raise ApiError(f"tool_choice names {short(name)}, which is not offered", hint=hint, param="tool_choice")
    offered = tuple(spec for spec in specs if wanted is None or spec.name in wanted)
    return ToolUse(offered, mode if offered else "none", parallel is not False, tuple(specs))


def _chosen(choice: str | dict[str, Any] | None, flat: bool) -> tuple[list[str] | None, Mode]:
    """The names a choice restricts the tools to (None: all), and its mode."""
    if choice in (None, "auto"):
        return None, "auto"
    if choice == "none":
        return None, "none"
    if choice == "required":
        return None, "required"
    if isinstance(choice, dict) and (found := _named(choice, flat)) is not None:
        return found
    shape = '{"type": "function", "name": ...}' if flat else '{"type": "function", "function": {"name": ...}}'
    hint = f'use "none", "auto", "required" or {shape}'
    raise ApiError(f"tool_choice cannot be {short(choice)}", hint=hint, param="tool_choice", code="invalid_value")


def _named(choice: dict[str, Any], flat: bool) -> tuple[list[str], Mode] | None:
    """The names and the mode of a choice that is an object; None if it cannot be read."""
    if choice.get("type") == "function":
        name = _name(choice, flat)
        return None if name is None else ([name], "required")
    inner = choice if flat else choice.get("allowed_tools")
    if choice.get("type") != "allowed_tools" or not isinstance(inner, dict) or not isinstance(inner.get("tools"), list):
        return None
    names = [_name(item, flat) for item in inner["tools"]]
    if inner.get("mode") not in ("auto", "required") or not names or None in names:
        return None
    return [name for name in names if name is not None], inner["mode"]


def _name(item: Any, flat: bool) -> str | None:
    holder = item if flat or not isinstance(item, dict) else item.get("function")
    name = holder.get("name") if isinstance(holder, dict) else None
    return name if isinstance(name, str) else None


class ChatBody(Choices, Ruled):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[Tool] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _chat_only(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        if self.tool_use().tools and self.rule() is not None:
            hint = 'leave one of them out, or send tool_choice: "none"'
            raise ApiError("a reply cannot be held to a form while tools are offered", hint=hint, param="tools")
        return self

    def conversation(self) -> list[Message]:
        """The messages in our own form. Raises: ApiError for tool arguments that are no JSON object."""
        try:
            return [from_openai(message.model_dump()) for message in self.messages]
        except (DataError, ValidationError, RecursionError) as error:
            raise ApiError(str(error), param="messages") from error

    def tool_use(self) -> ToolUse:
        """The tools the model may or has to call; none when `tool_choice` is "none"."""
        return tool_use([tool.function.spec() for tool in self.tools or []], self.tool_choice, self.parallel_tool_calls)

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; None: as many as the context has room for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives a token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None
