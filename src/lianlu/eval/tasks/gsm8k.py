"""Task gsm8k: school mathematics in words (Cobbe et al. 2021), as lm-evaluation-harness asks and scores it (`gsm8k` v3).

Five worked examples from the training split before each question, drawn by one generator seeded with 1234 over the
questions in order; greedy; the answer is cut out in two ways: strict (the first number after `####`) and flexible (the
last number of all). The prompt is a plain text, so that base models can be asked. With `chat` the text is one user turn in the
model's own template, as lm-eval's `--apply_chat_template` sends it, or, without shots, the question alone: what a model tuned
on questions and answers was shown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lianlu.client.base import ChatRequest, CompletionRequest, Reply, Sampling
from lianlu.core.config import Config
from lianlu.core.errors import ConfigError
from lianlu.eval.extract import by_regex, cut
from lianlu.eval.sources import Sources, first, rows
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import Extracted, MetricSpec
from lianlu.formats.messages import Message

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))
STOPS = ("Question:", "</s>", "<|im_end|>")
SHOT_SEED = 1234
METRICS = (MetricSpec(name="exact_match_strict"), MetricSpec(name="exact_match_flexible"))


class Gsm8kTask(Config):
    """GSM8K with lm-eval's protocol, from `benchmarks`/gsm8k/{train,test}.jsonl[.gz]."""

    kind: Literal["gsm8k"] = "gsm8k"
    name: str = ""
    """What the task is called in logs and scores (default: its kind)."""
    limit: int = Field(default=0, ge=0)
    """The first so many questions of the test split (0: all)."""
    shots: int = Field(default=5, ge=0)
    """Worked examples before each question."""
    max_tokens: int = Field(default=256, gt=0)
    """Cap of an answer, in tokens."""
    chat: bool = False
    """Ask in the model's chat template, as a user."""


def build(config: Gsm8kTask, sources: Sources) -> Task:
    """The task over the test split. Raises: ConfigError, DataError."""
    test = rows(sources.benchmark("gsm8k", "test.jsonl.gz", "test.jsonl"), ("question", "answer"))
    train = rows(sources.benchmark("gsm8k", "train.jsonl.gz", "train.jsonl"), ("question", "answer")) if config.shots else []
    if config.shots > len(train):
        raise ConfigError(f"gsm8k: {config.shots} shots of {len(train)} examples", hint="lower shots")
    draw = random.Random(SHOT_SEED)
    items = []
    for number, row in enumerate(first(test, config.limit)):
        shots = "".join(f"{_ask(shot['question'])} {shot['answer']}\n\n" for shot in draw.sample(train, config.shots))
        items.append(Item(f"test/{number}", row["question"], row["answer"], fields={"prompt": shots + _ask(row["question"])}))
    sampling = Sampling(max_tokens=config.max_tokens, stop=STOPS)

    def requests(item: Item) -> list[Request]:
        if not config.chat:
            return [CompletionRequest(item.fields["prompt"], sampling)]
        asked = item.fields["prompt"] if config.shots else item.input
        return [ChatRequest([Message(role="user", content=asked)], [], sampling)]

    name = "lm-eval gsm8k 3" + (" in chat" if config.chat else "")
    protocol = {"name": name, "shots": config.shots, "stops": list(STOPS), "max_tokens": config.max_tokens}
    return Task("gsm8k", "gsm8k test", items, protocol, METRICS, requests, score)


def _ask(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def extract(text: str) -> tuple[Extracted, Extracted]:
    """The strict and the flexible answer of a reply that is already cut at the stops."""
    return by_regex(text, STRICT, "strict-match"), by_regex(text, FLEXIBLE, "flexible-extract", select=-1)


def normal(answer: str) -> str:
    """An answer as it is compared: without commas, dollars, the working before `####`, and a final stop."""
    for pattern in IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()


def score(item: Item, responses: Sequence[Response]) -> Score:
    """Exact match of both extractions."""
    found = extract(cut(responses[0].text if isinstance(responses[0], Reply) else "", STOPS))
    right = normal(item.target)
    hits = [float(one.found and normal(one.text) == right) for one in found]
    return Score(dict(zip((metric.name for metric in METRICS), hits, strict=True)), extracted=found)
