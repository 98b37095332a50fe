"""The tool-calling loop: ask the model, run the calls it makes, show it the answers, until it answers without a call.

`run` drives one conversation, `run_many` several in step (one batch of requests a turn, which a local engine decodes
together), `stream` one with its events as they come. All three move a `Session`, which knows no client. What small models
get wrong is answered in words they can act on: an unknown tool with the names there are, wrong arguments with what is wrong,
a call that cannot be read with how to write one, the same calls twice in a row with where their answer is; a third time
ends the run.

Limits: seconds are looked at between steps, and a tool that never returns is not stopped (the Python tool is, by its
sandbox).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field

from lianlu.agent.steps import Called, Given, Nudge, Run, Step, StopReason, Turn, to_messages
from lianlu.agent.tool import Tool
from lianlu.client.base import ChatRequest, Client, Reply, Sampling
from lianlu.core.config import Config
from lianlu.core.errors import ConfigError, RequestError
from lianlu.formats.messages import Message, ToolCall

MAX_PARALLEL_CALLS = 8
MAX_NUDGES = 2
CALL_MARK = "<tool_call>"
UNREADABLE = (
    f'Your tool call could not be read. Write it like this: {CALL_MARK}{{"name": "...", "arguments": {{...}}}}</tool_call>'
)
ANSWERED = "You made this very call in your last turn; its answer is above. Use it, or do something else."
# Statuses that say "not this request"; with any other the server or the address is wrong.
NOT_THIS_REQUEST = frozenset({400, 413, 422})


class Limits(Config):
    """Where a run ends even without an answer."""

    max_steps: int = Field(default=8, ge=1)
    """Turns of the model."""
    max_tokens: int = Field(default=4096, ge=1)
    """Tokens that the model may write in all turns together."""
    max_s: float = Field(default=300.0, gt=0)
    """Seconds."""


class Session:
    """A run under way: `request` says what to ask next (None at the end), `take` takes the reply and runs its calls.

    Raises: ConfigError if two tools have the same name.
    """

    def __init__(self, messages: Sequence[Message], tools: Sequence[Tool], limits: Limits, sampling: Sampling) -> None:
        self.steps: list[Step] = [Given(messages=tuple(messages))]
        self.stop_reason: StopReason | None = None
        self.error = ""
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            names = ", ".join(sorted(tool.name for tool in tools))
            raise ConfigError(f"two tools have the same name: {names}", hint="rename one: @tool(name=...)")
        self._limits = limits
        self._sampling = sampling
        self._started = self._asked = time.monotonic()

    def request(self) -> ChatRequest | None:
        """The next request, or None once there is a reason to stop."""
        turns = [step for step in self.steps if isinstance(step, Turn)]
        left = self._limits.max_tokens - sum(turn.completion_tokens for turn in turns)
        self._asked = time.monotonic()
        if self.stop_reason is None:
            if len(turns) >= self._limits.max_steps:
                self.stop_reason = "steps"
            elif left <= 0:
                self.stop_reason = "tokens"
            elif self._asked - self._started >= self._limits.max_s:
                self.stop_reason = "time"
        if self.stop_reason is not None:
            return None
        sampling = dataclasses.replace(self._sampling, max_tokens=min(self._sampling.max_tokens, left))
        return ChatRequest(to_messages(self.steps), [tool.spec for tool in self._tools.values()], sampling)

    def take(self, reply: Reply) -> list[Step]:
        """Take the reply to the last request; returns the steps it led to, the turn itself first."""
        before = len(self.steps)
        earlier = _last_calls(self.steps)
        message = self._numbered(reply.message)
        turn = Turn(
            message=message,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=time.monotonic() - self._asked,
        )
        self.steps.append(turn)
        if message.tool_calls:
            self._call(message.tool_calls, earlier)
        elif CALL_MARK in message.content and sum(isinstance(step, Nudge) for step in self.steps) < MAX_NUDGES:
            self.steps.append(Nudge(text=UNREADABLE))
        else:
            reasons: dict[str, StopReason] = {"length": "length", "error": "error"}
            self.stop_reason = reasons.get(reply.finish_reason, "answer")
        return self.steps[before:]

    def refuse(self, error: RequestError) -> None:
        """End the run because its last request cannot be served, mostly since the conversation has become too long."""
        self.stop_reason, self.error = "refused", error.message

    def result(self, model: str) -> Run:
        """The run as it stands."""
        tools = tuple(tool.spec for tool in self._tools.values())
        reason = self.stop_reason or "steps"
        return Run(model=model, tools=tools, steps=tuple(self.steps), stop_reason=reason, error=self.error)

    def _numbered(self, message: Message) -> Message:
        """The message with ids of our own: those of models and servers are missing, equal or random."""
        count = sum(isinstance(step, Called) for step in self.steps)
        calls = [call.model_copy(update={"id": f"call_{count + number}"}) for number, call in enumerate(message.tool_calls, 1)]
        return message.model_copy(update={"tool_calls": calls})

    def _call(self, calls: Sequence[ToolCall], earlier: Sequence[Called]) -> None:
        if [_signature(call) for call in calls] == [_signature(called.call) for called in earlier]:
            answers = [_answer(call, ANSWERED) for call in calls]
            self.steps += [Called(call=call, message=text, skipped=True) for call, text in zip(calls, answers, strict=True)]
            if any(called.skipped for called in earlier):
                self.stop_reason = "repeated"
        elif len(calls) == 1:
            self.steps.append(self._called(calls[0]))
        else:
            with ThreadPoolExecutor(min(MAX_PARALLEL_CALLS, len(calls)), thread_name_prefix="lianlu-tool") as pool:
                self.steps += pool.map(self._called, calls)

    def _called(self, call: ToolCall) -> Called:
        started = time.monotonic()
        tool = self._tools.get(call.name)
        message = tool.answer(call) if tool else _answer(call, self._unknown(call.name))
        return Called(call=call, message=message, seconds=time.monotonic() - started)

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._tools, n=1)
        if near:
            return f"Error: there is no tool {name}; did you mean {near[0]}?"
        return f"Error: there is no tool {name}; there are: {', '.join(self._tools) or 'none, answer without one'}"


def run(
    client: Client,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    limits: Limits | None = None,
    sampling: Sampling | None = None,
) -> Run:
    """Let the model of `client` work on the conversation with the tools.

    Raises: RequestError if the model cannot be reached (a conversation that grows too long ends the run instead),
    MissingExtraError if a tool needs something that is not installed.
    """
    return run_many(client, [messages], tools, limits, sampling)[0]


def run_many(
    client: Client,
    conversations: Sequence[Sequence[Message]],
    tools: Sequence[Tool] = (),
    limits: Limits | None = None,
    sampling: Sampling | None = None,
) -> list[Run]:
    """Like `run` for several conversations; each turn asks for all that are not done in one batch."""
    sessions = [Session(messages, tools, limits or Limits(), sampling or DEFAULT_SAMPLING) for messages in conversations]
    while pairs := [(session, request) for session in sessions if (request := session.request()) is not None]:
        for (session, _), reply in zip(pairs, _ask(client, [request for _, request in pairs]), strict=True):
            if isinstance(reply, RequestError):
                session.refuse(reply)
            else:
                session.take(reply)
    return [session.result(client.name) for session in sessions]


def stream(
    client: Client,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    limits: Limits | None = None,
    sampling: Sampling | None = None,
) -> Iterator[str | Step | Run]:
    """Like `run`, as it happens: pieces of text as the model writes them, each step when it is done, at last the run."""
    session = Session(messages, tools, limits or Limits(), sampling or DEFAULT_SAMPLING)
    while (request := session.request()) is not None:
        try:
            for delta in client.stream(request):
                if delta.text:
                    yield delta.text
                if delta.reply is not None:
                    yield from session.take(delta.reply)
        except RequestError as error:
            if error.status not in NOT_THIS_REQUEST:
                raise
            session.refuse(error)
    yield session.result(client.name)


DEFAULT_SAMPLING = Sampling(max_tokens=512)


def _ask(client: Client, requests: Sequence[ChatRequest]) -> Sequence[Reply | RequestError]:
    """Replies, with an error in the place of each request that cannot be served; those of a failed batch are asked singly."""
    try:
        return client.chat(requests)
    except RequestError as error:
        if error.status not in NOT_THIS_REQUEST:
            raise
        if len(requests) == 1:
            return [error]
    return [reply for request in requests for reply in _ask(client, [request])]


def _last_calls(steps: Sequence[Step]) -> list[Called]:
    """The calls of the turn that came last, if it made any."""
    found: list[Called] = []
    for step in reversed(steps):
        if not isinstance(step, Called):
            break
        found.insert(0, step)
    return found


def _signature(call: ToolCall) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True)


def _answer(call: ToolCall, text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id=call.id, name=call.name)
