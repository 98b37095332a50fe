"""Task needle: one fact is hidden in a long text, at every depth and length of a grid, and has to be found again.

The haystack is made of generated sentences without numbers, or of the documents in `benchmarks`/needle/*.jsonl[.gz] in a
seeded order. The score of an item is 1 if the hidden number is in the reply (the v2 rule of NeedleBench). Lengths are in
tokens at four characters a token: clients show no tokenizer, and most write English in fewer tokens, so a prompt stays
below its length; the true number is in the log.
"""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Literal

from pydantic import Field

from lianlu.client.base import ChatRequest, Reply, Sampling
from lianlu.core.config import Config
from lianlu.core.errors import ConfigError
from lianlu.eval.sources import Sources, rows
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import Extracted, MetricSpec
from lianlu.formats.messages import Message

CHARACTERS_PER_TOKEN = 4
TEMPLATE = "Read the text and answer the question after it.\n\n{text}\n\nQuestion: What is the secret number of {city}?"
METRICS = (MetricSpec(name="found"),)


class NeedleTask(Config):
    """A small needle-in-a-haystack grid: lengths x depths x repeats."""

    kind: Literal["needle"] = "needle"
    name: str = ""
    """What the task is called in logs and scores (default: its kind)."""
    lengths: list[int] = Field(default=[256, 512, 1024], min_length=1)
    """Lengths of the text in tokens, at four characters a token."""
    depths: list[float] = Field(default=[0, 25, 50, 75, 100], min_length=1)
    """Places of the needle in percent of the text."""
    repeats: int = Field(default=1, ge=1)
    """Items for each length and depth."""
    haystack: Literal["words", "documents"] = "words"
    """Generated sentences, or the documents in benchmarks/needle."""
    max_tokens: int = Field(default=32, gt=0)
    """Cap of an answer, in tokens."""


def build(config: NeedleTask, sources: Sources) -> Task:
    """The grid of items. Raises: ConfigError, DataError."""
    if min(config.lengths) < 64 or not all(0 <= depth <= 100 for depth in config.depths):
        raise ConfigError("needle: lengths start at 64 tokens and depths are 0 to 100", hint="mend lengths or depths")
    words = tomllib.loads((resources.files("lianlu.eval.tasks") / "needle_words.toml").read_text(encoding="utf-8"))
    documents = _documents(sources) if config.haystack == "documents" else []
    items = []
    for length, depth, repeat in itertools.product(config.lengths, config.depths, range(config.repeats)):
        name = f"{length}/{depth:g}/{repeat}"
        draw = random.Random(f"needle {sources.seed} {name}")
        sentences = _from_documents(draw, documents) if documents else _from_words(draw, words)
        city, number = draw.choice(words["cities"]), str(draw.randrange(10_000, 100_000))
        needle = f"The secret number of {city} is {number}."
        text = bury(sentences, needle, length * CHARACTERS_PER_TOKEN, depth)
        fields = {"prompt": TEMPLATE.format(text=text, city=city), "length": length, "depth": depth}
        items.append(Item(name, f"{length} tokens, depth {depth:g}%: {needle}", number, fields=fields))
    sampling = Sampling(max_tokens=config.max_tokens)

    def requests(item: Item) -> list[Request]:
        return [ChatRequest([Message(role="user", content=item.fields["prompt"])], sampling=sampling)]

    protocol = {"name": "needle", "template": TEMPLATE, "max_tokens": config.max_tokens}
    return Task("needle", f"needle in {config.haystack}", items, protocol, METRICS, requests, score)


def bury(sentences: Iterator[str], needle: str, num_characters: int, depth: float) -> str:
    """A text of about `num_characters` with `needle` between two sentences, `depth` percent into it."""
    room, hay = num_characters - len(needle), list[str]()
    while room > 0:
        hay.append(next(sentences))
        room -= len(hay[-1]) + 1
    ends = list(itertools.accumulate((len(sentence) + 1 for sentence in hay), initial=0))
    place = min(range(len(ends)), key=lambda index: (abs(ends[index] - ends[-1] * depth / 100), index))
    return " ".join([*hay[:place], needle, *hay[place:]])


def score(item: Item, responses: Sequence[Response]) -> Score:
    """1 if the hidden number is in the reply."""
    text = responses[0].text.replace(",", "") if isinstance(responses[0], Reply) else ""
    start = text.find(item.target)
    found = [Extracted(rule="keyword", text=item.target, start=start, end=start + len(item.target))] if start >= 0 else []
    return Score({"found": float(start >= 0)}, extracted=found)


def _from_words(draw: random.Random, words: dict[str, list[str]]) -> Iterator[str]:
    while True:
        who, what = f"{draw.choice(words['adjectives'])} {draw.choice(words['people'])}", draw.choice(words["things"])
        where, when = draw.choice(words["places"]), draw.choice(words["times"])
        yield f"The {who} {draw.choice(words['verbs'])} the {what} near the {where} {when}."


def _from_documents(draw: random.Random, documents: Sequence[str]) -> Iterator[str]:
    """Sentences of the documents, in a drawn order, over and over."""
    order = list(documents)
    while True:
        draw.shuffle(order)
        for text in order:
            yield from (sentence for part in text.split(". ") if (sentence := " ".join(part.split())))


def _documents(sources: Sources) -> list[str]:
    names = ("essays_en.jsonl.gz", "documents.jsonl", "documents.jsonl.gz")
    return [row["text"] for row in rows(sources.benchmark("needle", *names), ("text",)) if row["text"].strip()]
