"""Task arithmetic: generated problems with one whole number as the answer, by head or with the Python tool.

Both ways ask the same problems, which never occur in training (`formats.problems` keeps the sides apart). By head it is
one chat turn; with the tool it is the agent's loop, all problems of a group in step, so that their turns are batched.
With the tool the log shows the whole run: what the model wrote, its calls, and what they gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lianlu.agent.loop import Limits, run_many
from lianlu.agent.steps import Run, Turn, to_messages
from lianlu.agent.tools.python import python_tool
from lianlu.client.base import ChatRequest, Client, Reply, Sampling
from lianlu.core.config import Config
from lianlu.eval.extract import number, same_number
from lianlu.eval.sources import Sources
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import MetricSpec
from lianlu.formats.messages import Message
from lianlu.formats.problems import arithmetic_problem

METRICS = (MetricSpec(name="exact_match"),)
USED_TOOL = MetricSpec(name="used_tool")
# The clock must not decide a score: turns and tokens end a run, and the sandbox ends a call.
NO_TIME_LIMIT_S = 1e9


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
    if not config.tool:
        return Task("arithmetic", "arithmetic", items, protocol, METRICS, requests, score)

    def solve(client: Client, group: Sequence[Item]) -> list[list[Response]]:
        limits = Limits(max_steps=config.max_turns, max_tokens=config.max_tokens * config.max_turns, max_s=NO_TIME_LIMIT_S)
        questions = [[Message(role="user", content=item.input)] for item in group]
        return [_replies(one) for one in run_many(client, questions, [python_tool()], limits, sampling)]

    protocol = {"name": "arithmetic agent", "tool": "python", "max_tokens": config.max_tokens, "max_turns": config.max_turns}
    metrics = (*METRICS, USED_TOOL)
    return Task("arithmetic-tool", "arithmetic", items, protocol, metrics, requests, score_run, solve, needs_sandbox=True)


def _replies(run: Run) -> list[Response]:
    """Everything that was said after the question, in order; only the model's own turns have token counts."""
    found: list[Response] = []
    for step in run.steps[1:]:
        if isinstance(step, Turn):
            found.append(Reply(step.message, step.finish_reason, step.prompt_tokens, step.completion_tokens))
        else:
            found.extend(Reply(message, "stop") for message in to_messages([step]))
    return found


def score_run(item: Item, responses: Sequence[Response]) -> Score:
    """Like `score`, if the run came to an answer; and whether the tool was called at all."""
    replies = [response for response in responses if isinstance(response, Reply)]
    last = replies[-1].message
    answered = last.role == "assistant" and not last.tool_calls
    found = score(item, responses if answered else [Reply(Message(role="assistant"), "stop")])
    used = any(reply.message.tool_calls for reply in replies)
    return Score({**found.values, USED_TOOL.name: float(used)}, extracted=found.extracted)


def score(item: Item, responses: Sequence[Response]) -> Score:
    """1 if the number the last reply settles on is the answer."""
    found = number(responses[-1].text if isinstance(responses[-1], Reply) else "")
    return Score({"exact_match": float(found.found and same_number(found.text, item.target))}, extracted=[found])
