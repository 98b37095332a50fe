"""What the server answers: the JSON shapes of the OpenAI API, whole replies and the chunks of a stream.

Pure functions from events of the engine to plain dictionaries; `generate` decides when each is sent. Last station of a
request. Source: the OpenAI API reference (chat completion object, chat completion chunk, completion object).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from json.encoder import encode_basestring
from typing import Any

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.serve.reading import Opened, WholeCall, Written

Json = dict[str, Any]
LOWEST = -9999.0
_MARK = "\0"


@dataclass(frozen=True)
class Head:
    """What every chunk and reply of one request repeats."""

    model: str
    kind: str
    """The `object` of a whole reply: chat.completion, text_completion or response."""
    id: str
    wants_usage: bool
    """Whether the last chunk of a stream carries token counts; all others then have null there."""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def chat(cls, model: str, wants_usage: bool) -> Head:
        """The head of a new chat completion."""
        return cls(model, "chat.completion", f"chatcmpl-{uuid.uuid4().hex}", wants_usage)

    @classmethod
    def response(cls) -> Head:
        """The head of a new response; its model is named once it is known."""
        return cls("", "response", f"resp_{uuid.uuid4().hex}", wants_usage=True)

    def named(self, model: str) -> Head:
        """The same head for the model of that name."""
        return replace(self, model=model)

    @classmethod
    def completion(cls, model: str, wants_usage: bool) -> Head:
        """The head of a new text completion."""
        return cls(model, "text_completion", f"cmpl-{uuid.uuid4().hex}", wants_usage)

    def whole(self, choices: list[Json], usage: Json) -> Json:
        """A reply in one piece."""
        return {"id": self.id, "object": self.kind, "created": self.created, "model": self.model} | {
            "choices": choices,
            "usage": usage,
        }

    def chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        """A piece of a stream."""
        kind = "chat.completion.chunk" if self.kind == "chat.completion" else self.kind
        head: Json = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        return head | {"usage": usage} if self.wants_usage else head


@dataclass(frozen=True)
class Frame:
    """A server-sent event whose JSON is the same each time but for one text; what is constant is written once."""

    before: str
    after: str

    @classmethod
    def around(cls, shape: Callable[[str], Json]) -> Frame:
        """The frame of the events `shape(text)`."""
        line = json.dumps(shape(_MARK), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        before, _, after = line.rpartition(json.dumps(_MARK))
        return cls(f"data: {before}", f"{after}\n\n")

    def filled(self, text: str) -> bytes:
        """The event that carries `text`; what has no UTF-8 becomes a question mark."""
        return f"{self.before}{encode_basestring(text)}{self.after}".encode("utf-8", "replace")


def usage(events: Sequence[Event], num_prompts: int) -> Json:
    """Token counts over all choices; each prompt counts once, as its choices share it."""
    per_prompt = max(len(events) // num_prompts, 1)
    prompt = sum(event.prompt_tokens for event in events[::per_prompt])
    cached = sum(event.cached_tokens for event in events[::per_prompt])
    completion = sum(event.completion_tokens for event in events)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    } | _predicted(events)


def _predicted(events: Sequence[Event]) -> Json:
    """What became of the tokens that were proposed ahead of the model; nothing where there were none."""
    timings = [event.timings for event in events if event.timings is not None]
    drafted, accepted = sum(one.num_drafted for one in timings), sum(one.num_accepted for one in timings)
    if not drafted:
        return {}
    details = {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": drafted - accepted}
    return {"completion_tokens_details": details | {"reasoning_tokens": 0}}


def chat_message(content: str, calls: Sequence[WholeCall]) -> Json:
    """The message of a whole chat completion."""
    said: Json = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
    if calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls
        ]
    return said


def chat_choice(index: int, message: Json, finish: str, logprobs: Sequence[TokenLogprob] | None) -> Json:
    """A choice of a whole chat completion."""
    return {"index": index, "message": message, "logprobs": chat_logprobs(logprobs), "finish_reason": finish}


def chat_delta(index: int, delta: Json, finish: str | None = None, logprobs: Sequence[TokenLogprob] | None = None) -> Json:
    """A choice of a chunk of a streamed chat completion."""
    return {"index": index, "delta": delta, "logprobs": chat_logprobs(logprobs), "finish_reason": finish}


def call_delta(piece: Opened | Written) -> Json:
    """The delta of a piece of a call: its name first, with empty arguments, then the arguments as they are written."""
    if isinstance(piece, Written):
        return {"tool_calls": [{"index": piece.number, "function": {"arguments": piece.text}}]}
    function = {"name": piece.name, "arguments": ""}
    return {"tool_calls": [{"index": piece.number, "id": piece.id, "type": "function", "function": function}]}


def chat_logprobs(tokens: Sequence[TokenLogprob] | None) -> Json | None:
    """The log-probabilities of a chat choice; None when they were not asked for."""
    if tokens is None:
        return None
    entries = [_entry(token.token, token.logprob) | {"top_logprobs": [_entry(*pair) for pair in token.top]} for token in tokens]
    return {"content": entries, "refusal": None}


def _finite(logprob: float) -> float:
    """JSON has no infinity; an impossible token gets what OpenAI writes for it."""
    return max(logprob, LOWEST)


def _entry(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode("utf-8"))}


@dataclass
class TextLogprobs:
    """Log-probabilities of the completions API: four lists side by side; `offset` is how far the text has come."""

    offset: int = 0

    def shape(self, tokens: Sequence[TokenLogprob | None], pieces: Sequence[str]) -> Json:
        """The lists for the next tokens, whose texts in the whole are `pieces`; None stands for a token nothing predicts."""
        offsets = []
        for piece in pieces:
            offsets.append(self.offset)
            self.offset += len(piece)
        return {
            "tokens": [piece if token is None else token.token for token, piece in zip(tokens, pieces, strict=True)],
            "token_logprobs": [None if token is None else _finite(token.logprob) for token in tokens],
            "top_logprobs": [None if token is None else best_by_text(token.top) for token in tokens],
            "text_offset": offsets,
        }


def best_by_text(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Alternatives by their text; of tokens that look alike the likelier one stays."""
    best: dict[str, float] = {}
    for text, logprob in pairs:
        best[text] = max(_finite(logprob), best.get(text, LOWEST))
    return best


def text_choice(index: int, text: str, finish: str | None, logprobs: Json | None) -> Json:
    """A choice of a text completion, whole or streamed."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def model_card(name: str, created: int, fields: Json) -> Json:
    """An entry of the list of models; `fields` are ours beside OpenAI's (context length, ...)."""
    return {"id": name, "object": "model", "created": created, "owned_by": "lianlu"} | fields
