from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.client import sse
from lianlu.client.sse import ServerEvent, events, lines
from lianlu.core.errors import RequestError


def test_comments_events_and_several_data_lines() -> None:
    stream = b": ping\n\ndata: one\n\nevent: error\ndata:two\ndata: three\nid: 7\n\n"
    assert list(events([stream])) == [ServerEvent("message", "one"), ServerEvent("error", "two\nthree")]


def test_byte_order_mark_and_missing_last_empty_line() -> None:
    assert list(events([b"\xef\xbb\xbfdata: a\n\ndata: [DONE]"])) == [
        ServerEvent("message", "a"),
        ServerEvent("message", "[DONE]"),
    ]


def test_only_real_line_ends_cut_lines() -> None:
    text = "data: a\u2028b\x0bc\x85d"
    assert list(events([text.encode() + b"\n\n"])) == [ServerEvent("message", "a\u2028b\x0bc\x85d")]


@given(
    parts=st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", exclude_categories=["Cs"])), max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    data=st.data(),
)
def test_lines_do_not_depend_on_where_chunks_break(parts: list[str], end: str, data: st.DataObject) -> None:
    whole = "".join(part + end for part in parts).encode()
    chunks, rest = [], whole
    while rest:
        size = data.draw(st.integers(0, len(rest)))
        chunks.append(rest[:size])
        rest = rest[size:] if size else rest
        if not size and len(chunks) > 40:
            chunks.append(rest)
            rest = b""
    assert list(lines(chunks)) == parts


def test_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 1000)
    with pytest.raises(RequestError, match="more than 1000 bytes"):
        list(lines(b"x" * 100 for _ in range(100)))
