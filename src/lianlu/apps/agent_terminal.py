"""`lianlu agent MODEL TASK`: an agent at work in the terminal, every step shown as it happens."""

from __future__ import annotations

from collections.abc import Iterable

from lianlu.agent.loop import Limits, stream
from lianlu.agent.steps import Called, Nudge, Run, Step
from lianlu.agent.tools.python import python_tool
from lianlu.client.base import Client
from lianlu.core import console
from lianlu.formats.messages import Message


def solve(client: Client, task: str, max_steps: int) -> Run:
    """Let the model work on the task with the Python tool; prints text, calls and results, and returns the run."""
    events = stream(client, [Message(role="user", content=task)], [python_tool()], Limits(max_steps=max_steps))
    try:
        return show(events)
    finally:
        client.close()


def show(events: Iterable[str | Step | Run]) -> Run:
    """Print the events of a run and return it."""
    run = Run()
    at_line_start = True
    for event in events:
        if isinstance(event, str):
            console.out_raw(event)
            at_line_start = event.endswith("\n")
            continue
        if not at_line_start:
            console.out()
            at_line_start = True
        if isinstance(event, Called):
            for name, value in event.call.arguments.items():
                console.info(f"> {event.call.name}({name}):\n{_indented(str(value))}")
            console.info(f"< {event.message.content.strip()}")
        elif isinstance(event, Nudge):
            console.info(f"! {event.text}")
        elif isinstance(event, Run):
            run = event
    if run.stop_reason != "answer":
        console.warn(f"the run ended without an answer: {run.error or run.stop_reason}")
    return run


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())
