from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from lianlu.agent.tool import Tool, ToolError, to_text, tool
from lianlu.core.errors import ConfigError, MissingExtraError
from lianlu.formats.messages import ToolCall


@dataclasses.dataclass
class Place:
    city: str
    rooms: int = 1


class Guest(BaseModel):
    name: str
    age: int | None = None


@tool
def book(
    place: Place,
    guests: list[Guest],
    board: Literal["half", "full"] = "half",
    note: str | None = None,
    extras: Annotated[dict[str, float] | None, Field(description="Prices.")] = None,
) -> dict[str, Any]:
    """Book a place.

    Args:
        place: Where to stay.
        note: For the host.
    """
    return {"city": place.city, "guests": [guest.name for guest in guests], "board": board, "note": note, "extras": extras}


@tool
def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def answer(used: Tool, **arguments: Any) -> str:
    message = used.answer(ToolCall(id="c1", name=used.name, arguments=arguments))
    assert (message.role, message.tool_call_id, message.name) == ("tool", "c1", used.name)
    return message.content


def test_schema() -> None:
    assert (add.name, add.spec.description) == ("add", "Add two numbers.")
    assert add.spec.parameters == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }


def test_schema_of_rich_types() -> None:
    schema = book.spec.parameters
    properties = schema["properties"]
    assert schema["required"] == ["place", "guests"]
    assert properties["place"]["description"] == "Where to stay."
    assert properties["board"] == {"default": "half", "enum": ["half", "full"], "type": "string"}
    assert properties["note"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
        "description": "For the host.",
    }
    assert properties["extras"]["description"] == "Prices."
    assert set(schema["$defs"]) == {"Place", "Guest"}
    assert "title" not in json.dumps(schema)


def test_rich_types_arrive_as_such() -> None:
    text = answer(book, place={"city": "Rome"}, guests=[{"name": "Ada", "age": "36"}], board="full", extras={"dog": "2.5"})
    assert json.loads(text) == {"city": "Rome", "guests": ["Ada"], "board": "full", "note": None, "extras": {"dog": 2.5}}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"a": 1}, "3"),
        ({"a": "4", "b": 1.0}, "5"),
        ({"a": "x"}, "Error: argument a: input should be a valid integer, unable to parse string as an integer (got 'x')"),
        ({"a": 1.5}, "Error: argument a: input should be a valid integer, got a number with a fractional part (got 1.5)"),
        ({}, "Error: argument a is missing"),
        ({"a": 1, "bb": 2}, "Error: there is no argument bb; did you mean b?"),
        ({"a": 1, "zzz": 2}, "Error: there is no argument zzz; add takes a, b"),
    ],
)
def test_arguments_are_checked_and_coerced(arguments: dict[str, Any], expected: str) -> None:
    assert answer(add, **arguments) == expected


def test_every_wrong_argument_is_named() -> None:
    text = answer(book, place={"town": "Rome"}, guests="none", board="no")
    for words in ("argument place.city is missing", "argument guests", "argument board"):
        assert words in text


def test_quoted_json_is_read() -> None:
    assert json.loads(answer(book, place='{"city": "Rome"}', guests='[{"name": "Ada"}]'))["guests"] == ["Ada"]


def test_numbers_for_text() -> None:
    @tool
    def shout(text: str) -> str:
        """Shout."""
        return text + "!"

    assert answer(shout, text=7) == "7!"
    assert answer(shout, text='["x"]') == '["x"]!'


def test_names_that_pydantic_keeps_for_itself() -> None:
    @tool
    def odd(copy: int, model_config: str, title: str = "t", schema: bool = False) -> str:
        """Do it."""
        return f"{copy} {model_config} {title} {schema}"

    assert set(odd.spec.parameters["properties"]) == {"copy", "model_config", "title", "schema"}
    assert answer(odd, copy=1, model_config="m", schema="true") == "1 m t True"


def test_what_a_function_raises_is_text() -> None:
    @tool
    def fail(how: str) -> str:
        """Fail."""
        raise {"tool": ToolError("try x"), "exit": SystemExit(3), "value": ValueError("bad\ud800")}.get(how) or MissingExtraError(
            "no"
        )

    assert answer(fail, how="tool") == "Error: try x"
    assert answer(fail, how="exit") == "Error: SystemExit: 3"
    assert answer(fail, how="value") == "Error: ValueError: bad?"
    with pytest.raises(MissingExtraError):
        answer(fail, how="missing")


def test_a_tool_is_still_a_function() -> None:
    assert add(1, b=5) == 6


def test_methods_and_given_names() -> None:
    class Counter:
        count = 0

        def up(self, by: int = 1) -> int:
            """Count."""
            self.count += by
            return self.count

    up = tool(name="count-up", description="Count up.")(Counter().up)
    assert (up.name, up.spec.description) == ("count-up", "Count up.")
    assert [answer(up), answer(up, by=2)] == ["1", "3"]


def test_functions_that_are_no_tools() -> None:
    def silent(x: int) -> int:
        return x

    def untyped(x) -> int:
        """Do it."""
        return int(x)

    def starred(*x: int) -> int:
        """Do it."""
        return sum(x)

    async def later(x: int) -> int:
        """Do it."""
        return x

    def strange(x: object, y: pytest.MonkeyPatch) -> int:
        """Do it."""
        return 0

    def unknown(x: int) -> int:
        """Do it."""
        return 0

    unknown.__annotations__["x"] = "Nowhere"
    reasons = {
        silent: "description",
        untyped: "no type hint",
        starred: "takes",
        later: "async",
        strange: "JSON",
        unknown: "not known",
    }
    for function, reason in reasons.items():
        with pytest.raises(ConfigError, match=reason) as caught:
            tool(function)
        assert caught.value.hint
    with pytest.raises(ConfigError, match="no name"):
        tool(lambda: 0)


def test_results_as_text() -> None:
    assert to_text("a") == "a"
    assert to_text(None) == "(no result)"
    assert to_text(0.1) == "0.1"
    assert (
        to_text({"x": (1, Place("Rome"), Guest(name="Ada"))}) == '{"x":[1,{"city":"Rome","rooms":1},{"name":"Ada","age":null}]}'
    )
    assert to_text(float("nan")) == "NaN"
    assert to_text(object).startswith('"<class')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(arguments=st.dictionaries(st.sampled_from(["place", "guests", "board", "note", "x"]) | st.text(), JSON, max_size=5))
def test_no_arguments_can_break_a_tool(arguments: dict[str, Any]) -> None:
    text = answer(book, **arguments) if "used" not in arguments else "Error"
    assert text.startswith("Error: ") or json.loads(text)["board"] in ("half", "full")


@settings(max_examples=50)
@given(
    a=st.integers(),
    b=st.lists(st.integers()),
    c=st.dictionaries(st.text(), st.integers()),
    d=st.sampled_from(["x", "y"]),
    e=st.none() | st.text(),
)
def test_valid_arguments_arrive_unchanged(a: int, b: list[int], c: dict[str, int], d: str, e: str | None) -> None:
    def echo(a: int, b: list[int], c: dict[str, int], d: Literal["x", "y"], e: str | None) -> list[Any]:
        """Echo."""
        return [a, b, c, d, e]

    arguments = {"a": a, "b": b, "c": c, "d": d, "e": e}
    made = tool(echo)
    assert made.validate(json.loads(json.dumps(arguments))) == arguments
    assert made.validate({**arguments, "b": json.dumps(b), "c": json.dumps(c)}) == arguments
