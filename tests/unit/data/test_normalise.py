from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.read.normalise import normalise
from lianlu.data.rules.language import identify

ODD = st.text(
    st.sampled_from("ab \t\n\r\x0b\x0c\x00\x85\u2028\u200b\u200c\u200d\ufeff\u00ade\u0301你\u202e\ud800\U0001f468"), max_size=30
)


@given(ODD | st.text())
def test_twice_is_the_same_as_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert "\x00" not in once
    assert not any(line.endswith((" ", "\t")) for line in once.split("\n"))
    assert "\n\n\n\n" not in once
    once.encode()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("\ufeffzero\u200bwidth soft\u00adhyphen \u202eright", "zerowidth softhyphen right"),
        ("e\u0301", "\u00e9"),
        ("a  \n\n\n\n\n\nb\t\n", "a\n\n\nb"),
        ("    indented\n\tcode", "    indented\n\tcode"),
        ("\x0c\ndef f", "def f"),
        ("\U0001f468\u200d\U0001f469 and a\u200db", "\U0001f468\u200d\U0001f469 and ab"),
        ("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
    ],
)
def test_cases(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("The quick brown fox jumps over the lazy dog and runs into the forest.", "en"),
        ("图书馆在春天开门了，人们带着孩子来看书。", "zh"),
        ("Die Bibliothek wurde im Frühling eröffnet, und viele Menschen kamen.", "de"),
    ],
)
def test_languages_have_a_probability(text: str, lang: str) -> None:
    found, probability = identify(text)
    assert found == lang
    assert 0.5 < probability <= 1
    assert 0 <= identify("")[1] <= 1


@given(st.text(st.sampled_from("a \t\n\u3000"), max_size=60))
def test_space_goes_at_the_end_of_lines_alone(text: str) -> None:
    kept = "\n".join(line.rstrip() for line in text.split("\n"))
    assert normalise(text) == re.sub("\n{4,}", "\n\n\n", kept).strip("\n")


def test_blanks_by_the_megabyte_are_passed_once() -> None:
    for blank in (" ", "\t", "\u3000"):
        assert normalise(blank * 3_000_000 + "x") == blank * 3_000_000 + "x"  # took an hour where each blank was tried
