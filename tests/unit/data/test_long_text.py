"""Signals of long texts: by hand on made texts, and a heap of paragraphs told from a text on real ones."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.filters import count_model
from lianlu.data.filters.count_model import CountModel
from lianlu.data.filters.perplexity import Pair
from lianlu.data.rules.long_text import context_signals, is_long, segments, signals, type_token_ratio
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Thresholds

TABLE = Thresholds(tomllib.loads(files("lianlu.data.rules").joinpath("long_text.toml").read_text(encoding="utf-8")))
WORDS = [f"word{n}" for n in range(3000)]


def limits(lang: str = "en", script: str = "", **changes: Any) -> dict[str, Any]:
    return {**TABLE.of("long_text", "", script, lang), **changes}


def values(text: str, **changes: Any) -> dict[str, float]:
    return dict(signals(TextView(text), limits(**changes)))


class Recorder:
    """A model that notes what it is asked and answers with the given costs."""

    def __init__(self, costs: Sequence[float], piece_bytes: int = 10_000) -> None:
        self.costs, self.piece_bytes, self.asked = costs, piece_bytes, list[Pair]()

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def bits_per_byte(self, text: str) -> float:
        return 0.0

    def context_cost(self, pairs: Sequence[Pair]) -> list[float]:
        self.asked = list(pairs)
        return list(self.costs[: len(pairs)])


@pytest.mark.parametrize(
    ("text", "expected"), [("a" * 32768, False), ("a" * 32769, True), ("文" * 10923, True), ("文" * 10922, False)]
)
def test_long_is_over_32_kib_of_utf8(text: str, expected: bool) -> None:
    assert is_long(TextView(text), limits()) == expected


def test_short_texts_have_their_size_and_nothing_else() -> None:
    assert values("short") == {"min_bytes": 5}
    assert list(context_signals(TextView("short"), limits(), Recorder([1.0]))) == []


def test_densities_per_thousand_words() -> None:
    text = "However, they left. " + "In  addition\nwe came; nowhere else. " + "stone " * 91
    found = values(text, long_bytes=10)
    # however, in addition; they, we; not the one inside another word
    assert len(text.split()) == 100
    assert found["min_connectives"] == pytest.approx(20)
    assert found["min_pronouns"] == pytest.approx(20)


def test_densities_in_chinese_are_per_thousand_characters() -> None:
    text = "不但我们来了，而且他们也来了。" + "石" * 87
    found = values(text, long_bytes=10, lang="zh", script="cjk")
    words = len(TextView(text).words)
    # 不但 (not the 但 in it as well), 而且; 我们, 他们
    assert found["min_connectives"] == pytest.approx(2000 / words)
    assert found["min_pronouns"] == pytest.approx(2000 / words)


def test_without_a_list_a_language_has_no_densities() -> None:
    assert {"min_connectives", "min_pronouns"}.isdisjoint(values("mot " * 20, long_bytes=10, lang="fr"))


def test_variety_of_words() -> None:
    assert type_token_ratio(["a"] * 1000) == pytest.approx(1 / 1000)
    assert type_token_ratio(WORDS) == 1
    assert type_token_ratio(["a"] * 1000 + WORDS[:1000] + ["b"] * 400) == pytest.approx((1 / 1000 + 1) / 2)
    assert type_token_ratio(["a", "b", "a", "b"]) == 0.5
    assert type_token_ratio([]) == 1


def test_paragraphs_that_come_again() -> None:
    text = "\n\n".join(["Chapter 1 of the tale", "chapter  2 of the tale", "Some other words here", "Chapter 33 of the tale"])
    found = values(text, long_bytes=10)
    assert found["max_repeated_paragraphs"] == pytest.approx(42 / 84)
    assert found["max_paragraph_share"] == pytest.approx(5 / 19)
    assert found["min_paragraph_words"] == pytest.approx((25 * 3 + 16) / 19)


def test_a_line_is_a_paragraph_where_there_are_no_blank_lines() -> None:
    assert values("one two three\nfour five\nsix", long_bytes=10)["max_paragraph_share"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("# One\n\ntext\n\n## Two\n\n#hashtag", 2),
        ("Title\n=====\n\ntext\n\nPart\n----\n\nmore", 2),
        ("1. Item one of a list.\n2.3 Further Work\nThe year 1999 was.", 1),
        ("第一章 开始\n正文\n第十二节\n第三者不是标题", 2),
        ("Chapter IV\ntext\nchapters are long\nCHAPTER 5: The End", 2),
        ("| a | b |\n|---|---|\n\n---\n\ntext", 0),
    ],
)
def test_headings(text: str, count: int) -> None:
    words = len(TextView(text).words)
    assert values(text, long_bytes=1)["max_headings"] == pytest.approx(1000 * count / words)


@given(text=st.text(max_size=600), size=st.integers(1, 120), count=st.integers(0, 9))
def test_segments_are_disjoint_pieces_in_order(text: str, size: int, count: int) -> None:
    found = segments(text, size, count)
    assert len(found) <= count
    text = text.encode("utf-8", "replace").decode()
    place = 0
    for segment in found:
        assert len(segment.encode()) <= size
        place = text.index(segment, place) + len(segment)


def test_segments_begin_with_lines_and_reach_both_ends() -> None:
    lines = [f"line {n} {'x' * 20}\n" for n in range(1000)]
    found = segments("".join(lines), 400, 5)
    assert len(found) == 5
    assert all(segment.startswith("line ") for segment in found)
    assert found[0].startswith("line 0 ")
    assert "line 999 " in found[-1]


def test_the_cost_is_the_mean_over_neighbours() -> None:
    model = Recorder([0.5, -0.25, 0.5, 0.25], piece_bytes=100)
    found = dict(context_signals(TextView("some words " * 100), limits(long_bytes=10, max_segments=5), model))
    assert found == {"max_context_cost": pytest.approx(0.25)}
    assert len(model.asked) == 4
    assert all(first[1] == second[0] for first, second in itertools.pairwise(model.asked))
    assert all(len(text) <= 100 for pair in model.asked for text in pair)


def texts_of(shared_data: Path, name: str) -> list[str]:
    with gzip.open(shared_data / "corpora" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def heap(pool: Sequence[str], size: int, rng: random.Random) -> str:
    """Paragraphs of twenty texts at a time, shuffled, of this size."""
    made = ""
    while len(made) < size:
        paragraphs = [block for text in rng.sample(pool, 20) for block in TextView(text).paragraphs]
        rng.shuffle(paragraphs)
        made += "\n\n".join(paragraphs) + "\n\n"
    return made[:size]


def test_heaps_of_real_paragraphs_are_told_from_real_long_texts(shared_data: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    everything = texts_of(shared_data, "en_peps") + texts_of(shared_data, "en_rust_rfcs")
    rng.shuffle(everything)
    real = [text for text in everything if is_long(TextView(text), limits())][:20]
    short = [text for text in everything if not is_long(TextView(text), limits())]
    heaps = [heap(short[:150], len(text), rng) for text in real]
    count_model.train(short[150:], tmp_path / "seeds.npz", max_bytes=3_000_000)
    model = CountModel.load(tmp_path / "seeds.npz")
    cost = [[dict(context_signals(TextView(t), limits(), model))["max_context_cost"] for t in texts] for texts in (real, heaps)]
    area = np.mean([[b > a for a in cost[0]] for b in cost[1]])
    assert area > 0.85
    assert np.mean(cost[0]) < 0 < np.mean(cost[1])
