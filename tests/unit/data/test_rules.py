"""Every family of prose and code rules: what each key drops, and what it must let through."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lianlu.data.code import rules as code_rules
from lianlu.data.rules import c4, gopher_repetition
from lianlu.data.rules.edits import applied
from lianlu.data.rules.families import LEFT, WHOLE
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Thresholds, broken, shipped

LIMITS = Thresholds(shipped())
SIGNALS = {**WHOLE, **LEFT, "code": code_rules.signals}
PROSE = """The library opened in the spring of a cold year, and the people of the town came to see it with their children.
They walked between the shelves, took books in their hands, and asked the keeper which of them she would read first.

She said that she had no answer to that. Every reader has to find a door of their own, and behind each door there is
another room. Some of the rooms are small and warm; others have windows to the sea. It was a good answer after all.

In the evening the lamps were lit. Two boys had fallen asleep over an atlas, one finger still upon a distant coast."""
CHINESE = (
    "春天的时候，镇上的图书馆开门了，人们带着孩子来看书。他们在书架之间慢慢走着，问管理员应该先"
    "读哪一本。她说她也不知道，每个读者都要自己去找一扇门。门的后面还有别的房间，有的很小很暖和"
    "，有的有窗户对着大海。到了晚上灯都亮了，两个男孩在地图上睡着了，一根手指还放在遥远的海岸。"
)


def without_lines(view: TextView, limits: Limits) -> str:
    return applied(view.text, c4.line_edits(view, limits))


def rule_of(text: str, family: str, domain: str = "web", lang: str = "en") -> str | None:
    view = TextView(text)
    limits = LIMITS.of(family, domain, view.script, lang)
    verdict = broken(family, limits, SIGNALS[family](view, limits))
    return verdict.rule.split(".")[1] if verdict else None


@pytest.mark.parametrize(("text", "lang"), [(PROSE, "en"), (CHINESE, "zh")])
def test_good_prose_passes_every_family(text: str, lang: str) -> None:
    for family in ("gopher_quality", "gopher_repetition", "c4", "fineweb"):
        assert rule_of(text, family, lang=lang) is None, family


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("too short a text", "min_words"),
        ("a b c d e f g h i j " * 9, "min_mean_word_length"),
        ("internationalisation antidisestablishment the of " * 20, "max_mean_word_length"),
        (PROSE + " #tag #tag" * 12, "max_hash_ratio"),
        (PROSE + " and so on..." * 20, "max_ellipsis_ratio"),
        ("\n".join("- the thing that people have with them" for _ in range(12)), "max_bullet_lines"),
        (
            PROSE.replace("children.", "children...").replace("first.", "first...").replace("is\n", "is...\n"),
            "max_ellipsis_lines",
        ),
        (PROSE + " 1234 5678" * 30, "min_alpha_words"),
        ("Lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor " * 6, "min_stop_words"),
    ],
)
def test_gopher_quality(text: str, rule: str) -> None:
    assert rule_of(text, "gopher_quality") == rule


def test_stop_words_beside_punctuation_count_and_other_languages_need_none() -> None:
    text = '(the) reader\'s garden, "of" green leaves ' * 12
    assert rule_of(text, "gopher_quality") is None
    french = "Le jardin du lecteur est plein de feuilles vertes et de livres ouverts " * 6
    assert rule_of(french, "gopher_quality", lang="fr") is None


def test_a_chinese_text_counts_characters_as_words() -> None:
    view = TextView("你好 world，再见")
    assert view.words == ["你", "好", "world", "，", "再", "见"]
    assert TextView(CHINESE).script == "cjk"
    assert TextView(PROSE + "你好").script == ""
    assert rule_of(CHINESE[:60], "gopher_quality", lang="zh") == "min_words"


def brute_force(words: list[str], size: int) -> tuple[int, int]:
    """Characters of the top n-gram in all its places, and characters covered by second and later n-grams."""
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    counts = Counter(grams)
    best = max(counts.values(), default=0)
    top = max((sum(map(len, gram)) * best for gram, count in counts.items() if count == best), default=0) if best > 1 else 0
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for place, gram in enumerate(grams):
        if gram in seen:
            covered.update(range(place, place + size))
        seen.add(gram)
    return top, sum(len(words[i]) for i in covered)


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d", "你"]), min_size=1, max_size=60))
@example(["a"] * 40)
@example(["a", "bb"] * 12)
def test_gopher_repetition_equals_counting_by_hand(words: list[str]) -> None:
    view = TextView(" ".join(words))
    assert view.words == words
    total = sum(map(len, words))
    found = dict(gopher_repetition.signals(view))
    for size in range(2, 11):
        top, covered = brute_force(words, size)
        if size <= 4:
            assert found[f"max_top_{size}gram_chars"] == pytest.approx(top / total)
        else:
            assert found[f"max_duplicate_{size}gram_chars"] == pytest.approx(covered / total)


def test_blank_lines_are_not_duplicates() -> None:
    found = dict(gopher_repetition.signals(TextView("one\n\n\n\ntwo\n\n\n\nthree\n   \n\nfour")))
    assert found["max_duplicate_lines"] == found["max_duplicate_paragraphs"] == 0


def test_duplicate_lines_and_paragraphs_are_shares() -> None:
    found = dict(gopher_repetition.signals(TextView("aa\naa\nb\n\naa\naa\nb\n\nc")))
    assert found["max_duplicate_lines"] == pytest.approx(4 / 7)
    assert found["max_duplicate_line_chars"] == pytest.approx((3 * 2 + 1) / 11)
    assert found["max_duplicate_paragraphs"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE + "\n" + "\n".join(["Subscribe to our list now."] * 6), "max_duplicate_lines"),
        (PROSE + " buy cheap watches here" * 30, "max_top_2gram_chars"),
    ],
)
def test_gopher_repetition_drops(text: str, rule: str) -> None:
    assert rule_of(text, "gopher_repetition") == rule


def test_c4_removes_lines_and_keeps_paragraphs() -> None:
    limits = LIMITS.of("c4", "web")
    text = (
        PROSE
        + "\n\nHome\nPlease enable JavaScript in your browser now.\nThis site uses cookies to serve you.\n"
        + "x" * 1001
        + " a b\n\nThe end of it all."
    )
    assert without_lines(TextView(text), limits) == PROSE + "\n\nThe end of it all."
    assert c4.line_edits(TextView(PROSE), limits) == []
    strict = {**limits, "max_lines_without_end_mark": 0}
    assert (
        without_lines(TextView("A line that ends well.\nA line that does not\nOne that trails off..."), strict)
        == "A line that ends well."
    )
    assert without_lines(TextView("你好吗\n好\n使用cookie的网站在这里"), limits) == "你好吗"


def test_documentation_keeps_its_headings_and_code() -> None:
    text = "# Usage\n\nCall it with {} as in `f({})`. It returns nothing at all."
    assert without_lines(TextView(text), LIMITS.of("c4", "docs")) == text
    assert rule_of(text, "c4", "docs") is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE + " Lorem Ipsum.", "max_lorem_ipsum"),
        (PROSE + " { x }", "max_curly_brackets"),
        ("Only one. And two.\nAnd a line without an end", "min_sentences"),
    ],
)
def test_c4_drops(text: str, rule: str) -> None:
    assert rule_of(text, "c4") == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n".join(f"a line of some words number {n} that goes on" for n in range(20)), "min_lines_with_end_mark"),
        ("\n".join(f"Item {n}." for n in range(20)), "max_short_lines"),
        (
            PROSE + "\n\nThe very same line of text stands here twice.\nThe very same line of text stands here twice.",
            "max_duplicate_line_chars",
        ),
        (
            "\n".join(["Averyveryverylongwordthatfillsaline onemoreofthem."[:45] + f"{n}." for n in range(9)]),
            "max_lines_per_word",
        ),
    ],
)
def test_fineweb_drops(text: str, rule: str) -> None:
    assert rule_of(text, "fineweb") == rule


CODE = "\n".join(f"def function_{n}(value):\n    return value + {n}\n" for n in range(10))


@pytest.mark.parametrize(
    ("text", "lang", "rule"),
    [
        (CODE, "python", None),
        ("x = 1\n", "python", "min_lines"),
        (CODE + "x = '" + "a" * 1001 + "'", "python", "max_line_length"),
        ("\n".join("value = " + "a + " * 25 + "b" for _ in range(12)), "python", "max_mean_line_length"),
        ("\n".join("1, 2, 3, 4, 5, 6, 7, 8" for _ in range(12)), "python", "min_alpha_chars"),
        ('<?xml version="1.0"?>\n' + CODE, "xml", "max_xml_declarations"),
        ('<?xml version="1.0"?>\n<xsl:stylesheet>\n' + CODE, "xml", None),
        ("# Generated file. DO NOT EDIT.\n" + CODE, "python", "max_generated_marks"),
        (CODE + "# DO NOT EDIT\n", "python", None),
        ('{"a": 1}', "json", "min_chars"),
        ('{"key": "value"}\n' * 400, "json", "max_chars"),
    ],
)
def test_code_rules(text: str, lang: str, rule: str | None) -> None:
    assert rule_of(text, "code", "code", lang) == rule


@given(st.text(max_size=200))
def test_no_text_breaks_a_rule_family_itself(text: str) -> None:
    for family in ("gopher_quality", "gopher_repetition", "c4", "fineweb", "code"):
        rule_of(text, family)
        rule_of(text, family, "docs", "zh")
    without_lines(TextView(text), LIMITS.of("c4", "web"))
