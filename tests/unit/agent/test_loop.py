from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lianlu.agent import loop
from lianlu.agent.loop import Limits, run, run_many, stream
from lianlu.agent.steps import Called, Nudge, Run, Turn
from lianlu.agent.tool import Tool, tool
from lianlu.client.base import ChatRequest, Reply, Sampling
from lianlu.client.scripted import ScriptedClient
from lianlu.core.errors import ConfigError, MissingExtraError, RequestError
from lianlu.formats.messages import Message, ToolCall


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def calls(*pairs: tuple[str, dict[str, Any]], text: str = "", id: str = "random") -> Message:
    return Message(role="assistant", content=text, tool_calls=[ToolCall(id=id, name=n, arguments=a) for n, a in pairs])


@pytest.fixture
def add() -> Tool:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return add


def test_call_answer_and_final_text(add: Tool) -> None:
    client = ScriptedClient([calls(("add", {"a": 2, "b": "3"}), text="let me see"), "It is 5."])
    result = run(client, user("2 + 3?"), [add])
    assert (result.answer, result.stop_reason, result.model) == ("It is 5.", "answer", "scripted")
    assert [step.kind for step in result.steps] == ["given", "turn", "called", "turn"]
    assert [(m.role, m.content, m.tool_call_id) for m in result.messages] == [
        ("user", "2 + 3?", ""),
        ("assistant", "let me see", ""),
        ("tool", "5", "call_1"),
        ("assistant", "It is 5.", ""),
    ]
    second = client.requests[1]
    assert isinstance(second, ChatRequest)
    assert list(second.messages) == result.messages[:3]
    assert list(second.tools) == [add.spec]


def test_without_tools_it_is_a_chat() -> None:
    assert run(ScriptedClient(["hello"]), user("hi")).answer == "hello"


def test_wrong_calls_are_explained(add: Tool) -> None:
    client = ScriptedClient([calls(("ad", {}), ("weather", {}), ("add", {"a": 1})), "sorry"])
    texts = [called.message.content for called in run(client, user("x"), [add]).calls]
    assert texts == [
        "Error: there is no tool ad; did you mean add?",
        "Error: there is no tool weather; there are: add",
        "Error: argument b is missing",
    ]
    alone = run(ScriptedClient([calls(("add", {})), "sorry"]), user("x"))
    assert alone.calls[0].message.content == "Error: there is no tool add; there are: none, answer without one"


def test_calls_of_one_turn_run_side_by_side_and_are_answered_in_order() -> None:
    barrier = threading.Barrier(3, timeout=20)

    @tool
    def meet(name: str) -> str:
        """Meet the others."""
        barrier.wait()
        return name

    client = ScriptedClient([calls(*(("meet", {"name": name}) for name in "abc"), id=""), "done"])
    result = run(client, user("x"), [meet])
    assert [(c.call.id, c.message.content) for c in result.calls] == [("call_1", "a"), ("call_2", "b"), ("call_3", "c")]
    assert [call.id for call in result.turns[0].message.tool_calls] == ["call_1", "call_2", "call_3"]


def test_the_same_call_again_is_nudged_then_ends_the_run() -> None:
    count = itertools.count(1)

    @tool
    def tick() -> int:
        """Count."""
        return next(count)

    same = calls(("tick", {}))
    nudged = run(ScriptedClient([same, same, "well"]), user("x"), [tick])
    assert [called.message.content for called in nudged.calls] == ["1", loop.ANSWERED]
    assert (nudged.answer, [called.skipped for called in nudged.calls]) == ("well", [False, True])
    stuck = run(ScriptedClient(itertools.repeat(same)), user("x"), [tick])
    assert (stuck.stop_reason, stuck.answer, len(stuck.turns)) == ("repeated", "", 3)
    assert len(stuck.messages) == 1 + 2 * 3


def test_a_call_made_again_later_is_run_again(add: Tool) -> None:
    first, other = calls(("add", {"a": 1, "b": 1})), calls(("add", {"a": 2, "b": 2}))
    result = run(ScriptedClient([first, other, first, "done"]), user("x"), [add])
    assert [called.message.content for called in result.calls] == ["2", "4", "2"]


def endless(text: str = "a b c") -> Iterator[Callable[[Any], Message]]:
    numbers = itertools.count()
    return itertools.repeat(lambda request: calls(("add", {"a": next(numbers), "b": 0}), text=text))


def test_budgets(add: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    by_steps = run(ScriptedClient(endless()), user("x"), [add], Limits(max_steps=3))
    assert (by_steps.stop_reason, len(by_steps.turns), by_steps.answer) == ("steps", 3, "")
    client = ScriptedClient(endless())
    by_tokens = run(client, user("x"), [add], Limits(max_tokens=7), Sampling(max_tokens=5))
    assert (by_tokens.stop_reason, by_tokens.completion_tokens) == ("tokens", 9)
    assert [request.sampling.max_tokens for request in client.requests if isinstance(request, ChatRequest)] == [5, 4, 1]
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    assert run(ScriptedClient(endless()), user("x"), [add], Limits(max_s=20)).stop_reason == "time"


def test_an_unreadable_call_is_nudged_at_most_twice() -> None:
    broken = '<tool_call>\n{"name": "add", "argu\n</tool_call>'
    result = run(ScriptedClient([broken, broken, broken]), user("x"))
    assert [step.kind for step in result.steps] == ["given", "turn", "nudge", "turn", "nudge", "turn"]
    assert (result.stop_reason, result.answer) == ("answer", broken)
    assert isinstance(result.steps[2], Nudge)
    assert result.messages[2].role == "user"


@pytest.mark.parametrize(
    ("finish", "reason", "answer"), [("length", "length", "half"), ("error", "error", ""), ("stop", "answer", "half")]
)
def test_how_a_reply_ends(finish: Any, reason: str, answer: str) -> None:
    result = run(ScriptedClient([Reply(Message(role="assistant", content="half"), finish)]), user("x"))
    assert (result.stop_reason, result.answer) == (reason, answer)


def test_a_conversation_that_is_too_long_ends_the_run_and_keeps_its_steps(add: Tool) -> None:
    script = [calls(("add", {"a": 1, "b": 1})), RequestError("the prompt is too long")]
    result = run(ScriptedClient(script), user("x"), [add])
    assert (result.stop_reason, result.error, len(result.calls), result.answer) == ("refused", "the prompt is too long", 1, "")
    with pytest.raises(RequestError, match="cannot connect"):
        run(ScriptedClient([RequestError("cannot connect", status=503)]), user("x"))


def test_many_runs_share_their_turns(add: Tool) -> None:
    batches: list[int] = []

    class Counting(ScriptedClient):
        def chat(self, requests: Any) -> list[Reply]:
            batches.append(len(requests))
            return super().chat(requests)

    def model(request: Any) -> str | Message:
        text, last = request.messages[0].content, request.messages[-1]
        return f"{text} {last.content}" if last.role == "tool" or text == "b" else calls(("add", {"a": 1, "b": len(text)}))

    results = run_many(Counting(itertools.repeat(model)), [user(text) for text in ("a", "b", "ccc")], [add])
    assert [result.answer for result in results] == ["a 2", "b b", "ccc 4"]
    assert batches == [3, 2]


def test_one_refused_request_does_not_harm_the_others() -> None:
    def model(request: Any) -> str:
        text: str = request.messages[0].content
        if text == "long":
            raise RequestError("too long")
        return text

    results = run_many(ScriptedClient(itertools.repeat(model)), [user("a"), user("long"), user("b")])
    assert [(result.stop_reason, result.answer) for result in results] == [("answer", "a"), ("refused", ""), ("answer", "b")]


def test_stream_gives_text_steps_and_the_run(add: Tool) -> None:
    script = [calls(("add", {"a": 1, "b": 1}), text="I add"), "It is 2"]
    events = list(stream(ScriptedClient(script), user("x"), [add]))
    assert [event if isinstance(event, str) else type(event) for event in events] == [
        "I", " add", Turn, Called, "It", " is", " 2", Turn, Run,
    ]  # fmt: skip
    plain = run(ScriptedClient(script), user("x"), [add])
    last = events[-1]
    assert isinstance(last, Run)
    assert without_times(last) == without_times(plain)
    refused = list(stream(ScriptedClient([RequestError("too long")]), user("x")))[-1]
    assert isinstance(refused, Run)
    assert refused.stop_reason == "refused"
    with pytest.raises(RequestError):
        list(stream(ScriptedClient([]), user("x")))


def without_times(result: Run) -> Run:
    return result.model_copy(update={"steps": tuple(step.model_copy(update={"seconds": None}) for step in result.steps)})


def test_what_is_missing_is_raised_and_names_are_unique(add: Tool) -> None:
    @tool
    def lacking() -> str:
        """Lack something."""
        raise MissingExtraError("no sandbox", hint="install it")

    with pytest.raises(MissingExtraError):
        run(ScriptedClient([calls(("lacking", {}), ("lacking", {}))]), user("x"), [lacking])
    with pytest.raises(ConfigError, match="same name: add, add"):
        run(ScriptedClient([]), user("x"), [add, add])
