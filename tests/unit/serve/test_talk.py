"""From a conversation to sequences: what reaches the engine, and which field an error names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from lianlu.client.base import Constraint
from lianlu.core.errors import RequestError
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller
from lianlu.serve.service import Service
from lianlu.serve.talk import Ask, Talk, begin, naming
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ChatBody

Serving = Callable[..., Service]
ADD, SUB = ({"type": "function", "function": {"name": name}} for name in ("add", "sub"))


def start(service: Service, **fields: Any) -> Talk:
    raw = {"messages": [{"role": "user", "content": "hi"}], "tools": [ADD, SUB]} | fields
    body = parse_body(ChatBody, json.dumps(raw).encode())
    ask = Ask(body, body.conversation(), body.tool_use(), body.rule(), body.token_limit, body.num_logprobs, body.num_choices)
    return asyncio.run(begin(service, Caller(salt="mine"), ask, "id"))


def test_a_tool_that_is_named_changes_the_rule_and_not_the_prompt(serving: Serving, fake_engine: Any) -> None:
    asked = []
    fake_engine.engine.grammars.for_tools = lambda tools, choice, parallel: asked.append(
        ([t.name for t in tools], choice, parallel)
    )
    start(serving())
    start(serving(), tool_choice={"type": "function", "function": {"name": "sub"}}, parallel_tool_calls=False)
    assert asked == [(["add", "sub"], "auto", True), (["sub"], "required", False)]
    first, second = fake_engine.seen
    assert first.prompt == second.prompt == tuple(map(ord, "uhiaddsub"))


def test_calls_are_sure_only_under_a_grammar(serving: Serving, fake_engine: Any) -> None:
    assert not start(serving()).sure
    fake_engine.tool_rule = Constraint("lark", "start: call")
    talk = start(serving())
    assert talk.sure
    assert fake_engine.seen[-1].sampling.constraint == fake_engine.tool_rule
    assert not start(serving(), tools=[], guided_regex="a").sure
    assert fake_engine.seen[-1].salt == "mine"


def test_tools_of_which_no_grammar_can_be_made_name_their_field(serving: Serving, fake_engine: Any) -> None:
    def refuse(*_: Any) -> None:
        raise RequestError("too many tools", hint="offer fewer", status=422)

    fake_engine.engine.grammars.for_tools = refuse
    with pytest.raises(ApiError) as caught:
        start(serving(), tool_choice="required")
    assert (caught.value.param, caught.value.status, caught.value.hint) == ("tools", 422, "offer fewer")


def test_a_prompt_that_is_refused_names_the_messages(serving: Serving) -> None:
    with pytest.raises(ApiError, match="101 tokens") as caught:
        start(serving(), tools=[], messages=[{"role": "user", "content": "x" * 100}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("error", "param"),
    [
        (RequestError("logit_bias names token 9"), "logit_bias"),
        (RequestError("this engine keeps no sessions"), "session"),
        (RequestError("the prompt is empty"), "input"),
        (ApiError("of its own", param="tools"), "tools"),
    ],
)
def test_what_the_engine_complains_about_is_named(error: RequestError, param: str) -> None:
    with pytest.raises(ApiError) as caught, naming("input"):
        raise error
    assert (caught.value.param, caught.value.message) == (param, error.message)


def test_other_refusals_stay_as_they_are() -> None:
    full = RequestError("full", status=429, retry_after_s=3)
    with pytest.raises(RequestError) as caught, naming("input"):
        raise full
    assert caught.value is full
