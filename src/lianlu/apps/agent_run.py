"""STAGE agent: start the server, ask it over the OpenAI chat API, and let an agent with the Python tool solve tasks.

This is the end of the chain, tried as an application would: everything goes over HTTP to the served model. The traces
hold what was said and done; times and rates go to `logs/`, so that the traces are a function of model and questions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Adapter, Checkpoint, Config
from lianlu.core.files import write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.formats.messages import Message


class AgentRunConfig(Config):
    """Which model is served, what it is asked, and which tasks the agent gets."""

    model: Checkpoint
    """The model to serve."""
    adapter: Adapter | None = None
    """An adapter to serve it with."""
    questions: list[str] = Field(default=["What is the capital of France?"], min_length=1)
    """Asked one by one over the chat API, streamed."""
    tasks: list[str] = Field(default=["What is 48 * 17 + 5?"], min_length=1)
    """Given to the agent, which may run Python in the sandbox."""
    max_tokens: int = Field(default=128, gt=0)
    """Cap of each reply, in tokens."""
    precision: str = "auto"
    """float32, bfloat16 or auto."""


def estimate(config: AgentRunConfig) -> Estimate:
    """Mostly the start of the server and a few dozen tokens a second."""
    seconds = 8 + 3 * len(config.questions) + 6 * len(config.tasks)
    return Estimate(seconds, 1_500_000_000, "a small model on a CPU")


def run(config: AgentRunConfig, out: Output) -> None:
    """Serve, ask, and run the agent; writes traces.json and, of the agent, one trace a task."""
    from lianlu.serve.main import running_server

    adapter = Path(config.adapter) if config.adapter else None
    with running_server(Path(config.model), name="model", merge=adapter, engine={"dtype": config.precision}) as url:
        talks, timings = _ask(url, config)
        solved = _solve(url, config, out)
    write_json(out.path / "traces.json", {"questions": talks, "tasks": solved})
    write_json(out.logs / "timings.json", timings)
    out.figures.update(questions=len(talks), tasks=len(solved), tool_calls=sum(task["tool_calls"] for task in solved))
    out.figures["first_answer"] = solved[0]["answer"][:80]


def _ask(url: str, config: AgentRunConfig) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    from lianlu.client.base import ChatRequest, Sampling
    from lianlu.client.openai import OpenAIClient

    client = OpenAIClient(url, model="model")
    talks, timings = [], []
    with console.progress("ask", total=len(config.questions), unit="question") as bar:
        for question in config.questions:
            request = ChatRequest([Message(role="user", content=question)], sampling=Sampling(config.max_tokens))
            began, first, pieces, tokens = time.monotonic(), 0.0, [], 0
            for delta in client.stream(request):
                first = first or time.monotonic() - began
                pieces.append(delta.text)
                tokens = delta.reply.completion_tokens if delta.reply else tokens
            seconds = time.monotonic() - began
            talks.append({"question": question, "answer": "".join(pieces), "tokens": tokens})
            timings.append({"first_token_s": first, "seconds": seconds, "tokens_per_s": tokens / max(seconds, 1e-9)})
            bar.advance(1, tokens_per_s=timings[-1]["tokens_per_s"])
    client.close()
    return talks, timings


def _solve(url: str, config: AgentRunConfig, out: Output) -> list[dict[str, Any]]:
    from lianlu.agent.loop import run as run_agent
    from lianlu.agent.tools.python import python_tool
    from lianlu.agent.trace import write_trace
    from lianlu.client.base import Sampling
    from lianlu.client.openai import OpenAIClient

    client = OpenAIClient(url, model="model")
    solved = []
    with console.progress("agent", total=len(config.tasks), unit="task") as bar:
        for number, task in enumerate(config.tasks):
            messages, sampling = [Message(role="user", content=task)], Sampling(config.max_tokens)
            result = run_agent(client, messages, [python_tool()], sampling=sampling)
            write_trace(out.path / f"task-{number:03d}.jsonl", [result], times=False)
            calls = len(result.calls)
            solved.append({"task": task, "answer": result.answer, "stopped": result.stop_reason, "tool_calls": calls})
            bar.advance(1, tool_calls=calls)
    client.close()
    return solved
