"""Task arithmetic by head and with the Python tool."""

from __future__ import annotations

import pytest

from lianlu.client.base import Reply
from lianlu.client.scripted import ScriptedClient
from lianlu.eval.sources import Sources
from lianlu.eval.task import replies_to
from lianlu.eval.tasks.arithmetic import ArithmeticTask, build
from lianlu.formats.messages import Message, ToolCall
from lianlu.formats.problems import for_training
from lianlu.sandbox.run import check as sandbox_problem

needs_sandbox = pytest.mark.skipif(sandbox_problem() is not None, reason="needs the sandbox (bubblewrap)")


def test_problems_are_those_kept_from_training():
    task = build(ArithmeticTask(limit=30), Sources(seed=3))
    assert len(task.items) == 30
    assert not any(for_training(item.fields["expression"]) for item in task.items)
    assert all(eval(item.fields["expression"]) == int(item.target) for item in task.items)


def test_the_seed_makes_the_problems():
    one, two = build(ArithmeticTask(), Sources(seed=1)), build(ArithmeticTask(), Sources(seed=2))
    assert one.dataset_hash() == build(ArithmeticTask(), Sources(seed=1)).dataset_hash() != two.dataset_hash()


@pytest.mark.parametrize(("text", "right"), [("It is {}.", 1.0), ("{}", 1.0), ("{}0", 0.0), ("", 0.0), ("{} or 7", 0.0)])
def test_the_number_has_to_be_the_answer(text: str, right: float):
    task = build(ArithmeticTask(limit=1), Sources())
    reply = Reply(Message(role="assistant", content=text.format(task.items[0].target)), "stop")
    assert task.score(task.items[0], [reply]).values == {"exact_match": right}


def test_both_ways_ask_the_same_problems():
    by_head, with_tool = build(ArithmeticTask(), Sources()), build(ArithmeticTask(tool=True), Sources())
    assert by_head.dataset_hash() == with_tool.dataset_hash()
    assert by_head.protocol_hash() != with_tool.protocol_hash()
    assert (by_head.name, with_tool.name) == ("arithmetic", "arithmetic-tool")
    assert (by_head.needs_sandbox, with_tool.needs_sandbox) == (False, True)


@needs_sandbox
def test_the_tool_is_called_and_its_answer_read():
    task = build(ArithmeticTask(limit=3, tool=True, max_turns=2), Sources())
    codes = [item.fields["expression"] for item in task.items]

    def model(request) -> Message:
        asked = next(item for item in task.items if item.input == request.messages[0].content)
        if asked is task.items[1]:
            return Message(role="assistant", content=f"It is {asked.target}.")
        if asked is task.items[2] or request.messages[-1].role == "user":
            code = codes[task.items.index(asked)] + f" + 0 * {len(request.messages)}"
            return Message(role="assistant", tool_calls=[ToolCall(name="python", arguments={"code": code})])
        return Message(role="assistant", content=f"The answer is {request.messages[-1].content}.")

    client = ScriptedClient([model] * 5)
    found = replies_to(client, task, task.items)
    assert [len(replies) for replies in found] == [3, 1, 4]
    scores = [task.score(item, replies).values for item, replies in zip(task.items, found, strict=True)]
    assert scores == [
        {"exact_match": 1.0, "used_tool": 1.0},
        {"exact_match": 1.0, "used_tool": 0.0},
        {"exact_match": 0.0, "used_tool": 1.0},
    ]
    assert all(request.tools[0].name == "python" for request in client.requests)
