"""Cutting answers out of replies."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.eval.extract import by_regex, cut, number, same_number


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("48 * 17 = 816", "816", "last number"),
        ("The answer is 1,234. I checked 3 times.", "1,234", "answer is"),
        ("First the answer is 5, no: the answer is 6", "6", "answer is"),
        ("The total: **42** apples", "42", "answer is"),
        ("It makes -7.", "-7", "last number"),
        ("816.0", "816.0", "last number"),
        ("a half is 1/2", "1/2", "last number"),
    ],
)
def test_the_number_a_reply_settles_on(text, answer, rule):
    found = number(text)
    assert (found.text, found.rule) == (answer, rule)
    assert text[found.start : found.end] == answer


@pytest.mark.parametrize("text", ["", "none at all", "- , . /"])
def test_no_number(text):
    assert not number(text).found
    assert number(text).rule == "none"


@given(st.text(max_size=60))
def test_the_span_always_holds_the_answer(text):
    found = number(text)
    assert not found.found or text[found.start : found.end] == found.text != ""


@pytest.mark.parametrize(("one", "two", "same"), [
    ("1,234", "1234", True), ("816.0", "816", True), ("1/2", "0.5", True), ("0.30000000000000004", "0.3", False),
    ("7", "-7", False), ("1/0", "1", False), ("", "0", False), ("816,", "816", True),
    ("12345678901234567890", "12345678901234567891", False),
])  # fmt: skip
def test_numbers_are_compared_exactly(one, two, same):
    assert same_number(one, two) is same


def test_the_first_group_that_is_not_empty_counts():
    pattern = re.compile(r"(\$\d+)|(\d+)")
    assert by_regex("a 5 $7", pattern, "r").text == "5"
    assert by_regex("a 5 $7", pattern, "r", select=-1).text == "$7"


def test_ends_are_stripped_with_their_place():
    found = by_regex("x: [ hello ]", re.compile(r"\[(.*)\]"), "r")
    assert (found.text, found.start, found.end) == ("hello", 5, 10)


@given(st.text("ab\nQ", max_size=20), st.lists(st.text("ab\nQ", min_size=1, max_size=3), max_size=3))
def test_cut_is_the_longest_beginning_without_a_stop(text, stops):
    kept = cut(text, stops)
    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops)
    assert kept == text or any(text[len(kept) :].startswith(stop) for stop in stops)
