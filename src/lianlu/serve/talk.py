"""From a conversation to running sequences, for every API that has conversations (chat completions, responses).

Templates, tokenising and the compiling of grammars run in threads; the event loop only passes on, the engine's thread only
steps. Everything that may be refused is refused here, before a status line is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lianlu.core.errors import RequestError
from lianlu.engine.sequence import Request
from lianlu.formats.messages import Message
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller
from lianlu.serve.reading import Reader
from lianlu.serve.run import Run
from lianlu.serve.service import Route, Service
from lianlu.serve.wire import Body
from lianlu.serve.wire_chat import ToolUse
from lianlu.serve.wire_rules import Rule

_MENTIONED = ("logit_bias", "session")


@dataclass(frozen=True)
class Ask:
    """A conversation to go on with, and how; `body` has what all requests share."""

    body: Body
    messages: list[Message]
    use: ToolUse
    rule: Rule | None
    max_tokens: int | None
    """The most tokens to generate; None: as many as the context has room for."""
    num_logprobs: int | None
    num_choices: int = 1
    prompt_field: str = "messages"
    """The field of the body that the conversation came in."""


@dataclass
class Talk:
    """A conversation under way."""

    run: Run
    route: Route
    use: ToolUse
    sure: bool
    """Whether a grammar makes sure that calls are well-formed."""

    def reader(self) -> Reader:
        """A reader for one reply."""
        return Reader(self.route.tokenizer, self.use, self.sure)


async def begin(service: Service, caller: Caller, ask: Ask, job_id: str) -> Talk:
    """Render the conversation and submit its choices. Raises: RequestError."""
    route = service.route(ask.body.model, caller)
    service.check_room(route)
    with naming(ask.prompt_field):
        prompt, rule = await asyncio.to_thread(rendered, route, ask)
    room = max(route.engine.engine.max_len - len(prompt), 1)
    limit = room if ask.max_tokens is None else ask.max_tokens
    requests = [asked(ask.body, prompt, limit, ask.num_logprobs, choice, rule) for choice in range(ask.num_choices)]
    sure = ask.rule is None and rule is not None
    with naming(ask.prompt_field):
        run = service.run(route, caller, job_id, requests)
    return Talk(run, route, ask.use, sure)


def rendered(route: Route, ask: Ask) -> tuple[tuple[int, ...], Rule | None]:
    """The prompt, and the rule for the reply, compiled: the one asked for, or that of the tools. Raises: RequestError."""
    found = route.tokenizer.render(ask.messages, ask.use.shown, reply=True)
    rule = ask.rule
    if rule is not None:
        _compile(route, rule)
    elif ask.use.tools:
        try:
            constraint = route.engine.engine.grammars.for_tools(ask.use.tools, ask.use.mode, ask.use.parallel)
        except RequestError as error:
            raise _about("tools", error) from error
        rule = None if constraint is None else Rule(constraint, "tools")
    return tuple(found.ids), rule


def asked(body: Body, prompt: tuple[int, ...], max_tokens: int, logprobs: int | None, choice: int, rule: Rule | None) -> Request:
    """What is asked of the engine for one choice."""
    sampling = body.sampling(max_tokens, logprobs, choice)
    if rule is not None:
        sampling = replace(sampling, constraint=rule.constraint)
    return Request(
        prompt,
        sampling,
        ignore_eos=bool(body.ignore_eos),
        session=body.session or "",
        deadline_s=body.deadline_s,
    )


def check(route: Route, requests: Sequence[Request], rule: Rule | None) -> None:
    """Look at what will be submitted, and compile its rule, which may take long. Raises: RequestError that names the field."""
    if rule is not None:
        _compile(route, rule)
    for request in requests:
        route.engine.engine.check(request)


@contextlib.contextmanager
def naming(prompt_field: str) -> Iterator[None]:
    """Name the field of the body that the engine complains about: one it mentions, else that of the prompt."""
    try:
        yield
    except ApiError:
        raise
    except RequestError as error:
        if error.status != 400:
            raise
        param = next((field for field in _MENTIONED if field in error.message), prompt_field)
        raise ApiError(error.message, hint=error.hint, param=param, code="invalid_value") from error


def _compile(route: Route, rule: Rule) -> None:
    try:
        route.engine.engine.grammars.check(rule.constraint)
    except RequestError as error:
        raise _about(rule.param, error) from error


def _about(param: str, error: RequestError) -> ApiError:
    """The error as one of a field of the body."""
    return ApiError(f"{param}: {error.message}", status=error.status, hint=error.hint, param=param, code="invalid_value")
