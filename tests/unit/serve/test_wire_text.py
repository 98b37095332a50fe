"""Bodies of text completions: prompts of all kinds, and what of them makes no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lianlu.client.base import Constraint
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_text import CompletionBody


def complete(**fields: Any) -> CompletionBody:
    return parse_body(CompletionBody, json.dumps({"model": "m", "prompt": "a"} | fields).encode())


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), ("", [""]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_the_four_kinds_of_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert complete(prompt=prompt).prompts() == prompts


@pytest.mark.parametrize("prompt", [None, 5, {}, [1, "a"], [1.5], [["a"]]])
def test_other_prompts_are_refused_with_the_list_of_kinds(prompt: Any) -> None:
    with pytest.raises(ApiError, match="prompt: should be a text, a list of texts"):
        complete(prompt=prompt)


def test_completion_limits() -> None:
    with pytest.raises(ApiError, match="needs echo"):
        complete(max_tokens=0)
    assert complete(max_tokens=0, echo=True).token_limit == 0
    with pytest.raises(ApiError, match="empty list"):
        complete(prompt=[])
    with pytest.raises(ApiError, match="at most"):
        complete(prompt=["a"] * 33, n=2)
    with pytest.raises(ApiError, match="not supported"):
        complete(suffix="end")
    with pytest.raises(ApiError, match="best_of"):
        complete(n=2, best_of=3)
    assert complete(n=2, best_of=2).num_choices == 2


def test_a_text_can_be_held_to_a_form_too() -> None:
    rule = complete(guided_regex="a+").rule()
    assert rule is not None
    assert (rule.constraint, rule.param) == (Constraint("regex", "a+"), "guided_regex")
