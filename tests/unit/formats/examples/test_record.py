"""A record as it stands in a file: parsed, or the reason why not; and what is kept of one that is rejected."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.formats.examples.record import MAX_KEPT_CHARS, Raw, RecordError, kept, name_of, parsed, text_of


@pytest.mark.parametrize("data", [b'{"a": 1, "b": null}\r\n', '{"a": 1, "b": null}', {"a": 1, "b": None}])
def test_text_bytes_and_rows_become_objects_without_nulls(data: Any) -> None:
    assert parsed(Raw(3, data)) == {"a": 1}


def test_a_byte_order_mark_may_stand_in_the_first_line_only() -> None:
    assert parsed(Raw(1, b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}
    with pytest.raises(RecordError, match="not JSON"):
        parsed(Raw(2, b'\xef\xbb\xbf{"a": 1}'))


def test_a_list_of_objects_is_one_of_messages() -> None:
    turns = [{"role": "user", "content": "x"}]
    assert parsed(Raw(1, json.dumps(turns))) == {"messages": turns}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{oops", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_record_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        parsed(Raw(2, data))
    assert caught.value.reason == reason
    assert caught.value.is_wrong


def test_what_could_not_be_read_keeps_its_reason() -> None:
    with pytest.raises(RecordError, match="too long a line"):
        parsed(Raw(2, b"{}", "too long a line"))


@pytest.mark.parametrize(
    ("value", "text"), [("x", "x"), (None, ""), (4, "4"), (2.5, "2.5"), (-0.0, "-0.0"), (10**30, "1" + "0" * 30)]
)
def test_numbers_stand_for_their_digits(value: Any, text: str) -> None:
    assert text_of(value, "the answer") == text


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "true or false"), ([], "a list"), ({}, "an object"), (float("nan"), "a number"), (float("inf"), "a number")],
)
def test_other_values_are_no_text(value: Any, kind: str) -> None:
    with pytest.raises(RecordError) as caught:
        text_of(value, "the answer")
    assert caught.value.reason == f"the answer is {kind}, not text"


def test_names() -> None:
    assert name_of({"id": "a"}, "x") == "a"
    assert name_of({"id": 0}, "x") == "0"
    for nameless in ({}, {"id": ""}, {"id": True}, {"id": [1]}):
        assert name_of(nameless, "x") == "x"


def test_a_kept_record_is_its_value_or_the_beginning_of_its_text() -> None:
    assert kept(Raw(1, b'\xef\xbb\xbf{"a": [1, "\xe4\xbd\xa0"]}\n')) == {"a": [1, "你"]}
    assert kept(Raw(1, b"{oops\xff\n")) == "{oops\ufffd"
    assert kept(Raw(1, {"a": {1, 2}})) == {"a": "{1, 2}"}
    assert kept(Raw(1, b'{"a": NaN}')) == '{"a": NaN}'
    deep = '{"a": ' + "[" * 300 + "]" * 300 + "}"
    assert kept(Raw(1, deep)) == deep
    for huge in (json.dumps({"a": "x" * 10**6}), json.dumps({"a": "x" * 10**6}).encode(), {"a": "x" * 10**6}):
        assert len(kept(Raw(1, huge))) == MAX_KEPT_CHARS + 4
        assert kept(Raw(1, huge)).startswith('{"a": "xxx')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
)


@given(JSON)
def test_any_json_parses_or_says_why_and_can_be_kept(value: Any) -> None:
    raw = Raw(1, json.dumps(value))
    with contextlib.suppress(RecordError):
        assert isinstance(parsed(raw), dict)
    json.dumps(kept(raw), allow_nan=False)


@given(st.binary(max_size=40))
def test_any_bytes_do(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        assert isinstance(parsed(Raw(1, data)), dict)
    json.dumps(kept(Raw(1, data)), allow_nan=False)
