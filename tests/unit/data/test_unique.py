"""Ids that occur once, whatever they were before."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.scores import unique as module
from lianlu.data.scores.unique import COPY, id_hashes, unique
from lianlu.formats.documents import Document

IDS = st.lists(
    st.one_of(
        st.sampled_from(["x", "x~2", "x~3", "x~2~2", "x~1", "x~", "~2", "", "y", "y~02"]), st.text(alphabet="x~23é", max_size=6)
    ),
    max_size=30,
)


def named(given_ids: list[str], known: list[str] | None = None) -> list[str]:
    rows = (Document(name, "") for name in given_ids)
    return [document.id for document in unique(rows, id_hashes(given_ids if known is None else known))]


@given(IDS)
def test_every_id_occurs_once_and_the_first_keeps_its_own(ids: list[str]) -> None:
    found = named(ids)
    assert len(set(found)) == len(ids)
    firsts = {name: ids.index(name) for name in ids}
    for place, (before, after) in enumerate(zip(ids, found, strict=True)):
        assert after == before if place == firsts[before] else COPY.sub("", after) == before and after not in firsts


@given(IDS, st.data())
def test_ids_that_are_known_but_not_written_leave_them_unique(ids: list[str], data: st.DataObject) -> None:
    taken = [place for place in range(len(ids)) if data.draw(st.booleans())]
    found = named([ids[place] for place in taken], ids)
    assert len(set(found)) == len(taken)
    assert found == named([ids[place] for place in taken], ids[::-1])


@given(IDS)
def test_equal_hashes_of_different_ids_do_no_harm(ids: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plain = module._hash
        patch.setattr(module, "_hash", lambda name: plain(name) % 100)
        assert len(set(named(ids))) == len(ids)


def test_a_number_that_a_document_has_as_its_own_is_left_out() -> None:
    assert named(["x", "x", "x~2", "x", "x~2", "x~4"]) == ["x", "x~3", "x~2", "x~5", "x~2~2", "x~4"]


def test_memory_stays_flat_where_all_ids_repeat() -> None:
    def rows(count: int) -> Iterator[Document]:
        return (Document(f"document-{number // 2}", "") for number in range(count))

    peaks = []
    for count in (100, 5000, 20000):  # the first for what is made on the way
        tracemalloc.start()
        hashes = id_hashes(document.id for document in rows(count))
        assert sum(document.id.endswith("~2") for document in unique(rows(count), hashes)) == count // 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] <= 64 * 15000
