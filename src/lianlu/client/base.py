"""The one way to talk to a model: batches of requests in, replies out, in order.

`engine.connect` gives a client for a local model, `client.openai` for any OpenAI-compatible URL, `client.scripted`
replies from a list in tests. Evaluation and agents know nothing else of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lianlu.formats.messages import Message, ToolSpec

FinishReason = Literal["stop", "length", "tool_calls", "error"]


@dataclass(frozen=True)
class Constraint:
    """What a reply has to look like; `source` is the text of a JSON Schema, a regular expression, or a Lark grammar.

    The expression and the grammar describe the whole reply. Lark grammars are those of llguidance.
    """

    kind: Literal["json", "regex", "lark"]
    source: str


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature=0` is greedy. `logprobs` asks for that many alternatives a token (None: none).

    Penalties: `presence_penalty` and `frequency_penalty` (-2..2) look at the tokens of the reply, `repetition_penalty` (> 0,
    1 for none) at prompt and reply. `min_p` (0..1) drops what is less likely than that share of the most likely token.
    `logit_bias` adds to the logits of token ids.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True)
class ChatRequest:
    """Continue a conversation; the reply is an assistant message.

    `tool_choice`: "auto", "required" (at least one call), "none", or the name of the tool to call (once).
    """

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    sampling: Sampling = Sampling()
    tool_choice: str = "auto"


@dataclass(frozen=True)
class CompletionRequest:
    """Continue a text as it stands, without a chat template."""

    prompt: str
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class ScoreRequest:
    """How likely is `continuation` after `context`? The tokens are those of the whole, cut where the context ends."""

    context: str
    continuation: str


@dataclass(frozen=True)
class ChatScoreRequest:
    """How likely is the last assistant message, its end token included, after the messages before it?"""

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()


@dataclass(frozen=True)
class TokenLogprob:
    """A token's text, its log-probability, and the most likely alternatives at that place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer: the message, why it ended, and token counts; `cached_tokens` of the prompt did not have to be computed."""

    message: Message
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0

    @property
    def text(self) -> str:
        return self.message.content


@dataclass(frozen=True)
class Scored:
    """Log-probability of a continuation in nats, its number of tokens, and whether greedy decoding would give it."""

    logprob: float
    num_tokens: int
    is_greedy: bool


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed reply; the last one carries the whole `reply`."""

    text: str = ""
    reply: Reply | None = field(default=None)


class Client(Protocol):
    """A model that answers. `name` says which one, for logs and reports."""

    name: str

    def chat(self, requests: Sequence[ChatRequest]) -> list[Reply]: ...

    def complete(self, requests: Sequence[CompletionRequest]) -> list[Reply]: ...

    def score(self, requests: Sequence[ScoreRequest | ChatScoreRequest]) -> list[Scored]: ...

    def stream(self, request: ChatRequest) -> Iterator[Delta]: ...

    def close(self) -> None: ...
