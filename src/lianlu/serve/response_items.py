"""The JSON shapes of the responses API: the response object, its items, and its usage.

Pure functions, as `replies` has them for the other APIs; `responses` decides when each is sent. Source: the OpenAI API
reference (the response object).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.serve import replies
from lianlu.serve.reading import WholeCall
from lianlu.serve.replies import Head, Json
from lianlu.serve.wire_responses import ResponsesBody

Status = Literal["in_progress", "completed", "incomplete", "failed"]


@dataclass(frozen=True)
class ResponseShape:
    """What every copy of one response object repeats: the request's own words beside the head."""

    head: Head
    body: ResponsesBody

    def of(self, status: Status, output: list[Json], event: Event | None = None, error: Json | None = None) -> Json:
        """The response object; with the usage if its last event is known."""
        body = self.body
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": reason,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self.head.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": _text_config(body),
            "tool_choice": body.tool_choice or "auto",
            "tools": [_tool(tool.model_dump()) for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if event is None else usage(event),
            "user": None,
        }


def _text_config(body: ResponsesBody) -> Json:
    form = body.text.format if body.text else None
    shape: Json = {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)
    return {"format": shape, "verbosity": (body.text.verbosity if body.text else None) or "medium"}


def _tool(fields: Json) -> Json:
    return {"description": None, "parameters": None, "strict": True} | {k: v for k, v in fields.items() if v is not None}


def usage(event: Event) -> Json:
    """Token counts."""
    counted = replies.usage([event], 1)
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": event.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted["total_tokens"],
    }


def new_id(prefix: str) -> str:
    """An id that no other item has."""
    return f"{prefix}_{uuid.uuid4().hex}"


def text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> Json:
    """The part of a message that is its text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries(logprobs)}


def entries(logprobs: Sequence[TokenLogprob]) -> list[Json]:
    """Log-probabilities as this API has them."""
    shape = replies.chat_logprobs(logprobs)
    return list(shape["content"]) if shape else []


def message_item(item_id: str, status: Status, parts: list[Json]) -> Json:
    """An assistant's message."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}


def call_item(item_id: str, status: Status, call: WholeCall) -> Json:
    """A call of a function; its `call_id` is what the output of the call has to name."""
    shape: dict[str, Any] = {"id": item_id, "type": "function_call", "status": status}
    return shape | {"call_id": call.id, "name": call.name, "arguments": call.arguments}
