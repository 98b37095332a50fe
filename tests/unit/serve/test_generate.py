"""Sampling of choices, and what of a growing reply a client may see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.engine.sequence import Event
from lianlu.formats.messages import ToolSpec
from lianlu.serve import replies
from lianlu.serve.generate import ChatJob, ChatState, finish_of, prepare_chat, sampling
from lianlu.serve.keys import Caller
from lianlu.serve.run import Run
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ChatBody
from lianlu.tokenizer import tool_calls

BODY = parse_body(ChatBody, b'{"messages": [{"role": "user", "content": "hi"}], "seed": 3, "top_k": -1}')


class Parser:
    """The real reading of tool calls, without a vocabulary."""

    parse = staticmethod(tool_calls.parse)
    visible = staticmethod(tool_calls.visible)


def test_choices_differ_in_their_seed_alone() -> None:
    first, second = (sampling(BODY, 5, None, choice) for choice in (0, 1))
    assert (first.seed, second.seed) == (3, 4)
    assert (first.top_k, first.temperature, first.top_p, first.max_tokens) == (0, 1.0, 1.0, 5)


def test_a_reply_gets_the_room_that_the_prompt_leaves(fake_engine: Any, serving: Any) -> None:
    job = asyncio.run(prepare_chat(serving(), BODY, Caller()))
    assert job.run.handles
    assert fake_engine.seen[0].sampling.max_tokens == fake_engine.engine.max_len - len(fake_engine.seen[0].prompt)


@pytest.mark.parametrize(("finish", "said"), [("stop", "stop"), ("length", "length"), (None, "stop")])
def test_reasons(finish: Any, said: str) -> None:
    assert finish_of(Event(0, finish_reason=finish)) == said


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


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.booleans())
def test_a_stream_of_any_pieces_shows_what_the_whole_reply_says(pieces: list[str], with_tools: bool) -> None:
    """Content is sent once and in order; white space before a tool call may have been shown before it was known."""
    tools = [ToolSpec(name="add")] if with_tools else []
    job = ChatJob(replies.Head.chat("m", False), BODY, Parser(), tools, Run(None, []))  # type: ignore[arg-type]
    state = ChatState(job, 0)
    events = [*(Event(0, text=piece) for piece in pieces), Event(0, finish_reason="stop")]
    deltas = [delta for event in events for delta in state.feed(event)]
    content = "".join(delta["delta"].get("content", "") for delta in deltas)
    calls = [call for delta in deltas for call in delta["delta"].get("tool_calls", [])]
    whole = job.message("".join(pieces))
    assert content.rstrip() == whole.content.rstrip()
    assert [call["function"]["name"] for call in calls] == [call.name for call in whole.tool_calls]
    assert [call["index"] for call in calls] == list(range(len(calls)))
    assert deltas[-1]["finish_reason"] == ("tool_calls" if calls else "stop")
    assert [delta["finish_reason"] for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
