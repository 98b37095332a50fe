"""What a caller may wish for a reply, as keywords: checked, and turned into `Sampling`.

Used by `llm.LLM` (`llm.chat(messages, temperature=0.7, stop="\n")`) and by the terminal's `/set temperature=0.7`, so that a
wish has one name everywhere. Ranges are checked by the engine; here are names, types, and the one constraint on the text.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from lianlu.client.base import Constraint, Sampling
from lianlu.core.errors import RequestError

ANY_OBJECT = '{"type":"object"}'
VALUES = ("default", "examples", "const", "enum")
CONSTRAINTS = ("json_schema", "regex", "grammar", "response_format")


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
class Options(TypedDict, total=False):
    """Keywords of `LLM.chat`, `generate` and `stream`; what is left out is as in `client.base.Sampling`.

    One of `json_schema` (a JSON Schema as dict or text, or a pydantic model), `regex`, `grammar` (Lark, as llguidance reads
    it) and `response_format` (as in the OpenAI API) makes every reply match. `adapter` names a loaded adapter, `session` a
    conversation whose keys and values are kept on disk, `deadline_s` is how long the first token may take. `tool_choice`
    (chats only) is "auto", "required", "none", or the name of the tool to call.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop: str | list[str] | tuple[str, ...]
    logprobs: int | None
    json_schema: Any
    regex: str | None
    grammar: str | None
    response_format: Mapping[str, Any] | None
    adapter: str
    session: str
    ignore_eos: bool
    deadline_s: float | None
    tool_choice: str


OF_REQUEST = ("adapter", "session", "ignore_eos", "deadline_s")
NAMES = tuple(Options.__annotations__)
_checker = TypeAdapter(Options)


def checked_options(given: Mapping[str, Any]) -> Options:
    """The options, numbers as numbers. Raises: RequestError for an unknown name or a value of another type."""
    for name in given:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
            raise RequestError(f"there is no option {name}", hint=hint)
    try:
        return _checker.validate_python(dict(given))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        what = detail["msg"][0].lower() + detail["msg"][1:]
        raise RequestError(f"{detail['loc'][0]} is {detail['input']!r}", hint=what) from error


def request_fields(options: Options) -> dict[str, Any]:
    """The options that are no matter of sampling: fields of `engine.sequence.Request`."""
    return {name: options[name] for name in OF_REQUEST if name in options}  # type: ignore[literal-required]


def sampling_of(options: Options) -> Sampling:
    """How tokens are chosen. Raises: RequestError for a constraint that is none, or more than one."""
    stop, bias = options.get("stop", ()), options.get("logit_bias", {})
    elsewhere = (*CONSTRAINTS, *OF_REQUEST, "tool_choice", "stop", "logit_bias")
    fields = {key: value for key, value in options.items() if key not in elsewhere}
    return Sampling(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logit_bias=tuple(bias.items()),
        constraint=constraint_of(options),
        **fields,  # type: ignore[arg-type]
    )


def constraint_of(options: Options) -> Constraint | None:
    """What the reply has to look like, None: nothing in particular. Raises: RequestError."""
    named = [name for name in CONSTRAINTS if options.get(name) is not None]
    if len(named) > 1:
        raise RequestError(f"{named[0]} and {named[1]} cannot both be met", hint="give one of them")
    if not named:
        return None
    value = options[named[0]]  # type: ignore[literal-required]
    if named[0] == "json_schema":
        return Constraint("json", schema_text(value))
    if named[0] == "response_format":
        return _of_format(value)
    return Constraint("regex" if named[0] == "regex" else "lark", value)


def schema_text(schema: Any) -> str:
    """A JSON Schema as text, from a dict, a text or a pydantic model. Raises: RequestError for anything else."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        schema = _closed(schema.model_json_schema())
    if isinstance(schema, str):
        return schema
    if not isinstance(schema, Mapping | bool):
        hint = "give a dict, the text of a schema, or a pydantic model"
        raise RequestError(f"{schema!r} is no JSON Schema", hint=hint)
    try:
        return json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"the JSON Schema is no JSON: {error}", hint="use only what JSON has") from error


def _closed(schema: Any) -> Any:
    """The schema of a pydantic model without fields that the model does not have, as it would drop them."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: value if key in VALUES else _closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **inner} if inner.get("type") == "object" and "properties" in inner else inner


def _of_format(wanted: Mapping[str, Any]) -> Constraint | None:
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json", ANY_OBJECT)
    inner = wanted.get("json_schema")
    if kind == "json_schema" and isinstance(inner, Mapping) and "schema" in inner:
        return Constraint("json", schema_text(inner["schema"]))
    hint = 'write {"type": "json_schema", "json_schema": {"schema": {...}}}, or type "json_object" or "text"'
    raise RequestError(f"response_format {wanted!r} is not known", hint=hint)
