"""Forms of a reply in the dialects of several servers: what they come to, and which make no sense."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Constraint
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_rules import Ruled, choice_constraint

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"const": "\u00e9"}}}
OBJECT = Constraint("json", '{"type":"object"}')
GBNF = 'root ::= "yes" | no\nno ::= "n" "o"+'


def ruled(**fields: Any) -> Constraint | None:
    rule = parse_body(Ruled, json.dumps(fields).encode()).rule()
    return None if rule is None else rule.constraint


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": False, "description": "d"}}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None, "json_object": False}},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
    ],
)
def test_a_schema_in_every_dialect_keeps_the_order_of_its_properties(fields: dict[str, Any]) -> None:
    found = ruled(**fields)
    assert found is not None
    assert found.kind == "json"
    assert json.loads(found.source) == SCHEMA
    assert found.source.index('"b"') < found.source.index('"a"')


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "structured_outputs": None, "guided_regex": None}, None),
        ({"response_format": {"type": "json_object"}}, OBJECT),
        ({"structured_outputs": {"json_object": True}}, OBJECT),
        ({"response_format": {"type": "regex_schema", "regex_schema": "[ab]+"}}, Constraint("regex", "[ab]+")),
        ({"structured_outputs": {"regex": "[ab]+"}}, Constraint("regex", "[ab]+")),
        ({"guided_regex": "[ab]+"}, Constraint("regex", "[ab]+")),
        ({"guided_choice": ["yes", "no", "yes"]}, Constraint("regex", "(?:yes)|(?:no)")),
        ({"structured_outputs": {"choice": ["a|b"]}}, Constraint("regex", "(?:a\\|b)")),
        ({"guided_grammar": 'start: "a"'}, Constraint("lark", 'start: "a"')),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint("lark", 'start: "a"')),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, Constraint("regex", "a")),
    ],
)
def test_forms(fields: dict[str, Any], expected: Constraint | None) -> None:
    assert ruled(**fields) == expected


def test_gbnf_is_translated() -> None:
    found = ruled(guided_grammar=GBNF)
    assert found is not None
    assert found.kind == "lark"
    assert "::=" not in found.source
    assert "start:" in found.source


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "response_format"),
        ({"response_format": "json"}, "response_format", "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema is required", "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema is required", "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": [1]}}},
            "response_format.json_schema.schema should be an object (got [1])",
            "response_format",
        ),
        ({"response_format": {"type": "json_object", "schema": 5}}, "should be an object (got 5)", "response_format"),
        ({"response_format": {"type": "json_object", "body": {}}}, "response_format.body", "response_format"),
        ({"response_format": {"type": "regex_schema"}}, "response_format.regex_schema is empty", "response_format"),
        ({"structured_outputs": {}}, "exactly one rule", "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "exactly one rule", "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice is no list of texts", "structured_outputs"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice", "structured_outputs"),
        ({"guided_choice": ["a", ""]}, "guided_choice is no list of texts", "guided_choice"),
        ({"guided_choice": ["a", 5]}, "guided_choice.1", "guided_choice"),
        ({"guided_choice": ["a"] * 2000}, "guided_choice is no list of texts", "guided_choice"),
        ({"guided_json": "{"}, "guided_json is not JSON", "guided_json"),
        ({"guided_json": "[" * 100_000}, "guided_json is not JSON", "guided_json"),
        ({"guided_json": True}, "guided_json should be an object", "guided_json"),
        ({"guided_regex": ""}, "guided_regex is empty", "guided_regex"),
        ({"guided_grammar": " "}, "guided_grammar is empty", "guided_grammar"),
        ({"guided_grammar": "root ::= ("}, "no GBNF grammar", "guided_grammar"),
        ({"guided_grammar": "root ::= undefined"}, "no GBNF grammar", "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex and guided_choice exclude each other", "guided_choice"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "exclude each other",
            "structured_outputs",
        ),
    ],
)
def test_forms_that_make_no_sense(fields: dict[str, Any], said: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        ruled(**fields)
    assert said in caught.value.message
    assert (caught.value.param, caught.value.status) == (param, 400)


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5), st.text(max_size=6))
def test_of_several_texts_the_expression_takes_those_and_no_other(texts: list[str], other: str) -> None:
    pattern = re.compile(choice_constraint(texts, "p", "f").source)
    assert all(pattern.fullmatch(text) for text in texts)
    assert (pattern.fullmatch(other) is not None) == (other in texts)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=3))
def test_the_engine_s_library_reads_the_expression(texts: list[str]) -> None:
    from llguidance import LLMatcher

    source = choice_constraint(texts, "p", "f").source
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(source)) == ""
