"""From a `Constraint` to a grammar that llguidance compiles, or an error that says what is wrong with it and where.

llguidance bounds what compiling and each step may cost (`LIMITS`); texts of great length are refused here, and what
`tokenizer.json_schema` knows to be too heavy.

Source: syntax.md and json_schema.md in the documentation of llguidance.
Limits: regular expressions are those of Rust's regex crate, without look-around; `\\d` is 0 to 9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher, LLParserLimits, regex_to_lark

from lianlu.client.base import Constraint
from lianlu.core.errors import RequestError
from lianlu.tokenizer import json_schema
from lianlu.tokenizer.backend import without_surrogates

LIMITS = LLParserLimits(initial_lexer_fuel=json_schema.MAX_FUEL, max_lexer_states=50_000, verbose_errors=False)
MAX_CHARACTERS = {"json": 500_000, "regex": 20_000, "lark": 500_000}
MAX_SHOWN = 500
"""Characters of what is wrong that are told."""
_NAMES = {"json": "JSON schema", "regex": "regular expression", "lark": "grammar"}
_HINTS = {
    "json": "leave out what is not supported, or simplify the schema",
    "regex": "use the syntax of Rust's regex crate: no look-around, no backreferences",
    "lark": "use the Lark syntax of llguidance, with a rule called start",
}


def grammar_of(constraint: Constraint) -> str:
    """The grammar as llguidance takes it. Raises: RequestError for what no grammar can be made of."""
    kind, source = constraint.kind, constraint.source
    if len(source) > MAX_CHARACTERS[kind]:
        raise refusal(constraint, f"it has {len(source)} characters, {MAX_CHARACTERS[kind]} are allowed")
    if without_surrogates(source) != source:
        raise refusal(constraint, "it has half of a surrogate pair in it, which is no character")
    if kind == "regex":
        return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(source, 'd')}/")
    value = _schema(constraint) if kind == "json" else list(_embedded(source))
    if too_much := json_schema.heavy(value):
        raise refusal(constraint, too_much)
    if kind == "lark":
        return LLMatcher.grammar_from_lark(source)
    try:
        return json_schema.to_grammar(value)
    except (ValueError, RecursionError) as error:
        raise refusal(constraint, str(error)) from error


def refusal(constraint: Constraint, what: str) -> RequestError:
    """The error for a constraint that cannot be used."""
    shown = what if len(what) <= MAX_SHOWN else what[:MAX_SHOWN] + " ..."
    return RequestError(f"the {_NAMES[constraint.kind]} cannot be used: {shown}", hint=_HINTS[constraint.kind])


def explain(constraint: Constraint, message: str) -> RequestError:
    """The error for what llguidance says about a constraint; for JSON Schemas with the place."""
    what = message.removesuffix("<non-verbose/>").strip()
    if constraint.kind == "json":
        where = json_schema.place(_schema(constraint), what)
        what = f"{what} (at {where})" if where else what
    if constraint.kind == "regex":  # the rest shows it as a line of a grammar
        what = what.split("\n   1 | start")[0].removeprefix("at 1(8): ")
    return refusal(constraint, what)


def _schema(constraint: Constraint) -> Any:
    try:
        return json.loads(constraint.source)
    except ValueError as error:
        raise refusal(constraint, f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise refusal(constraint, "it is nested too deeply") from error


def _embedded(lark: str) -> Iterator[Any]:
    """The JSON values that follow a `%` directive of a Lark grammar."""
    for match in re.finditer(r"%\w+\s*(?=\{)", lark):
        try:
            yield json.JSONDecoder().raw_decode(lark, match.end())[0]
        except (ValueError, RecursionError):
            continue
