"""Characters looked up in a table, against Python's own answers and against loops over words and lines."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.rules import c4, characters, refinedweb
from lianlu.data.rules.characters import CJK, Characters, Kind, codes, hashes_of, kinds, present
from lianlu.data.rules.textview import TextView, split_words
from lianlu.data.rules.thresholds import Thresholds, broken, shipped

EVERY = "".join(map(chr, range(0x110000)))
ODD = "ab Z1_.,!\n\t 中文，。…！½Ⅷ\u3000\u200bé\u00ad\r\x0b\x85\u2028\ue000\ufffd☃^İßſ\U0001f600アイ한«”#-☃"
TEXTS = st.text(st.sampled_from(ODD), max_size=200) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        (Kind.SPACE, str.isspace),
        (Kind.ALPHABETIC, str.isalpha),
        (Kind.UPPER, str.isupper),
        (Kind.WORD, re.compile(r"\w").match),
        (Kind.DIGIT, re.compile(r"\d").match),
        (Kind.PRIVATE, lambda character: unicodedata.category(character) in ("Co", "Cn", "Cs")),
        (Kind.SYMBOL, lambda character: unicodedata.category(character) in ("So", "Sk")),
        (Kind.CJK, re.compile(f"[{CJK}]").match),
        (Kind.LETTER, re.compile(r"[^\W\d_]").match),
    ],
)
def test_the_table_says_what_python_says(kind: Kind, holds: object) -> None:
    assert callable(holds)
    found = (kinds(codes(EVERY)) & np.uint16(kind)) != 0
    assert found.tolist() == [bool(holds(character)) for character in EVERY]


@given(TEXTS)
def test_words_counted_at_once_are_the_words(text: str) -> None:
    view = TextView(text)
    assert [text[start : start + 1] for start in view.word_starts] == [word[0] for word in view.words]
    assert view.word_lengths.tolist() == [len(word) for word in view.words]
    assert view.words_per_line.tolist() == [len(split_words(line)) for line in text.split("\n")]
    assert present(text) == int(np.bitwise_or.reduce(kinds(codes(text)))) if text else present(text) == 0


@given(TEXTS, TEXTS)
def test_tokens_have_the_same_hashes_where_they_are_the_same(one: str, other: str) -> None:
    own, theirs = TextView(one).tokens(), TextView(other).tokens()
    assert TextView(one).token_hashes().tolist() == hashes_of(own).tolist()
    hashed = [*TextView(one).token_hashes().tolist(), *TextView(other).token_hashes().tolist()]
    named = dict(zip([*own, *theirs], hashed, strict=True))
    assert len(set(named.values())) == len(named)


def test_the_order_of_characters_tells_hashes_apart() -> None:
    assert len(set(hashes_of(["stop", "pots", "post", "p", "pp", "ppp", "s", "to", "ot"]).tolist())) == 9


@given(TEXTS)
def test_lines_are_those_of_split(text: str) -> None:
    of = Characters(text)
    assert [text[start:end] for start, end in zip(of.line_starts, of.line_ends, strict=True)] == text.split("\n")


LINES = st.sampled_from((
    "12 likes", "阅读 1234", "subscribers: 99", "BUY NOW", "Home", "3.14 2,7", "one", "A sentence of words, it ends.", "§ 1", "",
    "  ", "\u3000x", "ÀÉÎ", "赞(12)", "See the terms of use", "javascript is off", "10 km to go from here", "-- 7 points --",
))  # fmt: skip


@given(st.lists(LINES, max_size=8), st.sampled_from(["", "cjk"]))
def test_lines_that_may_break_a_rule_are_all_looked_at(lines: list[str], script: str) -> None:
    text = "\n".join(lines)
    table = Thresholds(shipped())
    for family, module in (("c4", c4), ("refinedweb", refinedweb)):
        limits = {key: value for key, value in table.of(family, "web", script).items() if value is not False}
        found = {edit.start for edit in module.line_edits(TextView(text), table.of(family, "web", script))}
        start, wanted = 0, set()
        for line in text.split("\n"):
            if line.strip() and broken(family, limits, module._line_signals(line.strip())):
                wanted.add(start)
            start += len(line) + 1
        assert found == wanted


@given(TEXTS)
def test_long_texts_are_hashed_in_pieces_alike(text: str) -> None:
    whole = TextView(text).token_hashes().tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(characters, "_BLOCK", 3)
        assert TextView(text).token_hashes().tolist() == whole
