"""A client that replies from a list: tests and demonstrations without a model.

Each request takes the next entry of the script, whichever method asks. The requests are kept in order in `requests`.
Token counts are numbers of words, enough to test budgets.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from lianlu.client.base import ChatRequest, ChatScoreRequest, CompletionRequest, Delta, FinishReason, Reply, Scored, ScoreRequest
from lianlu.core.errors import RequestError
from lianlu.formats.messages import Message

Request = ChatRequest | CompletionRequest | ScoreRequest | ChatScoreRequest
Answer = str | Message | Reply | Scored
Entry = Answer | BaseException | Callable[[Request], Answer]


class ScriptedClient:
    """Replies with `script`, entry by entry: a text, a message, a whole reply, a score, an error to raise, or a function
    of the request that gives one of these. For a script without end pass an iterator such as `itertools.repeat(f)`."""

    def __init__(self, script: Iterable[Entry], name: str = "scripted") -> None:
        self.name = name
        self.requests: list[Request] = []
        self._script = iter(script)
        self._lock = threading.Lock()

    def chat(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """The next entries as replies. Raises: RequestError when the script has ended."""
        return [self._reply(request) for request in requests]

    def complete(self, requests: Sequence[CompletionRequest]) -> list[Reply]:
        """The next entries as replies. Raises: RequestError when the script has ended."""
        return [self._reply(request) for request in requests]

    def score(self, requests: Sequence[ScoreRequest | ChatScoreRequest]) -> list[Scored]:
        """The next entries, which have to be scores. Raises: RequestError when the script has ended or has others."""
        found = []
        for request in requests:
            answer = self._next(request)
            if not isinstance(answer, Scored):
                raise RequestError(f"the script has {answer!r} where a score is asked for", hint="put a Scored there")
            found.append(answer)
        return found

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """The next entry, word by word."""
        reply = self._reply(request)
        for piece in re.findall(r"\s*\S+\s*\Z|\s*\S+|\s+", reply.text):
            yield Delta(text=piece)
        yield Delta(reply=reply)

    def close(self) -> None:
        """Nothing is held open."""

    def _next(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            try:
                entry = next(self._script)
            except StopIteration:
                hint = "add replies, or find out why the model is asked so often"
                raise RequestError(f"the script ended before request {len(self.requests)}", hint=hint, status=500) from None
        if isinstance(entry, BaseException):
            raise entry
        return entry(request) if callable(entry) else entry

    def _reply(self, request: ChatRequest | CompletionRequest) -> Reply:
        answer = self._next(request)
        if isinstance(answer, Reply):
            return answer
        if isinstance(answer, Scored):
            raise RequestError("the script has a score where a reply is asked for", hint="put a text or a message there")
        message = Message(role="assistant", content=answer) if isinstance(answer, str) else answer
        prompt = request.prompt if isinstance(request, CompletionRequest) else "\n".join(m.content for m in request.messages)
        reason: FinishReason = "tool_calls" if message.tool_calls else "stop"
        return Reply(message, reason, len(prompt.split()), len(message.content.split()))
