"""A task is a dataset, a protocol and a scorer, as plain data.

An `Item` is a row. `Task.requests` turns it into flat requests, which the runner collects over many items, so that the
engine may batch them as it likes; `Task.score` is a pure function from the item and its replies to named scores. The
protocol (template, shots, stops, extraction) is a table that is hashed into the log: two numbers are comparable if their
dataset and protocol hashes are equal. A task with turns (tools) has `solve` instead, which may talk to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lianlu.client.base import ChatRequest, ChatScoreRequest, Client, CompletionRequest, Reply, Scored, ScoreRequest
from lianlu.core.files import sha256_json
from lianlu.formats.eval_log import Extracted, MetricSpec

Request = ChatRequest | CompletionRequest | ScoreRequest | ChatScoreRequest
Response = Reply | Scored


@dataclass(frozen=True)
class Item:
    """A row of a dataset: what is asked (`input`, for people), the right answer, and the fields the protocol needs.

    Items with the same non-empty `cluster` are not independent of each other (questions on one passage).
    """

    id: str
    input: str
    target: str
    cluster: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Scores of one item by name, weights where they are not 1, and the answers that were cut out of the replies."""

    values: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    extracted: Sequence[Extracted] = ()
    note: str = ""


Requests = Callable[[Item], Sequence[Request]]
Scorer = Callable[[Item, Sequence[Response]], Score]
Solver = Callable[[Client, Sequence[Item]], list[list[Response]]]


@dataclass(frozen=True)
class Task:
    """Dataset x protocol x scorer. The first metric is the task's main one; `protocol` holds JSON values only.

    `needs_sandbox` says that model-written code will run, so that a missing sandbox is found before the model is asked.
    """

    name: str
    dataset: str
    items: Sequence[Item]
    protocol: Mapping[str, Any]
    metrics: Sequence[MetricSpec]
    requests: Requests
    score: Scorer
    solve: Solver | None = None
    needs_sandbox: bool = False

    def dataset_hash(self) -> str:
        """Hash of the items: ids, inputs, targets, clusters and fields, in order."""
        rows = [[item.id, item.input, item.target, item.cluster, dict(item.fields)] for item in self.items]
        return sha256_json([self.dataset, rows])

    def protocol_hash(self) -> str:
        """Hash of everything that turns an item into requests and replies into numbers."""
        return sha256_json([dict(self.protocol), [metric.model_dump() for metric in self.metrics]])


def replies_to(client: Client, task: Task, items: Sequence[Item]) -> list[list[Response]]:
    """Replies to all requests of `items`, per item in order of its requests; each kind of request goes out as one batch."""
    if task.solve is not None:
        return task.solve(client, items)
    flat = [(index, request) for index, item in enumerate(items) for request in task.requests(item)]
    chats = [r for _, r in flat if isinstance(r, ChatRequest)]
    completions = [r for _, r in flat if isinstance(r, CompletionRequest)]
    scores = [r for _, r in flat if isinstance(r, ScoreRequest | ChatScoreRequest)]
    scored = iter(client.score(scores) if scores else [])
    completed = iter(client.complete(completions) if completions else [])
    chatted = iter(client.chat(chats) if chats else [])
    found: list[list[Response]] = [[] for _ in items]
    for index, request in flat:
        if isinstance(request, ChatRequest):
            found[index].append(next(chatted))
        elif isinstance(request, CompletionRequest):
            found[index].append(next(completed))
        else:
            found[index].append(next(scored))
    return found
