"""Request bodies: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Sampling
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ChatBody
from lianlu.serve.wire_responses import ResponsesBody
from lianlu.serve.wire_text import CompletionBody

USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatBody:
    return parse_body(ChatBody, json.dumps({"model": "m", "messages": USER} | fields).encode())


def complete(**fields: Any) -> CompletionBody:
    return parse_body(CompletionBody, json.dumps({"model": "m", "prompt": "a"} | fields).encode())


def refusal(cls: type[Any], raw: bytes) -> ApiError | None:
    try:
        parse_body(cls, raw)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ({"temperature": "0.5"}, "temperature: input should be a valid number (got '0.5')", "temperature"),
        ({"temperature": 2.1}, "less than or equal to 2", "temperature"),
        ({"top_p": 0}, "greater than 0", "top_p"),
        ({"n": True}, "n: input should be a valid integer", "n"),
        ({"n": 0}, "greater than or equal to 1", "n"),
        ({"max_tokens": 1.5}, "valid integer", "max_tokens"),
        ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
        ({"stop": 5}, "stop: should be a string or a list of strings (got 5)", "stop"),
        ({"stop": ["a", 5]}, "stop: should be a string or a list of strings (got 5)", "stop"),
        ({"stop": ""}, "none of them empty", "stop"),
        ({"stop": ["x"] * 17}, "up to 16", "stop"),
        ({"seed": 2**63}, "less than", "seed"),
        ({"messages": []}, "at least 1 item", "messages"),
        ({"messages": "hi"}, "valid array", "messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "messages"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content: should be a string or a list of text parts",
            "messages",
        ),
        ({"messages": [{"role": "user"}]}, "role 'user' has no content", "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role is required", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text only", "messages"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0", "tools"),
        ({"top_logprobs": 2}, "needs logprobs", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "less than or equal to 20", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "needs stream", "stream_options"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous", "stream_options"),
        ({"stream": True, "stream_options": {"include_useage": True}}, "stream_options.include_useage", "stream_options"),
        ({"presence_penalty": 2.5}, "less than or equal to 2", "presence_penalty"),
        ({"frequency_penalty": "0"}, "valid number", "frequency_penalty"),
        ({"repetition_penalty": 0}, "greater than 0", "repetition_penalty"),
        ({"min_p": 1.1}, "less than or equal to 1", "min_p"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5: input should be less than or equal to 100", "logit_bias"),
        ({"logit_bias": {"the": 1}}, "'the' is no token id", "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "'-1' is no token id", "logit_bias"),
        ({"logit_bias": {"\u0662": 1}}, "is no token id", "logit_bias"),
        ({"logit_bias": [5]}, "should be an object", "logit_bias"),
        ({"session": ""}, "at least 1 character", "session"),
        ({"session": "x" * 300}, "at most 256", "session"),
        ({"deadline_s": 0}, "greater than 0", "deadline_s"),
        ({"ignore_eos": 1}, "valid boolean", "ignore_eos"),
        ({"best_of": 2}, "best_of is not supported", "best_of"),
        ({"stop_token_ids": [5]}, "stop_token_ids is not supported", "stop_token_ids"),
        ({"background": True}, "background is not supported", "background"),
        ({"temprature": 1}, "unknown field 'temprature'", "temprature"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], said: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert said in caught.value.message
    assert (caught.value.param, caught.value.status) == (param, 400)
    assert "pydantic" not in caught.value.message
    assert "[" not in caught.value.message.split("(got")[0]


@pytest.mark.parametrize(
    ("field", "proposed"),
    [("max_token", "max_tokens"), ("repeat_penalty", "repetition_penalty"), ("grammar", "structured_outputs")],
)
def test_a_misspelt_field_gets_a_proposal(field: str, proposed: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{field: 5})
    assert caught.value.hint == f"did you mean {proposed}?"


@pytest.mark.parametrize("raw", [b"", b"{", b"nul", b'{"messages": "\xff"}', b'{"messages": "\\ud800"}', b"[" * 100_000, b"{}{}"])
def test_what_is_no_json(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_body(ChatBody, raw)
    assert "not JSON" in caught.value.message
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"text"'])
def test_json_that_is_no_object(raw: bytes) -> None:
    with pytest.raises(ApiError, match="the body: input should be an object"):
        parse_body(ChatBody, raw)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_are_finite(number: str) -> None:
    with pytest.raises(ApiError, match="temperature: input should be a finite number"):
        parse_body(ChatBody, b'{"messages": [{"role": "user", "content": "x"}], "temperature": %s}' % number.encode())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_body_or_an_api_error(raw: bytes) -> None:
    for cls in (ChatBody, CompletionBody, ResponsesBody):
        refused = refusal(cls, raw)
        assert refused is None or (refused.status == 400 and refused.message)


keys = ["role", "content", "type", "text", "name", "function", "json_schema", "schema", "regex", "choice", "format", "5"]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "function", "message"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner),
    max_leaves=6,
)
fields = [*ChatBody.model_fields, *CompletionBody.model_fields, *ResponsesBody.model_fields, "user", "suffix"]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(fields), json_values, max_size=6))
def test_any_object_gives_a_body_or_an_api_error(fields: dict[str, Any]) -> None:
    for cls, needed in ((ChatBody, {"messages": USER}), (CompletionBody, {"prompt": "x"}), (ResponsesBody, {"input": "x"})):
        refused = refusal(cls, json.dumps(needed | fields).encode())
        assert refused is None or (refused.status == 400 and refused.message)


def test_fields_that_change_nothing_are_dropped() -> None:
    body = chat(user="me", metadata={"a": "b"}, store=True, n=None, min_tokens=0, skip_special_tokens=True, use_beam_search=False)
    assert body == chat()


def test_sampling_as_openai_has_it_by_default() -> None:
    plain = chat().sampling(5, None, 0)
    assert plain == Sampling(max_tokens=5, temperature=1.0)
    assert (
        chat(presence_penalty=0.0, frequency_penalty=0, repetition_penalty=1, min_p=0, logit_bias={}).sampling(5, None, 0)
        == plain
    )


def test_every_field_of_sampling_arrives() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 4}
    fields |= {"presence_penalty": 0.2, "frequency_penalty": -0.3, "repetition_penalty": 1.1}
    assert chat(**fields, stop=["x"], logit_bias={"17": -100, "3": 2.5}).sampling(9, 2, 0) == Sampling(
        max_tokens=9, stop=("x",), logprobs=2, logit_bias=((17, -100.0), (3, 2.5)), **fields
    )


def test_choices_differ_in_their_seed_alone() -> None:
    first, second = (chat(seed=3, top_k=-1).sampling(5, None, choice) for choice in (0, 1))
    assert (first.seed, second.seed, first.top_k) == (3, 4, 0)
    assert replace(second, seed=3) == first
    assert chat(seed=2**63 - 1).sampling(5, None, 1).seed == -(2**63)


def test_defaults_are_openai_s() -> None:
    body = chat()
    assert (body.num_choices, body.stops, body.token_limit, body.num_logprobs, body.wants_usage) == (1, (), None, None, False)
    assert complete().token_limit == 16


def test_choices_of_the_client() -> None:
    assert chat(stop="a").stops == ("a",)
    assert chat(stop=["a", "b"]).stops == ("a", "b")
    assert chat(max_tokens=5).token_limit == 5
    assert chat(max_tokens=5, max_completion_tokens=7).token_limit == 7
    assert chat(logprobs=True).num_logprobs == 0
    assert chat(logprobs=True, top_logprobs=3).num_logprobs == 3
    assert chat(stream=True, stream_options={"include_usage": True}).wants_usage
