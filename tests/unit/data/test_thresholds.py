from __future__ import annotations

import pytest

from lianlu.core.errors import ConfigError
from lianlu.data.rules.thresholds import Thresholds, Verdict, broken, shipped, with_shipped


def test_language_wins_over_script_over_domain() -> None:
    table = {"f": {"min_x": 1, "max_y": 2, "docs": {"min_x": 3, "max_y": 4}, "cjk": {"min_x": 5}, "zh": {"max_y": False}}}
    of = Thresholds(table).of
    assert of("f") == {"min_x": 1, "max_y": 2}
    assert of("f", "docs") == {"min_x": 3, "max_y": 4}
    assert of("f", "docs", "cjk") == {"min_x": 5, "max_y": 4}
    assert of("f", "docs", "cjk", "zh") == {"min_x": 5, "max_y": False}


def test_the_first_broken_rule_is_named_and_the_rest_not_computed() -> None:
    def values():  # type: ignore[no-untyped-def]
        yield "min_a", 5
        yield "max_b", 9
        raise AssertionError("not reached")

    assert broken("f", {"min_a": 5, "max_b": 8}, values()) == Verdict("f.max_b", 9, 8)
    assert broken("f", {"min_a": False}, [("min_a", -1), ("max_b", 99)]) is None


def test_changes_are_laid_on_the_shipped_table() -> None:
    table = with_shipped({"gopher_quality": {"min_words": 7, "docs": {"min_words": False}}})
    assert table["gopher_quality"]["min_words"] == 7
    assert table["gopher_quality"]["docs"]["min_words"] is False
    assert table["gopher_quality"]["max_words"] == shipped()["gopher_quality"]["max_words"] == 100_000
    assert with_shipped({}) == shipped()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gopher_qualty": {"min_words": 1}}, "did you mean gopher_quality"),
        ({"gopher_quality": {"min_word": 1}}, "did you mean min_words"),
        ({"gopher_quality": {"docs": {"min_word": 1}}}, "did you mean min_words"),
        ({"gopher_quality": {"min_words": "many"}}, "min_words is 'many'"),
        ({"gopher_quality": {"min_words": True}}, "min_words is True"),
        ({"gopher_quality": {"stop_words": 3}}, "stop_words is 3"),
        ({"c4": 3}, "unknown family"),
    ],
)
def test_unknown_rules_are_refused_with_a_hint(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        with_shipped(changes)
    assert error.value.hint
