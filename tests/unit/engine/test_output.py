"""Text of a reply: a stop string ends it wherever it lies, and no part of it is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.engine.output import Output


class Pieces:
    """A stream of given pieces; the last one only comes with the flush."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def flush(self) -> str:
        return self.pieces[-1]


def feed(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    output = Output(Pieces(pieces), stops)
    shown = []
    for index in range(len(pieces) - 1):
        shown.append(output.push(index))
        if output.stopped:
            return shown, True
    shown.append(output.flush())
    return shown, output.stopped


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["Hello", " wor", "ld", ""], ["wor"], ["Hello", " "]),
        (["Hello", " w", "or", "ld", ""], ["wor"], ["Hello", " ", ""]),
        (["a", "b", "a", "b", "c", ""], ["abc"], ["", "", "ab"[:0], "", "ab"]),
        (["aab", "x", ""], ["ab"], ["a"]),
        (["one", "\n", "\ntwo", ""], ["\n\n"], ["one", "", ""]),
        (["one", "\n", "two", ""], ["\n\n"], ["one", "", "\ntwo", ""]),
        (["one", "\n", ""], ["\n\n"], ["one", "", "\n"]),
        (["abc", ""], ["c", "b"], ["a"]),
        (["abc", ""], ["", "z"], ["abc", ""]),
        (["ab", "c"], ["bc"], ["a", ""]),
    ],
)
def test_cases(pieces: list[str], stops: list[str], shown: list[str]) -> None:
    found, stopped = feed(pieces, stops)
    assert "".join(found) == "".join(shown)
    text = "".join(pieces)
    assert stopped == any(stop and stop in text for stop in stops)


letters = st.text("ab", max_size=4)


@given(st.lists(letters, min_size=1, max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    shown, stopped = feed(pieces, stops)
    joined, text = "".join(shown), "".join(pieces)
    assert text.startswith(joined)
    assert not any(stop in joined for stop in stops)
    if stopped:
        assert any(text.startswith(stop, len(joined)) for stop in stops)
    else:
        assert joined == text


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=12))
def test_text_is_not_held_back_longer_than_needed(pieces: list[str]) -> None:
    output = Output(Pieces([*pieces, ""]), ["c", "ac"])
    shown = "".join(output.push(index) for index in range(len(pieces)))
    text = "".join(pieces)
    assert shown == (text[:-1] if text.endswith("a") else text)


def test_nothing_is_flushed_after_a_stop() -> None:
    output = Output(Pieces(["xstop", "rest"]), ["stop"])
    assert output.push(0) == "x"
    assert output.flush() == ""
