"""Task arithmetic by head and with the Python tool."""

from __future__ import annotations

import pytest

from lianlu.client.base import Reply
from lianlu.eval.sources import Sources
from lianlu.eval.tasks.arithmetic import ArithmeticTask, build
from lianlu.formats.messages import Message
from lianlu.formats.problems import for_training


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
