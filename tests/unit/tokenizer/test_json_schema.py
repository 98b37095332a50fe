"""What is refused before llguidance sees it, where a fault stands, and bounds that hold."""

from __future__ import annotations

from typing import Any

import pytest

from lianlu.tokenizer import json_schema


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": {"items": {"not": {}}}}}, "/properties/a/items"),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"uniqueItems": True}}]}, "/anyOf/1/items"),
        ({"$defs": {"x": {"not": {}}}, "properties": {"a": {"$ref": "#/$defs/x"}}}, "/$defs/x"),
        ({"not": {}}, ""),
        ({"properties": {"items": {"patternProperties": {"^a": {"format": "?"}}}}}, "/properties/items/patternProperties/^a"),
    ],
)
def test_the_place_of_a_fault(schema: dict[str, Any], where: str) -> None:
    message = json_schema.complaint(schema)
    assert message
    assert json_schema.place(schema, message) == where


@pytest.mark.parametrize(
    "schema", [{}, True, {"type": "object"}, {"properties": {"multipleOf": {"type": "string"}}}, {"multipleOf": 0.01}]
)
def test_nothing_to_complain_about(schema: Any) -> None:
    assert json_schema.complaint(schema) == ""


@pytest.mark.parametrize(
    ("schema", "is_heavy"),
    [
        ({"multipleOf": 100_000}, False),
        ({"multipleOf": 100_001}, True),
        ({"multipleOf": 1e300}, True),
        ({"multipleOf": 5e-324}, False),
        ({"multipleOf": True}, True),
        ([{"items": {"multipleOf": 8}}, {"multipleOf": 0.5}], False),
        ({"a": {"multipleOf": 997}, "b": [{"multipleOf": 0.991}]}, True),
    ],
)
def test_multiples_have_a_bound(schema: Any, is_heavy: bool) -> None:
    assert bool(json_schema.heavy(schema)) == is_heavy


def test_an_exclusive_bound_next_to_the_other_one_is_moved_inwards() -> None:
    made = json_schema.with_safe_bounds({"items": [{"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}]})
    assert made == {"items": [{"type": "number", "minimum": pytest.approx(1e-6), "maximum": 0.5}]}
    tiny = json_schema.with_safe_bounds({"minimum": -1e-9, "exclusiveMaximum": 0})
    assert -1e-9 < tiny["maximum"] < 0
    for kept in ({"exclusiveMinimum": 0}, {"exclusiveMinimum": 0, "maximum": 1}, {"exclusiveMinimum": 0.5, "maximum": 0.75}):
        assert json_schema.with_safe_bounds(kept) == kept
    data = {"const": {"exclusiveMinimum": 0, "maximum": 0.5}, "enum": [{"exclusiveMaximum": 1, "minimum": 0.5}]}
    assert json_schema.with_safe_bounds(data) == data
