"""Wishes for the form of a reply, in the dialects that clients know, as one `Constraint` of ours.

    OpenAI          response_format: text | json_object | json_schema (flat in `text.format` of the responses API)
    vLLM            structured_outputs: {json | regex | grammar | choice | json_object}, and the older guided_* fields
    llama.cpp       response_format: {"type": "json_object", "schema": ...}
    LMDeploy        response_format: {"type": "regex_schema", "regex_schema": ...}

At most one of them may be given. A schema is always kept to, `strict` or not; what of it is not supported is said when the
engine compiles it. A grammar is one in the Lark dialect of llguidance, or GBNF, which is translated.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lianlu.client.base import Constraint
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import Strict, short

ANY_OBJECT = Constraint("json", '{"type":"object"}')
MAX_CHOICES_OF_TEXT = 1024
_IS_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


@dataclass(frozen=True)
class Rule:
    """The form a reply is held to, and the field of the body that asks for it."""

    constraint: Constraint
    param: str


class JsonSchema(BaseModel):
    """A named schema of OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    body: Any = Field(None, alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text", "json_object", "json_schema", "regex_schema"]
    json_schema: JsonSchema | None = None
    body: Any = Field(None, alias="schema")
    regex_schema: str | None = None

    def constraint(self) -> Constraint | None:
        """The constraint; None for free text. Raises: ApiError if what the type needs is not there."""
        if self.type == "json_schema":
            schema = None if self.json_schema is None else self.json_schema.body
            return schema_constraint(schema, "response_format", "response_format.json_schema.schema")
        if self.type == "regex_schema":
            return regex_constraint(self.regex_schema, "response_format", "response_format.regex_schema")
        if self.type == "json_object":
            return ANY_OBJECT if self.body is None else schema_constraint(self.body, "response_format", "response_format.schema")
        return None


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`: exactly one of its fields."""

    model_config = ConfigDict(strict=True, extra="forbid")
    schema_: Any = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def constraint(self) -> Constraint:
        """The constraint. Raises: ApiError unless exactly one is given."""
        given = {name: value for name, value in self if value is not None and value is not False}
        if len(given) != 1:
            hint = "use one of json, regex, choice, grammar and json_object"
            raise ApiError("structured_outputs takes exactly one rule", hint=hint, param="structured_outputs")
        ((name, value),) = given.items()
        return make("json" if name == "schema_" else name, value, "structured_outputs")


class Ruled(Strict):
    """A body that may ask for a form of the reply."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Ruled:
        self.rule()
        return self

    def rule(self) -> Rule | None:
        """The form that was asked for; None for free text. Raises: ApiError for one that makes no sense, or two at once."""
        found: dict[str, Constraint] = {}
        if self.response_format is not None and (form := self.response_format.constraint()):
            found["response_format"] = form
        if self.structured_outputs is not None:
            found["structured_outputs"] = self.structured_outputs.constraint()
        for kind in ("json", "regex", "choice", "grammar"):
            if (value := getattr(self, f"guided_{kind}")) is not None:
                found[f"guided_{kind}"] = make(kind, value, f"guided_{kind}")
        if len(found) > 1:
            first, second = list(found)[:2]
            raise ApiError(f"{first} and {second} exclude each other", hint="leave one of them out", param=second)
        return next((Rule(constraint, param) for param, constraint in found.items()), None)


def make(kind: str, value: Any, param: str) -> Constraint:
    """A constraint in vLLM's terms. Raises: ApiError."""
    field = param if param.startswith("guided") else f"{param}.{kind}"
    if kind == "json":
        return schema_constraint(value, param, field)
    if kind == "regex":
        return regex_constraint(value, param, field)
    if kind == "choice":
        return choice_constraint(value, param, field)
    return ANY_OBJECT if kind == "json_object" else grammar_constraint(value, param, field)


def schema_constraint(schema: Any, param: str, field: str) -> Constraint:
    """A JSON Schema, as an object or as text. Raises: ApiError if it is none."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise ApiError(f"{field} is not JSON: {error}", param=param, code="invalid_value") from error
    if not isinstance(schema, dict):
        what = "is required" if schema is None else f"should be an object (got {short(schema)})"
        raise ApiError(f"{field} {what}", hint='send a JSON Schema, as {"type": "object"}', param=param, code="invalid_value")
    return Constraint("json", json.dumps(schema, separators=(",", ":")))


def regex_constraint(source: str | None, param: str, field: str) -> Constraint:
    """A regular expression for the whole reply. Raises: ApiError if there is none."""
    if not source:
        raise ApiError(f"{field} is empty", hint="send a regular expression for the whole reply", param=param)
    return Constraint("regex", source)


def choice_constraint(texts: list[str], param: str, field: str) -> Constraint:
    """One of several texts. Raises: ApiError if there are none, too many, or empty ones."""
    if not texts or not all(texts) or len(texts) > MAX_CHOICES_OF_TEXT:
        hint = f"send 1 to {MAX_CHOICES_OF_TEXT} texts, none of them empty"
        raise ApiError(f"{field} is no list of texts to choose from", hint=hint, param=param, code="invalid_value")
    return Constraint("regex", "|".join(f"(?:{re.escape(text)})" for text in dict.fromkeys(texts)))


def grammar_constraint(source: str, param: str, field: str) -> Constraint:
    """A Lark grammar, or one in GBNF. Raises: ApiError for GBNF that cannot be read."""
    if not source.strip():
        raise ApiError(f"{field} is empty", hint="send a Lark or GBNF grammar for the whole reply", param=param)
    if not _IS_GBNF.search(source):
        return Constraint("lark", source)
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return Constraint("lark", gbnf_to_lark(source))
    except Exception as error:  # whatever the translator raises speaks of the client's text
        raise ApiError(f"{field} is no GBNF grammar: {str(error)[:300]}", param=param, code="invalid_value") from error
