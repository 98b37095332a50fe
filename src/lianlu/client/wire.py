"""The OpenAI chat and completions API as JSON: our requests out, its answers in.

Pure functions between `client.base` and JSON values; `client.openai` carries them over HTTP. Unknown fields are ignored
and missing ones have defaults, because servers differ. A tool call whose arguments are not a JSON object is left in the
content as text, so that a loop can show it to the model again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from lianlu.client.base import (
    ChatRequest,
    CompletionRequest,
    Constraint,
    FinishReason,
    Reply,
    Sampling,
    Scored,
    TokenLogprob,
)
from lianlu.core.errors import DataError, RequestError
from lianlu.formats.messages import Message, ToolSpec, from_openai, to_openai

Json = dict[str, Any]
_OPTIONAL = ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed")
_FINISH: dict[str | None, FinishReason] = {
    None: "stop",
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


def chat_body(model: str, request: ChatRequest) -> Json:
    """The body of POST /chat/completions."""
    body = {"model": model, "messages": [to_openai(message) for message in request.messages], **_sampling(request.sampling)}
    if request.tools:
        body["tools"] = [tool_to_openai(tool) for tool in request.tools]
        body |= _tool_choice(request.tool_choice)
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    return body


def completion_body(model: str, request: CompletionRequest) -> Json:
    """The body of POST /completions."""
    body = {"model": model, "prompt": request.prompt, **_sampling(request.sampling)}
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def echo_body(model: str, prompt: str) -> Json:
    """The body of POST /completions that returns the prompt's own log-probabilities and generates nothing."""
    return {"model": model, "prompt": prompt, "max_tokens": 0, "temperature": 0.0, "echo": True, "logprobs": 1}


def tool_to_openai(tool: ToolSpec) -> Json:
    """A tool as the API wants it."""
    return {"type": "function", "function": tool.model_dump()}


def _tool_choice(choice: str) -> Json:
    """`auto` is what servers do unasked."""
    if choice in ("required", "none"):
        return {"tool_choice": choice}
    return {} if choice == "auto" else {"tool_choice": {"type": "function", "function": {"name": choice}}}


def _sampling(sampling: Sampling) -> Json:
    """Fields that differ from their defaults; servers need not know the others."""
    body: Json = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    usual = Sampling()
    body |= {name: value for name in _OPTIONAL if (value := getattr(sampling, name)) != getattr(usual, name)}
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body | ({} if sampling.constraint is None else _constraint(sampling.constraint))


def _constraint(constraint: Constraint) -> Json:
    """A schema as OpenAI has it; expressions and grammars as vLLM does. Raises: RequestError for a schema that is not JSON."""
    if constraint.kind == "regex":
        return {"structured_outputs": {"regex": constraint.source}}
    if constraint.kind == "lark":
        return {"structured_outputs": {"grammar": constraint.source}}
    try:
        schema = json.loads(constraint.source)
    except ValueError as error:
        raise RequestError(f"the JSON schema is not JSON: {error}", hint="mend the schema") from error
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}}


def chat_reply(answer: Any) -> Reply:
    """A chat answer as ours. Raises: RequestError if it has no choices."""
    choice = _first_choice(answer)
    logprobs = (choice.get("logprobs") or {}).get("content") or ()
    return _reply(to_message(choice.get("message") or {}), choice.get("finish_reason"), answer.get("usage"), logprobs)


def completion_reply(answer: Any) -> Reply:
    """A completion as ours. Raises: RequestError if it has no choices."""
    choice = _first_choice(answer)
    reply = _reply(Message(role="assistant", content=choice.get("text") or ""), choice.get("finish_reason"), answer.get("usage"))
    return replace(reply, logprobs=_flat_logprobs(choice))


@dataclass(frozen=True)
class Echo:
    """The tokens of a prompt with their log-probabilities, and the character at which each begins."""

    tokens: tuple[TokenLogprob, ...]
    offsets: tuple[int, ...]

    def first_after(self, place: int) -> int | None:
        """Index of the token that begins at the character `place`; None if a token reaches across it."""
        first = next((index for index, offset in enumerate(self.offsets) if offset >= place), len(self.offsets))
        begins_there = first < len(self.offsets) and self.offsets[first] == place
        return first if begins_there else None

    def scored(self, first: int) -> Scored:
        """Log-probability of the tokens from `first` on. Raises: RequestError if one of them has none."""
        tokens = self.tokens[first:]
        if any(math.isnan(token.logprob) for token in tokens):
            hint = "give a context, or score with a local model"
            raise RequestError("the API gives no log-probability to the first token of a text", hint=hint, status=501)
        greedy = all(token.logprob >= max((value for _, value in token.top), default=token.logprob) for token in tokens)
        return Scored(sum(token.logprob for token in tokens), len(tokens), greedy)


def echo(answer: Any) -> Echo:
    """The echoed prompt of an answer. Raises: RequestError where the server does not echo."""
    choice = _first_choice(answer)
    tokens = _flat_logprobs(choice)
    offsets = tuple((choice.get("logprobs") or {}).get("text_offset") or ())
    if not tokens or len(offsets) != len(tokens):
        hint = "score with a local model, or serve it with lianlu: its /v1/completions has echo and logprobs"
        raise RequestError("this server does not return the log-probabilities of a prompt", hint=hint, status=501)
    return Echo(tokens, offsets)


def to_message(raw: Json) -> Message:
    """An assistant message of the API as ours; calls that cannot be read stay in the content as text."""
    whole, broken = [], []
    for call in raw.get("tool_calls") or []:
        try:
            from_openai({"role": "assistant", "tool_calls": [call]})
            whole.append(call)
        except (DataError, KeyError, TypeError, ValueError):
            broken.append(_call_text(call))
    content = raw.get("content")
    message = from_openai(
        {"role": "assistant", "content": content if isinstance(content, list) else content or "", "tool_calls": whole}
    )
    text = "\n".join(part for part in [message.content, *broken] if part)
    return message.model_copy(update={"content": text})


def _call_text(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    name, arguments = json.dumps(function.get("name")), function.get("arguments")
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


def _first_choice(answer: Any) -> Json:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        shown = json.dumps(answer)[:200]
        hint = "is this the address of an OpenAI-compatible API?"
        raise RequestError(f"the server's answer has no choices: {shown}", hint=hint, status=502)
    first: Json = choices[0]
    return first


def _reply(message: Message, finish: str | None, usage: Json | None, logprobs: Iterable[Json] = ()) -> Reply:
    reason = _FINISH.get(finish, "error")
    if reason in ("stop", "tool_calls"):
        # Servers disagree about the reason of a turn with calls; the calls themselves decide.
        reason = "tool_calls" if message.tool_calls else "stop"
    usage = usage or {}
    tokens = tuple(_chat_logprob(item) for item in logprobs)
    num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Reply(message, reason, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, tokens, num_cached)


def _chat_logprob(item: Json) -> TokenLogprob:
    top = tuple((other["token"], other["logprob"]) for other in item.get("top_logprobs") or ())
    return TokenLogprob(item["token"], item["logprob"], top)


def _flat_logprobs(choice: Json) -> tuple[TokenLogprob, ...]:
    """The logprobs of the completions API; the first token of an echoed prompt has none, which becomes NaN."""
    raw = choice.get("logprobs") or {}
    tokens, values = raw.get("tokens") or [], raw.get("token_logprobs") or []
    tops = raw.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise RequestError("the server's log-probabilities do not match its tokens", hint="look at the server's log", status=502)
    return tuple(
        TokenLogprob(token, math.nan if value is None else value, tuple((top or {}).items()))
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


@dataclass
class Assembly:
    """Puts a streamed reply together: feed it chunks, then ask for the whole."""

    text: str = ""
    finish: str | None = None
    usage: Json | None = None
    calls: dict[int, Json] = field(default_factory=dict)
    logprobs: list[Json] = field(default_factory=list)

    def add(self, chunk: Json) -> str:
        """Take in one chunk; returns the text it brings. Raises: RequestError for an error inside the stream."""
        if chunk.get("error"):
            error = chunk["error"]
            text = error.get("message") or json.dumps(error) if isinstance(error, dict) else str(error)
            raise RequestError(f"the server broke off the reply: {text}", hint="look at the server's log", status=502)
        self.usage = chunk.get("usage") or self.usage
        choices = chunk.get("choices") or []
        if not choices:
            return ""
        choice, delta = choices[0], choices[0].get("delta") or {}
        self.finish = choice.get("finish_reason") or self.finish
        self.logprobs.extend((choice.get("logprobs") or {}).get("content") or ())
        for piece in delta.get("tool_calls") or ():
            self._add_call(piece)
        text = delta.get("content") or ""
        self.text += text
        return text

    def _add_call(self, piece: Json) -> None:
        """Some servers leave out `index`: then an id opens a new call and a piece without one goes on with the last."""
        index = piece.get("index")
        if index is None:
            index = len(self.calls) if piece.get("id") or not self.calls else max(self.calls)
        call = self.calls.setdefault(index, {"id": "", "function": {"name": "", "arguments": ""}})
        function = piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        arguments = function.get("arguments") or ""
        call["function"]["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)

    def reply(self) -> Reply:
        """The whole reply. Raises: RequestError if the stream ended before the reply did."""
        if self.finish is None:
            hint = "look at the server's log: it hung up in the middle of an answer"
            raise RequestError("the stream ended in the middle of the reply", hint=hint, status=502)
        message = to_message({"content": self.text, "tool_calls": [self.calls[index] for index in sorted(self.calls)]})
        return _reply(message, self.finish, self.usage, self.logprobs)
