"""Messages of the proto as the bodies of the REST API, and events of the engine as messages.

Requests take the way of the REST bodies, so that what is refused, and what happens with a wish that is not spelt out, is the
same behind both doors.
"""

from __future__ import annotations

import json
from typing import Any

from lianlu.engine.sequence import Event
from lianlu.serve.embed import EmbeddingBody
from lianlu.serve.failures import ApiError
from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.reading import Opened, Piece, Said
from lianlu.serve.replies import Json
from lianlu.serve.tokens import TokenizeBody
from lianlu.serve.wire import Body, parse_body
from lianlu.serve.wire_chat import ChatBody
from lianlu.serve.wire_rules import Rule, grammar_constraint, regex_constraint, schema_constraint

CONSTRAINTS = {"json_schema": schema_constraint, "regex": regex_constraint, "grammar": grammar_constraint}
FINISH = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH, "tool_calls": pb.FINISH_REASON_TOOL_CALLS}
POOLING = {pb.POOLING_UNSPECIFIED: "mean", pb.POOLING_MEAN: "mean", pb.POOLING_LAST: "last"}
NUMBERS = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
TIMINGS = tuple(field.name for field in pb.Timings.DESCRIPTOR.fields)


def chat_body(request: pb.GenerateRequest) -> ChatBody:
    """The body of a request that has a conversation. Raises: ApiError (400)."""
    common, sampling = _common(request), request.sampling
    if sampling.HasField("max_tokens"):
        common["max_tokens"] = sampling.max_tokens
    if sampling.HasField("logprobs"):
        common |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    body = parse_body(ChatBody, _as_json(common | _conversation(request.chat)))
    if body.tool_use().tools and request.WhichOneof("constraint"):
        hint = 'leave one of them out, or set tool_choice to "none"'
        raise ApiError("a reply cannot be held to a form while tools are offered", hint=hint, param="tools")
    return body


def text_body(request: pb.GenerateRequest) -> Body:
    """What a request with a text or token ids wants beside them. Raises: ApiError (400)."""
    return parse_body(Body, _as_json(_common(request)))


def limits(sampling: pb.Sampling) -> tuple[int | None, int | None]:
    """The most tokens to generate and the number of alternatives for each, None where it is not set. Raises: ApiError (400)."""
    max_tokens = sampling.max_tokens if sampling.HasField("max_tokens") else None
    logprobs = sampling.logprobs if sampling.HasField("logprobs") else None
    if max_tokens == 0:
        raise ApiError("max_tokens is 0", hint="leave it out for as many as there is room for", param="max_tokens")
    if logprobs is not None and logprobs > 20:
        raise ApiError(f"logprobs is {logprobs}", hint="it has to be 0 to 20", param="logprobs")
    return max_tokens, logprobs


def rule(request: pb.GenerateRequest) -> Rule | None:
    """What the reply is held to. Raises: ApiError (400)."""
    kind = request.WhichOneof("constraint")
    return None if kind is None else Rule(CONSTRAINTS[kind](getattr(request, kind), kind, kind), kind)


def embedding_body(request: pb.EmbedRequest) -> EmbeddingBody:
    """The body of a request for vectors. Raises: ApiError (400)."""
    if request.texts and request.token_ids:
        raise ApiError("there are both texts and token_ids", hint="send them in requests of their own", param="texts")
    if request.pooling not in POOLING:
        raise ApiError(f"pooling is {request.pooling}", hint="it has to be POOLING_MEAN or POOLING_LAST", param="pooling")
    texts = list(request.texts) or [list(item.ids) for item in request.token_ids]
    raw: Json = {"model": request.model, "input": texts, "pooling": POOLING[request.pooling]}
    for name, field in (("normalize", "normalize"), ("dimensions", "dimensions"), ("truncate_prompt_tokens", "truncate_tokens")):
        if request.HasField(field):
            raw[name] = getattr(request, field)
    return parse_body(EmbeddingBody, _as_json(raw))


def tokenize_body(request: pb.TokenizeRequest) -> TokenizeBody:
    """The body of a request for token ids. Raises: ApiError (400)."""
    raw: Json = {"model": request.model, "return_token_strs": request.return_tokens}
    if request.WhichOneof("prompt") == "chat":
        raw |= _conversation(request.chat)
        raw.pop("tool_choice", None)
    else:
        raw["prompt"] = request.text
    for name in ("add_special_tokens", "add_generation_prompt"):
        if request.HasField(name):
            raw[name] = getattr(request, name)
    return parse_body(TokenizeBody, _as_json(raw))


def generated(request_id: str, event: Event, pieces: list[Piece], finish: str | None) -> pb.GenerateEvent:
    """News of the engine, read as `pieces`; `finish` says why the reply ended, if it did."""
    message = pb.GenerateEvent(request_id=request_id, token_ids=event.token_ids)
    message.text = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    for piece in pieces:
        if isinstance(piece, Opened):
            message.tool_calls.add(index=piece.number, id=piece.id, name=piece.name)
        elif not isinstance(piece, Said):
            message.tool_calls.add(index=piece.number, arguments=piece.text)
    for item in event.logprobs:
        top = [pb.TopLogprob(token=token, logprob=logprob) for token, logprob in item.top]
        message.logprobs.add(token=item.token, logprob=item.logprob, top=top)
    if finish is not None:
        message.finish_reason = FINISH[finish]
        counts = {"completion_tokens": event.completion_tokens, "cached_tokens": event.cached_tokens}
        message.usage.CopyFrom(pb.Usage(prompt_tokens=event.prompt_tokens, **counts))
        if event.timings is not None:
            message.timings.CopyFrom(pb.Timings(**{name: getattr(event.timings, name) for name in TIMINGS}))
    return message


def _common(request: pb.GenerateRequest) -> Json:
    """Model, sampling, session and deadline as fields of a body."""
    sampling = request.sampling
    raw: Json = {"model": request.model, "ignore_eos": sampling.ignore_eos, "stop": list(sampling.stop)}
    raw |= {name: getattr(sampling, name) for name in NUMBERS if sampling.HasField(name)}
    if sampling.logit_bias:
        raw["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if request.session:
        raw["session"] = request.session
    if request.HasField("deadline_s"):
        raw["deadline_s"] = request.deadline_s
    return raw


def _conversation(chat: pb.Chat) -> Json:
    """Messages and tools as OpenAI writes them. Raises: ApiError (400) for parameters that are no JSON."""
    raw: Json = {"messages": [_message(message) for message in chat.messages]}
    if chat.tools:
        raw["tools"] = [_tool(tool) for tool in chat.tools]
    if chat.tool_choice in ("auto", "none", "required"):
        raw["tool_choice"] = chat.tool_choice
    elif chat.tool_choice:
        raw["tool_choice"] = {"type": "function", "function": {"name": chat.tool_choice}}
    return raw


def _message(message: pb.Message) -> Json:
    calls = [{"id": c.id, "function": {"name": c.name, "arguments": c.arguments or "{}"}} for c in message.tool_calls]
    rest = {"tool_call_id": message.tool_call_id or None, "name": message.name or None, "tool_calls": calls or None}
    return {"role": message.role, "content": message.content, **rest}


def _tool(tool: pb.Tool) -> Json:
    try:
        parameters = json.loads(tool.parameters) if tool.parameters else None
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the parameters of the tool {tool.name[:80]!r} are not JSON: {error}", param="tools") from error
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": parameters}}


def _as_json(raw: dict[str, Any]) -> bytes:
    return json.dumps(raw).encode()
