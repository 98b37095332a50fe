from __future__ import annotations

import itertools

import pytest

from lianlu.client.base import ChatRequest, Client, CompletionRequest, Delta, Reply, Scored, ScoreRequest
from lianlu.client.scripted import ScriptedClient
from lianlu.core.errors import RequestError
from lianlu.formats.messages import Message, ToolCall


def ask(text: str) -> ChatRequest:
    return ChatRequest([Message(role="user", content=text)])


def test_entries_of_every_kind_in_order() -> None:
    call = Message(role="assistant", tool_calls=[ToolCall(id="1", name="f", arguments={"x": 1})])
    whole = Reply(Message(role="assistant", content="cut"), "length", 3, 4)
    client: Client = ScriptedClient(["one two", call, whole, lambda request: request.messages[-1].content.upper()])
    replies = client.chat([ask("a"), ask("b"), ask("c"), ask("d")])
    assert [reply.text for reply in replies] == ["one two", "", "cut", "D"]
    assert [reply.finish_reason for reply in replies] == ["stop", "tool_calls", "length", "stop"]
    assert replies[0].completion_tokens == 2


def test_requests_are_recorded_and_completions_and_scores_use_the_same_script() -> None:
    client = ScriptedClient(["text", Scored(-1.5, 2, True)])
    assert client.complete([CompletionRequest("p q")])[0].prompt_tokens == 2
    assert client.score([ScoreRequest("a", "b")]) == [Scored(-1.5, 2, True)]
    assert client.requests == [CompletionRequest("p q"), ScoreRequest("a", "b")]


@pytest.mark.parametrize("text", ["", "one", "  a  b\n\nc ", "\n"])
def test_stream_gives_the_text_in_pieces_then_the_whole(text: str) -> None:
    deltas = list(ScriptedClient([text]).stream(ask("x")))
    assert "".join(delta.text for delta in deltas) == text
    assert deltas[-1].reply is not None
    assert deltas[-1].reply.text == text
    assert all(delta.reply is None for delta in deltas[:-1])
    assert isinstance(deltas[-1], Delta)


def test_ended_script_wrong_kinds_and_errors_are_raised() -> None:
    client = ScriptedClient([Scored(0, 1, True), "no score", ValueError("boom")])
    with pytest.raises(RequestError, match="has a score"):
        client.chat([ask("x")])
    with pytest.raises(RequestError, match="where a score is asked"):
        client.score([ScoreRequest("a", "b")])
    with pytest.raises(ValueError, match="boom"):
        client.chat([ask("x")])
    with pytest.raises(RequestError, match="ended before request 4"):
        client.chat([ask("x")])


def test_endless_script() -> None:
    client = ScriptedClient(itertools.repeat("again"))
    assert [reply.text for reply in client.chat([ask("x")] * 50)] == ["again"] * 50
