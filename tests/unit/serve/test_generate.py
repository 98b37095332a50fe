"""Chat completions: what of a growing reply a client sees, and when."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.formats.messages import ToolSpec
from lianlu.serve import replies
from lianlu.serve.exchange import event as as_event
from lianlu.serve.generate import ChatJob, ChatState, finish_of, prepare_chat
from lianlu.serve.keys import Caller
from lianlu.serve.reading import Reader
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ChatBody, ToolUse
from lianlu.tokenizer import tool_calls

BODY = parse_body(ChatBody, b'{"messages": [{"role": "user", "content": "hi"}], "seed": 3, "top_k": -1}')


class Parser:
    """The real reading of tool calls, without a vocabulary."""

    parse = staticmethod(tool_calls.parse)
    visible = staticmethod(tool_calls.visible)


def job_and_state(tools: list[ToolSpec], sure: bool = False, wants_logprobs: bool = False) -> tuple[ChatJob, ChatState]:
    use = ToolUse(tuple(tools), "auto" if tools else "none")
    talk: Any = SimpleNamespace(reader=lambda: Reader(Parser(), use, sure), run=None)  # type: ignore[arg-type]
    job = ChatJob(replies.Head.chat("m", False), talk, wants_logprobs)
    return job, ChatState(job, 0, talk.reader())


def choices(state: ChatState, events: list[Event]) -> list[dict[str, Any]]:
    """The choices of the chunks that events bring, as a client reads them."""
    chunks = [as_event(chunk) for event in events for chunk in state.feed(event)]
    return [json.loads(chunk.removeprefix(b"data: "))["choices"][0] for chunk in chunks]


def test_a_reply_gets_the_room_that_the_prompt_leaves(fake_engine: Any, serving: Any) -> None:
    job = asyncio.run(prepare_chat(serving(), BODY, Caller()))
    assert job.run.handles
    assert job.head.model == "tiny"
    assert fake_engine.seen[0].sampling.max_tokens == fake_engine.engine.max_len - len(fake_engine.seen[0].prompt)


@pytest.mark.parametrize(("finish", "said"), [("stop", "stop"), ("length", "length"), (None, "stop")])
def test_reasons(finish: Any, said: str) -> None:
    _, state = job_and_state([])
    assert finish_of(Event(0, finish_reason=finish), state.reader) == said


def test_a_call_that_is_cut_off_ends_as_the_text_did() -> None:
    _, state = job_and_state([ToolSpec(name="add")], sure=True)
    (opened, written, last) = choices(
        state, [Event(0, text='<tool_call>{"name": "add", "arguments": {"a'), Event(0, finish_reason="length")]
    )
    assert opened["delta"]["tool_calls"][0]["function"] == {"name": "add", "arguments": ""}
    assert written["delta"]["tool_calls"][0]["function"] == {"arguments": '{"a'}
    assert last["finish_reason"] == "length"


def test_logprobs_come_once_even_where_no_text_does() -> None:
    _, state = job_and_state([ToolSpec(name="add")], wants_logprobs=True)
    token = TokenLogprob("<", -0.5)
    held, last, end = choices(state, [Event(0, text="<", logprobs=(token,)), Event(0, text="b", finish_reason="stop")])
    assert (held["delta"], held["logprobs"]["content"][0]["token"]) == ({"content": ""}, "<")
    assert (last["delta"], last["logprobs"], end["finish_reason"]) == ({"content": "<b"}, None, "stop")


PIECES = [
    "Sum",
    " ",
    "\n",
    "<",
    "<tool_call>",
    '{"name": "add", "arguments": {"a": 1}}',
    "</tool_call>",
    '{"name": "add"}',
    "<|act",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.booleans(), st.booleans())
def test_a_stream_of_any_pieces_shows_what_the_whole_reply_says(pieces: list[str], with_tools: bool, sure: bool) -> None:
    """Content is sent once and in order; white space before a tool call may have been shown before it was known."""
    job, state = job_and_state([ToolSpec(name="add")] if with_tools else [], sure)
    deltas = choices(state, [*(Event(0, text=piece) for piece in pieces), Event(0, finish_reason="stop")])
    content = "".join(delta["delta"].get("content", "") for delta in deltas)
    calls: dict[int, str] = {}
    for call in (call for delta in deltas for call in delta["delta"].get("tool_calls", [])):
        calls[call["index"]] = calls.get(call["index"], "") + call["function"]["arguments"]
    whole = job._choice(0, Event(0, text="".join(pieces), finish_reason="stop"))["message"]
    assert content.rstrip() == (whole["content"] or "").rstrip()
    assert list(calls.values()) == [call["function"]["arguments"] for call in whole.get("tool_calls", [])]
    assert list(calls) == list(range(len(calls)))
    assert deltas[-1]["finish_reason"] == ("tool_calls" if calls else "stop")
    assert [delta["finish_reason"] for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


@given(st.text(), st.text(max_size=5))
def test_a_written_frame_is_the_chunk_itself(text: str, model: str) -> None:
    job, state = job_and_state([])
    job.head = job.head.named(model)
    state = ChatState(job, 3, state.reader)
    expected = as_event(job.head.chunk([replies.chat_delta(3, {"content": text})]))
    assert [as_event(chunk) for chunk in state.feed(Event(0, text=text))] == ([expected] if text else [])
