"""Task arithmetic: generated problems with one whole number as the answer, by head or with the Python tool.

Both ways ask the same problems, which never occur in training (`formats.problems` keeps the sides apart). By head it is
one chat turn; with the tool it is the agent's loop, all problems of a group in step, so that their turns are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lianlu.client.base import ChatRequest, Reply, Sampling
from lianlu.core.config import Config
from lianlu.eval.extract import number, same_number
from lianlu.eval.sources import Sources
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import MetricSpec
from lianlu.formats.messages import Message
from lianlu.formats.problems import arithmetic_problem

METRICS = (MetricSpec(name="exact_match"),)


class ArithmeticTask(Config):
    """Generated arithmetic, with or without the Python tool."""

    kind: Literal["arithmetic"] = "arithmetic"
    name: str = ""
    """What the task is called in logs and scores (default: arithmetic, or arithmetic-tool)."""
    limit: int = Field(default=40, gt=0)
    """How many problems."""
    tool: bool = False
    """Whether the model may run Python in the sandbox."""
    max_tokens: int = Field(default=96, gt=0)
    """Cap of each reply, in tokens."""
    max_turns: int = Field(default=3, gt=0)
    """With the tool: how often the model may speak."""


def build(config: ArithmeticTask, sources: Sources) -> Task:
    """The task over generated problems."""
    problems = [arithmetic_problem(sources.seed, index, training=False) for index in range(config.limit)]
    items = [
        Item(str(index), problem.question, str(problem.answer), fields={"expression": problem.expression})
        for index, problem in enumerate(problems)
    ]
    sampling = Sampling(max_tokens=config.max_tokens)

    def requests(item: Item) -> list[Request]:
        return [ChatRequest([Message(role="user", content=item.input)], sampling=sampling)]

    protocol = {"name": "arithmetic chat", "max_tokens": config.max_tokens}
    return Task("arithmetic", "arithmetic", items, protocol, METRICS, requests, score)


def score(item: Item, responses: Sequence[Response]) -> Score:
    """1 if the number the last reply settles on is the answer."""
    found = number(responses[-1].text if isinstance(responses[-1], Reply) else "")
    return Score({"exact_match": float(found.found and same_number(found.text, item.target))}, extracted=[found])
