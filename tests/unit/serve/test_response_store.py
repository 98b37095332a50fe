"""The store of responses: bounded in number, bytes and age, and closed to others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.serve.failures import ApiError
from lianlu.serve.response_store import ResponseStore, Stored


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stored(name: str, size: int = 1, owner: str = "") -> Stored:
    return Stored({"id": name}, (), owner, size)


def has(store: ResponseStore, name: str, owner: str = "") -> bool:
    try:
        return store.get(name, owner).response["id"] == name
    except ApiError as error:
        if error.status != 404:
            raise
        return False


def test_the_one_that_was_not_used_for_longest_goes_first() -> None:
    store = ResponseStore(max_responses=2)
    for name in ("a", "b"):
        store.put(stored(name))
    assert has(store, "a")
    store.put(stored("c"))
    assert [has(store, name) for name in "abc"] == [True, False, True]


def test_bytes_are_bounded() -> None:
    store = ResponseStore(max_bytes=10)
    for name in ("a", "b", "c"):
        store.put(stored(name, 4))
    assert [has(store, name) for name in "abc"] == [False, True, True]
    store.put(stored("d", 11))
    assert [has(store, name) for name in "bcd"] == [True, True, False]


def test_a_response_goes_some_time_after_its_last_use() -> None:
    clock = Clock()
    store = ResponseStore(max_age_s=10, clock=clock)
    store.put(stored("a"))
    store.put(stored("b"))
    clock.now = 9
    assert has(store, "a")
    clock.now = 18
    assert (has(store, "a"), has(store, "b")) == (True, False)
    assert len(store) == 1


def test_others_do_not_see_it() -> None:
    store = ResponseStore()
    store.put(stored("a", owner="me"))
    with pytest.raises(ApiError, match="no response 'a'"):
        store.delete("a", "you")
    assert has(store, "a", "me")
    store.delete("a", "me")
    assert not has(store, "a", "me")


def test_an_unknown_one_to_go_on_from_names_the_field() -> None:
    with pytest.raises(ApiError) as caught:
        ResponseStore().get("resp_x", "", param="previous_response_id")
    assert (caught.value.status, caught.value.param) == (404, "previous_response_id")
    assert caught.value.code == "previous_response_not_found"


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "delete", "wait"]), st.integers(0, 5), st.integers(0, 5))))
def test_the_bounds_hold_whatever_happens(steps: list[Any]) -> None:
    clock = Clock()
    store = ResponseStore(max_responses=3, max_bytes=8, max_age_s=4, clock=clock)
    for number, (what, which, size) in enumerate(steps):
        name = f"{which}"
        if what == "put":
            store.put(stored(f"{number}", size))
        elif what == "wait":
            clock.now += size
        elif has(store, name) and what == "delete":
            store.delete(name, "")
        kept = [item for _, item in store._kept.values()]
        assert len(kept) <= 3
        assert sum(item.num_bytes for item in kept) == store._num_bytes <= 8
