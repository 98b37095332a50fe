"""Task docstrings: the loss of right answers, and the overlap of free ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.client.base import ChatRequest, ChatScoreRequest, Reply, Scored
from lianlu.core.errors import DataError
from lianlu.eval.sources import Sources
from lianlu.eval.tasks.docstrings import DocstringsTask, build
from lianlu.formats.messages import Conversation, Message, ToolSpec, write_conversations


def conversation(number: int, *texts: str) -> Conversation:
    roles = ("user", "assistant")
    messages = [Message(role=roles[index % 2], content=text) for index, text in enumerate(texts)]
    return Conversation(id=f"c{number}", messages=messages, meta={"module": f"m{number // 2}"})


def held_out(folder: Path, count: int = 4) -> Sources:
    write_conversations(folder / "held_out.jsonl", [conversation(n, f"what is {n}?", f"it is the {n}") for n in range(count)])
    return Sources(conversations=folder)


def test_every_item_is_scored_and_some_are_answered(tmp_path: Path):
    task = build(DocstringsTask(generate=2, max_tokens=7), held_out(tmp_path))
    kinds = [[type(request) for request in task.requests(item)] for item in task.items]
    assert kinds == [[ChatScoreRequest, ChatRequest], [ChatScoreRequest], [ChatScoreRequest, ChatRequest], [ChatScoreRequest]]
    scored, asked = task.requests(task.items[0])
    assert [message.content for message in scored.messages] == ["what is 0?", "it is the 0"]
    assert [message.content for message in asked.messages] == ["what is 0?"]
    assert asked.sampling.max_tokens == 7
    assert [item.cluster for item in task.items] == ["m0", "m0", "m1", "m1"]
    assert [metric.name for metric in task.metrics] == ["answer_loss", "perplexity", "word_f1", "rouge_l"]


def test_loss_is_per_token_with_the_tokens_as_weight(tmp_path: Path):
    task = build(DocstringsTask(), held_out(tmp_path))
    score = task.score(task.items[0], [Scored(-6.0, 4, False)])
    assert (score.values, score.weights) == ({"answer_loss": 1.5}, {"answer_loss": 4.0})
    assert [metric.name for metric in task.metrics] == ["answer_loss", "perplexity"]


def test_a_free_answer_is_compared_with_the_reference(tmp_path: Path):
    task = build(DocstringsTask(generate=1), held_out(tmp_path))
    score = task.score(task.items[0], [Scored(-1.0, 1, True), Reply(Message(role="assistant", content="It is the 0."), "stop")])
    assert score.values["word_f1"] == score.values["rouge_l"] == 1.0


def test_the_limit_spreads_over_the_set(tmp_path: Path):
    task = build(DocstringsTask(limit=2), held_out(tmp_path, 10))
    assert [item.id for item in task.items] == ["c0", "c5"]


def test_changed_questions_or_settings_change_a_hash(tmp_path: Path):
    sources = held_out(tmp_path)
    one, two = build(DocstringsTask(), sources), build(DocstringsTask(generate=1), sources)
    assert one.dataset_hash() == two.dataset_hash()
    assert one.protocol_hash() != two.protocol_hash()
    assert build(DocstringsTask(limit=3), sources).dataset_hash() != one.dataset_hash()


def test_a_conversation_without_an_answer_is_named(tmp_path: Path):
    write_conversations(tmp_path / "held_out.jsonl", [conversation(0, "what?")])
    with pytest.raises(DataError, match="c0 does not end with an answer"):
        build(DocstringsTask(), Sources(conversations=tmp_path))


def test_an_empty_set_is_refused(tmp_path: Path):
    write_conversations(tmp_path / "held_out.jsonl", [])
    with pytest.raises(DataError, match="no conversations"):
        build(DocstringsTask(), Sources(conversations=tmp_path))


def test_other_kinds_of_conversations_are_left_out(tmp_path: Path):
    kinds = ["docstring", "arithmetic", None]
    conversations = [
        conversation(n, "q", "a").model_copy(update={"meta": {"kind": kind} if kind else {}}) for n, kind in enumerate(kinds)
    ]
    write_conversations(tmp_path / "held_out.jsonl", conversations)
    sources = Sources(conversations=tmp_path)
    assert [item.id for item in build(DocstringsTask(), sources).items] == ["c0", "c2"]
    assert [item.id for item in build(DocstringsTask(about="arithmetic"), sources).items] == ["c1", "c2"]
    assert len(build(DocstringsTask(about=""), sources).items) == 3


def test_tools_on_offer_are_passed_on(tmp_path: Path):
    tool = ToolSpec(name="python")
    write_conversations(tmp_path / "held_out.jsonl", [conversation(0, "q", "a").model_copy(update={"tools": [tool]})])
    task = build(DocstringsTask(generate=1), Sources(conversations=tmp_path))
    assert [list(request.tools) for request in task.requests(task.items[0])] == [[tool], [tool]]
