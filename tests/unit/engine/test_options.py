"""Wishes for a reply as keywords."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from lianlu.client.base import Constraint, Sampling
from lianlu.core.errors import RequestError
from lianlu.engine.options import CONSTRAINTS, NAMES, OF_REQUEST, checked_options, request_fields, sampling_of
from lianlu.engine.sequence import Request

OBJECT = {"type": "object", "properties": {"name": {"type": "string"}}}


class Person(BaseModel):
    name: str


class Group(BaseModel):
    people: list[Person]
    notes: dict[str, str]
    example: dict[str, Any] = {"type": "object", "properties": {}}


class Free(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


def sampling(**given: Any) -> Sampling:
    return sampling_of(checked_options(given))


def test_every_option_has_a_home() -> None:
    homes = {field.name for kind in (Sampling, Request) for field in fields(kind)}
    assert set(NAMES) - homes == {*CONSTRAINTS, "tool_choice"}
    assert set(OF_REQUEST) <= {field.name for field in fields(Request)}
    assert {field.name for field in fields(Sampling)} - set(NAMES) == {"constraint"}


def test_nothing_wished_is_the_default() -> None:
    assert sampling() == Sampling()
    assert request_fields(checked_options({})) == {}


def test_values_arrive() -> None:
    assert sampling(max_tokens=5, temperature=1, stop="a", logit_bias={3: -1}, seed=4) == Sampling(
        max_tokens=5, temperature=1.0, stop=("a",), logit_bias=((3, -1.0),), seed=4
    )
    assert sampling(stop=["a", "b"]).stop == ("a", "b")
    given = {"adapter": "law", "session": "mine", "ignore_eos": True, "deadline_s": 2.0}
    assert request_fields(checked_options(given)) == given
    assert sampling(**given) == Sampling()


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"json_schema": OBJECT}, Constraint("json", json.dumps(OBJECT))),
        ({"json_schema": '{"type": "null"}'}, Constraint("json", '{"type": "null"}')),
        ({"json_schema": True}, Constraint("json", "true")),
        ({"regex": "a+"}, Constraint("regex", "a+")),
        ({"grammar": "start: A"}, Constraint("lark", "start: A")),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json", '{"type":"object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}}},
            Constraint("json", json.dumps(OBJECT)),
        ),
        ({"json_schema": None, "regex": None}, None),
    ],
)
def test_constraints(given: dict[str, Any], constraint: Constraint | None) -> None:
    assert sampling(**given).constraint == constraint


def test_a_pydantic_model_has_its_own_fields_only() -> None:
    constraint = sampling(json_schema=Group).constraint
    assert constraint is not None
    assert constraint.kind == "json"
    schema = json.loads(constraint.source)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Person"]["additionalProperties"] is False
    assert schema["properties"]["notes"]["additionalProperties"] == {"type": "string"}
    assert schema["properties"]["example"]["default"] == {"type": "object", "properties": {}}
    assert json.loads((sampling(json_schema=Free).constraint or constraint).source)["additionalProperties"] is True


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temprature": 1}, "did you mean temperature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"stop": 5}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"regex": "a", "grammar": "b"}, "regex and grammar"),
        ({"json_schema": 5}, "no JSON Schema"),
        ({"json_schema": {"a": object()}}, "no JSON"),
        ({"response_format": {"type": "yaml"}}, "yaml"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        sampling(**given)
    assert says in f"{caught.value.message}; {caught.value.hint}"
    assert caught.value.hint
