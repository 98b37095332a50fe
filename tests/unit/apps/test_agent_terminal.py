from __future__ import annotations

import pytest

from lianlu.agent.loop import stream
from lianlu.agent.tool import tool
from lianlu.apps.agent_terminal import show
from lianlu.client.scripted import ScriptedClient
from lianlu.formats.messages import Message, ToolCall


@tool
def double(x: int) -> int:
    """Twice a number."""
    return 2 * x


def test_every_step_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    calls = Message(role="assistant", content="Let me see.", tool_calls=[ToolCall(name="double", arguments={"x": 21})])
    client = ScriptedClient([calls, "It is 42."])
    run = show(stream(client, [Message(role="user", content="Twice 21?")], [double]))
    shown = capsys.readouterr()
    assert run.answer == "It is 42."
    assert "Let me see." in shown.out
    assert "It is 42." in shown.out
    assert "> double(x):\n    21" in shown.err
    assert "< 42" in shown.err


def test_a_run_without_an_answer_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    call = Message(role="assistant", tool_calls=[ToolCall(name="double", arguments={"x": 1})])
    show(stream(ScriptedClient([call, call, call, call]), [Message(role="user", content="?")], [double]))
    assert "ended without an answer: repeated" in capsys.readouterr().err
