"""What every request body has in common: strict types, known fields only, and errors that name the field at fault.

First station of a request: bytes -> a body -> messages, tools, sampling and rules in our own types. `"0.5"` is no number. A
field that would change the answer but is not supported is refused unless it has its neutral value, fields that change
nothing are accepted and dropped, and a misspelt field is refused: an ignored wish is worse than an error. The bodies
themselves are in `wire_chat`, `wire_text` and `wire_responses`. Source: the OpenAI API reference; further fields as vLLM,
LMDeploy and llama.cpp name them.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lianlu.client.base import Sampling
from lianlu.serve.failures import ApiError

MAX_CHOICES = 64
MAX_STOPS = 16
MAX_BIASES = 4096
MAX_SESSION_CHARS = 256

HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "reasoning_effort", "verbosity"}
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
    | {"cache_prompt", "guided_decoding_backend", "timings_per_token"}
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (None, True),
    "add_special_tokens": (None, False),
    "allowed_token_ids": (None, []),
    "audio": (None,),
    "background": (None, False),
    "bad_words": (None, []),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "conversation": (None,),
    "documents": (None, []),
    "dry_multiplier": (None, 0),
    "echo": (None, False),
    "function_call": (None,),
    "functions": (None, []),
    "guided_whitespace_pattern": (None,),
    "include_stop_str_in_output": (None, False),
    "length_penalty": (None, 1),
    "min_new_tokens": (None, 0),
    "min_tokens": (None, 0),
    "mirostat": (None, 0),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "n_probs": (None, 0),
    "prediction": (None,),
    "priority": (None, 0),
    "prompt_logprobs": (None,),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "stop_token_ids": (None, []),
    "suffix": (None, ""),
    "truncate_prompt_tokens": (None,),
    "typical_p": (None, 1),
    "use_beam_search": (None, False),
    "web_search_options": (None,),
    "xtc_probability": (None, 0),
}
OTHER_NAMES = {
    "repeat_penalty": "repetition_penalty",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "random_seed": "seed",
    "session_id": "session",
    "grammar": "structured_outputs",
    "json_schema": "response_format",
}
"""Names that other servers have for fields of ours; proposed where they are used."""
UNIONS = {
    "content": "a string or a list of text parts",
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a string or a list of strings",
    "tool_choice": '"none", "auto", "required" or a function to call',
    "input": "a text or a list of items",
    "output": "a string or a list of text parts",
}

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Strict(BaseModel):
    """A body with strict types, known fields only, and finite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, raw: Any) -> Any:
        return {key: value for key, value in raw.items() if _is_ours(cls, key, value)} if isinstance(raw, dict) else raw


class Body(Strict):
    """What all requests for text share: the model's name and how tokens are chosen."""

    model: str = ""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    ignore_eos: bool | None = None
    session: Annotated[str, Field(min_length=1, max_length=MAX_SESSION_CHARS)] | None = None
    deadline_s: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Body:
        if len(self.stops) > MAX_STOPS or not all(self.stops):
            raise ApiError(f"stop takes up to {MAX_STOPS} strings, none of them empty", param="stop")
        if len(self.logit_bias or ()) > MAX_BIASES:
            raise ApiError(f"logit_bias takes up to {MAX_BIASES} tokens", param="logit_bias")
        for token in self.logit_bias or ():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise ApiError(f"logit_bias: {short(token)} is no token id", hint='write {"1234": -100}', param="logit_bias")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self, max_tokens: int, logprobs: int | None, choice: int) -> Sampling:
        """How one choice is sampled. OpenAI's defaults hold (temperature 1); choices of a seeded request take seeds in a row."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            seed=None if self.seed is None else _wrapped(self.seed + choice),
            stop=self.stops,
            logprobs=logprobs,
        )


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk with the token counts; there is no padding to leave out."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class Choices(Body):
    """What requests for several answers share: how many, and what a stream of them ends with."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _choices_agree(self) -> Choices:
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options needs stream: true", param="stream_options")
        if self.best_of not in (None, self.num_choices):
            hint = "leave it out; n gives several answers to choose from"
            raise ApiError("best_of is not supported", hint=hint, param="best_of", code="unsupported_parameter")
        return self

    @property
    def num_choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


B = TypeVar("B", bound=Strict)


def parse_body(cls: type[B], raw: bytes) -> B:
    """Check a request body. Raises: ApiError (400) that names the field and says what is wrong with it."""
    try:
        return cls.model_validate_json(raw)
    except ValidationError as error:
        raise _explain(error) from error


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _wrapped(seed: int) -> int:
    """A seed of 64 bits with a sign; the one after the largest is the smallest."""
    return (seed + 2**63) % 2**64 - 2**63


def _is_ours(cls: type[Strict], key: str, value: Any) -> bool:
    if key in cls.model_fields:
        return True
    if key in NEUTRAL:
        if value in NEUTRAL[key]:
            return False
        raise ApiError(f"{key} is not supported", hint="leave it out", param=key, code="unsupported_parameter")
    if key in HARMLESS:
        return False
    other = OTHER_NAMES.get(key)
    near = [other] if other in cls.model_fields else difflib.get_close_matches(key, cls.model_fields, n=1)
    hint = f"did you mean {near[0]}?" if near else "leave it out"
    raise ApiError(f"unknown field {key[:80]!r}", hint=hint, param=key[:80], code="unknown_parameter")


def _explain(error: ValidationError) -> ApiError:
    """The deepest of the errors, which is the one that the client's value came closest to."""
    detail = max(error.errors(include_url=False, include_context=False), key=lambda item: len(item["loc"]))
    if detail["type"] == "json_invalid":
        return ApiError(f"the body is not JSON: {detail['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    path = [str(part) for part in detail["loc"] if not _is_union_tag(part)]
    name = ".".join(path)[:200] or "the body"
    if detail["type"] == "missing":
        return ApiError(f"{name} is required", param=path[0], code="missing_required_parameter")
    meant = UNIONS.get(path[-1] if path else "") or UNIONS.get(path[0] if path else "")
    message = f"should be {meant}" if meant else detail["msg"][0].lower() + detail["msg"][1:]
    return ApiError(
        f"{name if not meant or path[-1] in UNIONS else path[0]}: {message} (got {short(detail.get('input'))})",
        param=path[0] if path else None,
        code="invalid_value",
    )


def _is_union_tag(part: int | str) -> bool:
    """Whether a step of pydantic's path names a member of a union (str, list[...]) and no field."""
    return isinstance(part, str) and (part == "str" or "[" in part)


def short(value: Any) -> str:
    """A value of the client's as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
