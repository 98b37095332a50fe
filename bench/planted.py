"""Documents whose similarities are known: pairs at a given Jaccard similarity, documents on one template, and chains.

Passages come from the corpora, each used once, so that two documents have nothing in common but what is planted.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import corpus

SIZE = 400
"""Words, or Chinese characters, in a document."""
LEVELS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))
_UNIT = re.compile(r"[a-z]+")
_HAN = re.compile(r"[\u4e00-\u9fff]+")
Row = dict[str, Any]


def passages(lang: str, size: int) -> Iterator[list[str]]:
    """Runs of words (Chinese: characters) that do not overlap; used up, they come again with their words exchanged."""
    names = corpus.ENGLISH if lang == "en" else ("zh_modern_prose", "zh_lctt")
    for copy in itertools.count():
        change = corpus.altered(copy)
        for row in (row for name in names for row in corpus.texts(name)):
            text = change(row["text"])
            units = _UNIT.findall(text.lower()) if lang == "en" else list("".join(_HAN.findall(text)))
            for start in range(0, len(units) - size + 1, size):
                if len(set(units[start : start + size])) > size / 4:
                    yield units[start : start + size]


def spelt(units: list[str], lang: str) -> str:
    """Units as a text: sentences of a dozen words, or of two dozen characters."""
    length, space, end = (12, " ", ". ") if lang == "en" else (24, "", "。")
    return end.join(space.join(units[n : n + length]) for n in range(0, len(units), length)) + end.strip()


def changed(units: list[str], wanted: float, lang: str, rng: random.Random) -> list[str]:
    """The same with units replaced, until the similarity of 5-grams is `wanted`: here and there, then a run, one by one."""
    made, left = list(units), corpus.grams(spelt(units, lang))

    def similarity() -> float:
        own = corpus.grams(spelt(made, lang))
        return len(own & left) / len(own | left)

    def new() -> str:
        return "".join(rng.choices("bcdfghjklmnpqrstvwxz", k=9)) if lang == "en" else chr(rng.randrange(0x7000, 0x9FA0))

    places = rng.sample(range(5, len(units) - 60), len(units) - 65)
    step = 5 / len(units)
    while similarity() > wanted + 2 * step:
        made[places.pop()] = new()
    for place in range(len(units) - 1, 0, -1):
        if similarity() < wanted + 2 / len(units):  # one more costs at most that
            break
        made[place] = new()
    return made


def pairs(count: int, lang: str) -> tuple[list[Row], dict[str, tuple[str, float]]]:
    """`count` pairs at each level; returns the documents, mixed, and for each id its partner and their true similarity."""
    rng, stream = random.Random(7), passages(lang, SIZE)
    rows: list[Row] = []
    partner: dict[str, tuple[str, float]] = {}
    for level in LEVELS:
        for number in range(count):
            units = next(stream)
            first, second = spelt(units, lang), spelt(changed(units, level, lang, rng), lang)
            names, similarity = [f"{level}/{number}/{side}" for side in "ab"], corpus.jaccard(first, second)
            rows += [{"id": name, "text": text} for name, text in zip(names, (first, second), strict=True)]
            partner |= {names[0]: (names[1], similarity), names[1]: (names[0], similarity)}
    rng.shuffle(rows)
    return rows, partner


def templates(count: int, share: float) -> list[Row]:
    """`count` documents that share a template word for word, `share` of each, and have nothing else in common."""
    frame_size = int(SIZE * share)
    frame, stream = next(passages("en", frame_size)), passages("en", SIZE - frame_size)
    bodies = itertools.islice(stream, frame_size, frame_size + count)
    return [{"id": f"page {n}", "text": f"{spelt(frame, 'en')}\n\n{spelt(body, 'en')}"} for n, body in enumerate(bodies)]


def chains(count: int, length: int, wanted: float) -> list[Row]:
    """Documents each `wanted` like the one before, so that the ends of a chain have little in common."""
    rng, stream, rows = random.Random(8), passages("en", SIZE), []
    for number in range(count):
        units = next(stream)
        for link in range(length):
            rows.append({"id": f"chain {number}/{link}", "text": spelt(units, "en")})
            units = changed(units, wanted, "en", rng)
    return rows
