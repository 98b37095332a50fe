"""The body of POST /v1/completions: texts or token ids to continue, as they stand.

Source: the OpenAI API reference (legacy completions). `wire` has what it shares with the other bodies.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lianlu.serve.failures import ApiError
from lianlu.serve.wire import MAX_CHOICES, Choices
from lianlu.serve.wire_rules import Ruled

DEFAULT_TOKENS = 16


class CompletionBody(Choices, Ruled):
    """The body of POST /v1/completions. With `echo`, `logprobs` and `max_tokens: 0` it scores a text."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None

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
        return DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens
