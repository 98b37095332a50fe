"""Many conversations at once, in step: each runs in a thread of its own, and their requests go out as one batch a round.

A round starts when every running conversation waits for the model, and holds their requests in the order of the
conversations. So the batches, and with them the last bits of every logit, do not depend on which thread was faster. The
model is called from the caller's thread only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lianlu.client.base import (
    ChatRequest,
    ChatScoreRequest,
    Client,
    CompletionRequest,
    Delta,
    Reply,
    Scored,
    ScoreRequest,
)
from lianlu.core.errors import LianluError

T = TypeVar("T")
METHODS = ("chat", "complete", "score")


class _Rounds:
    """What the threads share: who waits with which requests, and the answers that came."""

    def __init__(self, num_running: int) -> None:
        self.changed = threading.Condition()
        self.num_running = num_running
        self.waiting: dict[int, tuple[str, list[Any]]] = {}
        self.answers: dict[int, list[Any] | LianluError] = {}

    def ask(self, index: int, method: str, requests: Sequence[Any]) -> list[Any]:
        """Wait for the round that answers these requests."""
        with self.changed:
            self.waiting[index] = (method, list(requests))
            self.changed.notify_all()
            self.changed.wait_for(lambda: index in self.answers)
            answer = self.answers.pop(index)
        if isinstance(answer, LianluError):
            raise answer
        return answer

    def leave(self) -> None:
        """One conversation has ended."""
        with self.changed:
            self.num_running -= 1
            self.changed.notify_all()

    def next_round(self) -> dict[int, tuple[str, list[Any]]]:
        """The requests of everyone who still runs, once all of them wait; empty when nobody runs."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.waiting) == self.num_running)
            batch = {index: self.waiting[index] for index in sorted(self.waiting)}
            self.waiting.clear()
            return batch

    def answer(self, answers: dict[int, list[Any] | LianluError]) -> None:
        """Hand out the answers of a round."""
        with self.changed:
            self.answers.update(answers)
            self.changed.notify_all()


class _View:
    """The client that one conversation sees."""

    def __init__(self, rounds: _Rounds, index: int, name: str) -> None:
        self.name = name
        self._rounds, self._index = rounds, index

    def chat(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        return self._rounds.ask(self._index, "chat", requests)

    def complete(self, requests: Sequence[CompletionRequest]) -> list[Reply]:
        return self._rounds.ask(self._index, "complete", requests)

    def score(self, requests: Sequence[ScoreRequest | ChatScoreRequest]) -> list[Scored]:
        return self._rounds.ask(self._index, "score", requests)

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """The whole reply in one piece: there is nobody to watch it grow."""
        reply = self.chat([request])[0]
        yield Delta(text=reply.text, reply=reply)

    def close(self) -> None:
        """The real client is closed by its owner."""


def in_step(client: Client, jobs: Sequence[Callable[[Client], T]]) -> list[T]:
    """Run all jobs at once, each with a client of its own; results in order of the jobs.

    Raises: what the first failing job (in order) raised, after all have ended.
    """
    rounds = _Rounds(len(jobs))
    results: list[T | None] = [None] * len(jobs)
    failures: dict[int, BaseException] = {}

    def work(index: int) -> None:
        try:
            results[index] = jobs[index](_View(rounds, index, client.name))
        except BaseException as error:
            failures[index] = error
        finally:
            rounds.leave()

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    while batch := rounds.next_round():
        rounds.answer(_send(client, batch))
    for thread in threads:
        thread.join()
    if failures:
        raise failures[min(failures)]
    return [result for result in results if result is not None]


def _send(client: Client, batch: dict[int, tuple[str, list[Any]]]) -> dict[int, list[Any] | LianluError]:
    """Answers by conversation; if a batch is refused, its members are asked one by one, so that only the bad one fails."""
    answers: dict[int, list[Any] | LianluError] = {}
    for method in METHODS:
        members = {index: requests for index, (kind, requests) in batch.items() if kind == method}
        answers |= _send_kind(getattr(client, method), members) if members else {}
    return answers


def _send_kind(call: Callable[[list[Any]], list[Any]], members: dict[int, list[Any]]) -> dict[int, list[Any] | LianluError]:
    flat = [request for requests in members.values() for request in requests]
    try:
        replies = iter(call(flat))
    except LianluError as error:
        if len(members) == 1:
            return dict.fromkeys(members, error)
        return {key: value for index in members for key, value in _send_kind(call, {index: members[index]}).items()}
    return {index: [next(replies) for _ in requests] for index, requests in members.items()}
