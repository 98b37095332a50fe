"""What JSON Schemas llguidance can keep a reply to, and where one stands that it cannot.

Used for `response_format` by the engine and for the parameters of tools by `tool_grammar`. Schemas are taken as they are, with
three choices: white space between tokens has a bound (a weak model would fill its reply with it), properties come in the order
in which they are written, and a keyword that is not supported is an error, not ignored. Compiling and stepping have llguidance's
limits; what they leave open is refused here: `multipleOf`, whose automaton has as many states as the number.

Source: json_schema.md in the documentation of llguidance; JSON Schema 2020-12.
Limits: numbers may have any number of digits. llguidance 1.9 lets a whole number through as its own exclusive bound if the other
bound is less than 1 away, so such a bound is moved inwards a little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, TypeGuard

MAX_MULTIPLE = 100_000
"""Largest least common multiple of all `multipleOf`, their decimal points left out."""
MAX_CHECKS = 200
MAX_FUEL = 400_000
SPACE = r"[ \n\r\t]{1,40}"
NUDGE = 1e-6
_BOUNDS = (
    ("exclusiveMinimum", "minimum", ("maximum", "exclusiveMaximum")),
    ("exclusiveMaximum", "maximum", ("minimum", "exclusiveMinimum")),
)
_DATA = ("const", "enum", "default", "examples")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def to_grammar(schema: Any) -> str:
    """A schema as llguidance takes grammars. Raises: ValueError for what is no schema, or has numbers that JSON does not have."""
    from llguidance import LLMatcher

    if not isinstance(schema, dict) and schema is not True:
        raise ValueError("a schema that allows anything is an object, or true")
    text = "{}" if schema is True else json.dumps(with_safe_bounds(schema), allow_nan=False)
    return LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": SPACE})


def complaint(schema: Any) -> str:
    """What is wrong with a schema, empty if nothing is."""
    if too_much := heavy(schema):
        return too_much
    try:
        return _complaint(schema)
    except (ValueError, RecursionError) as error:
        return str(error)


def heavy(value: Any) -> str:
    """Why a schema, or a grammar with schemas in it, would cost too much; empty if it would not."""
    total = 1
    for number in _multiples(value):
        total = math.lcm(total, number)
        if total > MAX_MULTIPLE:
            return f"the numbers of multipleOf have a common multiple above {MAX_MULTIPLE}"
    return ""


def place(schema: Any, message: str) -> str:
    """Where in a schema the part stands about which llguidance says the same as about the whole, as a path; empty: the whole."""
    budget, path, part = MAX_CHECKS, "", schema
    definitions = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema}
    while True:
        for step, child in _children(part):
            budget -= 1
            if budget < 0:
                return path
            if _complaint({**definitions, **child}) == message:
                path, part = path + step, child
                break
        else:
            return path


def _complaint(schema: Any) -> str:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(initial_lexer_fuel=MAX_FUEL, verbose_errors=False)
    return LLMatcher.validate_grammar(to_grammar(schema), limits=limits).removesuffix("<non-verbose/>").strip()


def with_safe_bounds(value: Any) -> Any:
    """A schema without exclusive bounds at whole numbers near the other bound; values that are data are left alone."""
    if isinstance(value, list):
        return [with_safe_bounds(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: item if key in _DATA else with_safe_bounds(item) for key, item in value.items()}
    for exclusive, inclusive, others in _BOUNDS:
        bound, other = made.get(exclusive), next((made[key] for key in others if _is_number(made.get(key))), None)
        if (
            _is_number(bound)
            and bound == int(bound)
            and other is not None
            and 0 < abs(other - bound) < 1
            and inclusive not in made
        ):
            del made[exclusive]
            made[inclusive] = bound + math.copysign(min(NUDGE, abs(other - bound) / 2), other - bound)
    return made


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _multiples(value: Any) -> Iterator[int]:
    """The digits of every `multipleOf` in a schema."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        number = item.get("multipleOf") if isinstance(item, dict) else None
        if isinstance(number, int | float) and number > 0:
            yield _digits(number)


def _digits(number: float) -> int:
    try:
        found = Decimal(str(number)).normalize()
        return int(found.scaleb(-min(int(found.as_tuple().exponent), 0)))
    except (InvalidOperation, ValueError, OverflowError):
        return MAX_MULTIPLE + 1


def _children(part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas right below a schema, each with the step that leads there."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if isinstance(value, dict) and key not in _NAMED:
            yield f"/{key}", value
            continue
        named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        yield from ((f"/{key}/{name}", item) for name, item in named if isinstance(item, dict))
