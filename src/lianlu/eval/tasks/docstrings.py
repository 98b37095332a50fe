"""Task docstrings: how well does a model answer held-out questions about the standard library?

The main number is the loss of the right answer in nats a token, its end token included, given the question in the
model's own chat template; a subset may also be answered freely and compared with the reference by word overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from lianlu.client.base import ChatRequest, ChatScoreRequest, Reply, Sampling, Scored
from lianlu.core.config import Config
from lianlu.core.errors import DataError
from lianlu.eval.overlap import rouge_l, word_f1
from lianlu.eval.sources import Sources, spread
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import MetricSpec
from lianlu.formats.messages import Conversation, Message, ToolSpec, read_conversations

METRICS = (
    MetricSpec(name="answer_loss", higher_is_better=False),
    MetricSpec(name="perplexity", score="answer_loss", aggregate="exp-mean", higher_is_better=False),
)
GENERATED = (MetricSpec(name="word_f1"), MetricSpec(name="rouge_l"))


class DocstringsTask(Config):
    """Likelihood of the right answers to held-out questions."""

    kind: Literal["docstrings"] = "docstrings"
    name: str = ""
    """What the task is called in logs and scores (default: its kind)."""
    limit: int = Field(default=200, ge=0)
    """Questions, spread evenly over the held-out set (0: all)."""
    about: str = "docstring"
    """Only conversations of this `meta.kind`, and those that have none (empty: all)."""
    generate: int = Field(default=0, ge=0)
    """How many of them are also answered freely."""
    max_tokens: int = Field(default=64, gt=0)
    """Cap of a free answer, in tokens."""


def build(config: DocstringsTask, sources: Sources) -> Task:
    """The task over the held-out conversations. Raises: DataError."""
    path = sources.held_out()
    fitting = [one for one in read_conversations(path) if not config.about or one.meta.get("kind", config.about) == config.about]
    conversations = spread(fitting, config.limit)
    if not conversations:
        raise DataError(f"{path} holds no conversations to ask", hint="raise num_held_out of chat-data, or change `about`")
    free = {conversation.id for conversation in spread(conversations, config.generate)} if config.generate else set()
    items = [_item(conversation) for conversation in conversations]
    sampling = Sampling(max_tokens=config.max_tokens)

    def requests(item: Item) -> list[Request]:
        messages = [Message.model_validate(raw) for raw in item.fields["messages"]]
        tools = [ToolSpec.model_validate(raw) for raw in item.fields["tools"]]
        asked: list[Request] = [ChatScoreRequest(messages, tools)]
        return [*asked, ChatRequest(messages[:-1], tools, sampling)] if item.id in free else asked

    protocol: dict[str, Any] = {"name": "chat answer loss", "scored": "last assistant message"}
    protocol |= {"generate": config.generate, "max_tokens": config.max_tokens} if free else {}
    metrics = METRICS + GENERATED if free else METRICS
    return Task("docstrings", "docstrings held-out", items, protocol, metrics, requests, score)


def _item(conversation: Conversation) -> Item:
    *before, last = conversation.messages
    if last.role != "assistant" or not before:
        what = f"conversation {conversation.id} does not end with an answer to something"
        raise DataError(what, hint="held-out items are questions with answers")
    fields = {
        "messages": [message.model_dump(exclude_defaults=True) for message in conversation.messages],
        "tools": [tool.model_dump() for tool in conversation.tools],
    }
    cluster = str(conversation.meta.get("module", ""))
    return Item(conversation.id, before[-1].content, last.content, cluster, fields)


def score(item: Item, responses: Sequence[Response]) -> Score:
    """Loss a token with the number of tokens as its weight; overlap of the free answer if there is one."""
    values, weights = {}, {}
    for response in responses:
        if isinstance(response, Scored):
            values["answer_loss"] = -response.logprob / max(response.num_tokens, 1)
            weights["answer_loss"] = float(max(response.num_tokens, 1))
        elif isinstance(response, Reply):
            values["word_f1"] = word_f1(response.text, item.target)
            values["rouge_l"] = rouge_l(response.text, item.target)
    return Score(values, weights)
