"""Word overlap between a text and a reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.eval.overlap import rouge_l, word_f1

words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "Mat.", "7"]), max_size=12).map(" ".join)


@pytest.mark.parametrize(("text", "reference", "expected"), [
    ("The cat sat.", "cat sat", 1.0), ("dog", "cat", 0.0), ("", "", 1.0), ("", "cat", 0.0), ("cat cat", "cat", 2 / 3),
])  # fmt: skip
def test_word_f1_by_hand(text, reference, expected):
    assert word_f1(text, reference) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "reference", "expected"), [
    ("police killed the gunman", "police kill the gunman", 0.75), ("the gunman kill police", "police kill the gunman", 0.5),
    ("", "cat", 0.0), ("!", "?", 0.0), ("Cat, sat", "cat SAT", 1.0),
])  # fmt: skip
def test_rouge_l_by_hand(text, reference, expected):
    assert rouge_l(text, reference) == pytest.approx(expected)


@given(words, words)
def test_both_are_symmetric_shares(one, two):
    for measure in (word_f1, rouge_l):
        assert 0 <= measure(one, two) <= 1
        assert measure(one, two) == pytest.approx(measure(two, one))


@given(words.filter(lambda text: "cat" in text))
def test_a_text_repeats_itself_whole(text):
    assert word_f1(text, text) == rouge_l(text, text) == 1.0
