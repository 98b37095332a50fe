"""What a client may send: the OpenAI request bodies, checked before anything reaches the engine.

First station of a request: bytes -> `ChatBody` or `CompletionBody` -> messages, tools and sampling in our own types.
Types are strict (`"0.5"` is no number). A field that would change the answer but is not supported is refused unless it has
its neutral value, fields that change nothing are accepted and dropped, and a misspelt field is refused: an ignored wish is
worse than an error. Source: the OpenAI API reference (chat completions, legacy completions), plus `top_k` as others have it.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lianlu.core.errors import DataError
from lianlu.formats.messages import Message, ToolSpec, from_openai
from lianlu.serve.failures import ApiError

MAX_CHOICES = 64
MAX_STOPS = 16

HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "reasoning_effort", "verbosity"}
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "function_call": (None,),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "web_search_options": (None,),
}
UNIONS = {
    "content": "a string or a list of text parts",
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a string or a list of strings",
    "tool_choice": '"auto" or "none"',
}


class Part(BaseModel):
    """One part of a message's content; only text can be read."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: str
    text: str = ""

    @model_validator(mode="after")
    def _text_only(self) -> Part:
        if self.type not in ("text", "refusal"):
            raise ApiError(f"this model reads text only, not content of type {self.type!r}", param="messages")
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


class Tool(BaseModel):
    """A tool on offer; only functions exist here."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["function"]
    function: FunctionSpec


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk with the token counts."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool | None = None


class Body(BaseModel):
    """What both kinds of request share: the model's name and how tokens are chosen."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    model: str = ""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, raw: Any) -> Any:
        return {key: value for key, value in raw.items() if _is_ours(cls, key, value)} if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _consistent(self) -> Body:
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options needs stream: true", param="stream_options")
        if len(self.stops) > MAX_STOPS or not all(self.stops):
            raise ApiError(f"stop takes up to {MAX_STOPS} strings, none of them empty", param="stop")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def num_choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1


class ChatBody(Body):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[Tool] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _chat_only(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        if self.tool_choice not in (None, "auto", "none"):
            hint = 'use "auto" or "none", and name the tool in the instructions'
            raise ApiError("a model cannot be forced to call a tool", hint=hint, param="tool_choice", code="unsupported_value")
        if self.max_tokens == 0:
            raise ApiError("max_tokens must be at least 1", param="max_tokens")
        return self

    def conversation(self) -> list[Message]:
        """The messages in our own form. Raises: ApiError for tool arguments that are no JSON object."""
        try:
            return [from_openai(message.model_dump()) for message in self.messages]
        except (DataError, ValidationError) as error:
            raise ApiError(str(error), param="messages") from error

    def offered_tools(self) -> list[ToolSpec]:
        """The tools the model may call; none when `tool_choice` is "none"."""
        if self.tool_choice == "none":
            return []
        given = [tool.function for tool in self.tools or []]
        return [
            ToolSpec(name=f.name, description=f.description or "", **({"parameters": f.parameters} if f.parameters else {}))
            for f in given
        ]

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; None: as many as the context has room for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives a token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Body):
    """The body of POST /v1/completions. With `echo`, `logprobs` and `max_tokens: 0` it scores a text."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _completion_only(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            raise ApiError("max_tokens: 0 needs echo: true, else there is nothing to return", param="max_tokens")
        if not self.prompts():
            raise ApiError("the prompt is an empty list", param="prompt")
        if len(self.prompts()) * self.num_choices > MAX_CHOICES:
            raise ApiError(f"at most {MAX_CHOICES} prompts times choices in one request", param="prompt")
        return self

    def prompts(self) -> list[str | list[int]]:
        """Each prompt as a text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [item for item in self.prompt if not isinstance(item, int)]

    @property
    def token_limit(self) -> int:
        """The most tokens to generate; 16 when the client does not say, as OpenAI has it."""
        return 16 if self.max_tokens is None else self.max_tokens


B = TypeVar("B", ChatBody, CompletionBody)


def parse_body(cls: type[B], raw: bytes) -> B:
    """Check a request body. Raises: ApiError (400) that names the field and says what is wrong with it."""
    try:
        return cls.model_validate_json(raw)
    except ValidationError as error:
        raise _explain(error) from error


def _is_ours(cls: type[Body], key: str, value: Any) -> bool:
    if key in cls.model_fields:
        return True
    if key in NEUTRAL:
        if value in NEUTRAL[key]:
            return False
        raise ApiError(f"{key} is not supported", hint="leave it out", param=key, code="unsupported_parameter")
    if key in HARMLESS:
        return False
    near = difflib.get_close_matches(key, cls.model_fields, n=1)
    hint = f"did you mean {near[0]}?" if near else "leave it out"
    raise ApiError(f"unknown field {key[:80]!r}", hint=hint, param=key[:80], code="unknown_parameter")


def _explain(error: ValidationError) -> ApiError:
    """The deepest of the errors, which is the one that the client's value came closest to."""
    detail = max(error.errors(include_url=False, include_context=False), key=lambda item: len(item["loc"]))
    if detail["type"] == "json_invalid":
        return ApiError(f"the body is not JSON: {detail['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    path = [str(part) for part in detail["loc"] if not _is_union_tag(part)]
    name = ".".join(path) or "the body"
    if detail["type"] == "missing":
        return ApiError(f"{name} is required", param=path[0], code="missing_required_parameter")
    meant = UNIONS.get(path[-1] if path else "") or UNIONS.get(path[0] if path else "")
    message = f"should be {meant}" if meant else detail["msg"][0].lower() + detail["msg"][1:]
    return ApiError(
        f"{name if not meant or path[-1] in UNIONS else path[0]}: {message} (got {_short(detail.get('input'))})",
        param=path[0] if path else None,
        code="invalid_value",
    )


def _is_union_tag(part: int | str) -> bool:
    """Whether a step of pydantic's path names a member of a union (str, list[...]) and no field."""
    return isinstance(part, str) and (part == "str" or "[" in part)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
