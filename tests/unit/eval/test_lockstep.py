"""Conversations in step: batches are the same whichever thread is faster."""

from __future__ import annotations

import random
import time

import pytest

from lianlu.client.base import ChatRequest, CompletionRequest, Reply, Scored, ScoreRequest
from lianlu.client.scripted import ScriptedClient
from lianlu.core.errors import RequestError
from lianlu.eval.lockstep import in_step
from lianlu.formats.messages import Message


class Echo(ScriptedClient):
    """Repeats the last message and keeps the batches."""

    def __init__(self, refuse: str = "") -> None:
        super().__init__([])
        self.batches: list[list[str]] = []
        self.refuse = refuse

    def chat(self, requests):
        texts = [request.messages[-1].content for request in requests]
        self.batches.append(texts)
        if self.refuse and self.refuse in texts:
            raise RequestError("too long")
        return [Reply(Message(role="assistant", content=text), "stop") for text in texts]

    def complete(self, requests):
        self.batches.append([request.prompt for request in requests])
        return [Reply(Message(role="assistant", content=request.prompt), "stop") for request in requests]

    def score(self, requests):
        self.batches.append([request.continuation for request in requests])
        return [Scored(-1.0, len(request.continuation), True) for request in requests]


def ask(text: str) -> ChatRequest:
    return ChatRequest([Message(role="user", content=text)])


def talk(name: str, turns: int, rng: random.Random):
    def job(client):
        said = []
        for turn in range(turns):
            time.sleep(rng.random() / 200)
            said.append(client.chat([ask(f"{name}{turn}")])[0].text)
        return said

    return job


def test_rounds_hold_everyone_who_still_runs_in_order():
    for seed in range(3):
        client = Echo()
        results = in_step(
            client, [talk("a", 2, random.Random(seed)), talk("b", 0, random.Random(1)), talk("c", 3, random.Random(2))]
        )
        assert client.batches == [["a0", "c0"], ["a1", "c1"], ["c2"]]
        assert results == [["a0", "a1"], [], ["c0", "c1", "c2"]]


def test_no_conversations():
    assert in_step(Echo(), []) == []


def test_kinds_of_requests_are_kept_apart_and_results_in_place():
    client = Echo()
    jobs = [
        lambda c: c.score([ScoreRequest("x", "yes"), ScoreRequest("x", "no")]),
        lambda c: [reply.text for reply in c.complete([CompletionRequest("p")])],
        lambda c: [delta.reply.text for delta in c.stream(ask("hello"))],
    ]
    scored, completed, streamed = in_step(client, jobs)
    assert [one.num_tokens for one in scored] == [3, 2]
    assert (completed, streamed) == (["p"], ["hello"])
    assert client.batches == [["hello"], ["p"], ["yes", "no"]]


def test_a_refused_request_fails_alone():
    client = Echo(refuse="bad0")

    def cautious(c):
        try:
            return c.chat([ask("bad0")])[0].text
        except RequestError:
            return "refused"

    quick = random.Random(0)
    assert in_step(client, [talk("a", 2, quick), cautious, talk("c", 1, quick)]) == [["a0", "a1"], "refused", ["c0"]]


def test_an_error_of_a_conversation_comes_out_after_the_others_have_ended():
    client = Echo()

    def fails(c):
        c.chat([ask("x")])
        raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        in_step(client, [fails, talk("b", 2, random.Random(0))])
    assert client.batches == [["x", "b0"], ["b1"]]
