"""A tool: a Python function that a model may call, with a JSON Schema made from its type hints and docstring.

    @tool
    def weather(city: str, days: int = 1) -> str:
        \"\"\"Forecast the weather.

        Args:
            city: Where, in English.
        \"\"\"

`agent.loop` offers `weather.spec` to the model and answers its calls with `weather.answer`. What a model gets wrong (names,
types, values) and what the function raises comes back to it as text; arguments that can be read as the right type are
taken. Limits: functions with named parameters, not async; a docstring in Google's style.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

from lianlu.agent.docstring import split_docstring
from lianlu.core.errors import ConfigError, MissingExtraError
from lianlu.formats.messages import Message, ToolCall, ToolSpec

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class ToolError(Exception):
    """Raised by a tool's function: the text goes to the model as it is."""


@dataclass(frozen=True)
class Tool:
    """A function with what a model has to know about it. Calling the tool calls the function."""

    spec: ToolSpec
    function: Callable[..., Any]
    arguments: type[BaseModel]

    @property
    def name(self) -> str:
        return self.spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the function wants them. Raises: ToolError that says what is wrong with each."""
        try:
            model = self.arguments.model_validate(arguments)
        except ValidationError as error:
            try:
                model = self.arguments.model_validate(_unquoted(arguments, error))
            except ValidationError:
                raise ToolError("\n".join(self._explain(detail) for detail in error.errors(include_url=False))) from error
        fields = type(model).model_fields
        return {str(fields[key].alias): getattr(model, key) for key in fields if key in model.model_fields_set}

    def answer(self, call: ToolCall) -> Message:
        """Run the call and answer it; what goes wrong is the answer's text, after "Error: ".

        Raises: MissingExtraError where something has to be installed, which no model can do.
        """
        try:
            content = to_text(self.function(**self.validate(call.arguments)))
        except MissingExtraError:
            raise
        except ToolError as error:
            content = f"Error: {error}"
        # A tool is foreign code: whatever it raises is for the model to read, and the run goes on.
        except (Exception, SystemExit) as error:
            content = f"Error: {type(error).__name__}: {error}"
        # Half a surrogate pair would be refused by everything that writes UTF-8 later.
        content = content.encode("utf-8", errors="replace").decode("utf-8")
        return Message(role="tool", content=content, tool_call_id=call.id, name=call.name)

    def _explain(self, detail: Any) -> str:
        path = [str(part) for part in detail["loc"]]
        name = ".".join(path)
        if detail["type"] == "missing":
            return f"argument {name} is missing"
        if detail["type"] == "extra_forbidden" and len(path) == 1:
            known = list(self.spec.parameters["properties"])
            near = difflib.get_close_matches(name, known, n=1)
            takes = f"did you mean {near[0]}?" if near else f"{self.name} takes {', '.join(known) or 'no arguments'}"
            return f"there is no argument {name}; {takes}"
        message = detail["msg"]
        return f"argument {name}: {message[0].lower()}{message[1:]} (got {_short(detail['input'])})"


@overload
def tool(function: Callable[..., Any]) -> Tool: ...
@overload
def tool(*, name: str = "", description: str = "") -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None, *, name: str = "", description: str = ""
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function: `@tool` or `@tool(name=..., description=...)`.

    Raises: ConfigError for a function without type hints or description, or with parameters that have no name.
    """
    if function is None:
        return lambda decorated: _make(decorated, name, description)
    return _make(function, name, description)


def to_text(value: Any) -> str:
    """What a tool returned, as a model reads it: text as it is, the rest as JSON (or as Python prints it)."""
    if isinstance(value, str):
        return value
    if value is None:
        return "(no result)"
    return pydantic_core.to_json(value, fallback=repr, inf_nan_mode="constants", bytes_mode="base64").decode()


def _make(function: Callable[..., Any], name: str, description: str) -> Tool:
    name = name or function.__name__
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a tool", hint="give one of letters, digits, _ and -: @tool(name=...)")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"the tool {name} is async", hint="write it as an ordinary function; calls run in threads")
    text, argument_texts = split_docstring(function.__doc__ or "")
    if not (description or text):
        raise ConfigError(f"the tool {name} has no description", hint="give the function a docstring: the model reads it")
    fields = _fields(function, name, argument_texts)
    config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, arbitrary_types_allowed=False, protected_namespaces=())
    try:
        model = create_model(name, __config__=config, **fields)
        schema = model.model_json_schema()
    except (PydanticUserError, pydantic_core.SchemaError, NameError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"the tool {name} has a type that JSON cannot carry: {first}", hint="use plain types") from error
    return Tool(ToolSpec(name=name, description=description or text, parameters=_plain(schema)), function, model)


def _fields(function: Callable[..., Any], name: str, texts: dict[str, str]) -> dict[str, Any]:
    """Parameters as pydantic fields."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"the tool {name} has a type hint that is not known: {error}", hint="define the type at module level"
        ) from error
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"the tool {name} takes *{parameter.name}", hint="models give arguments by name: name them all")
        if parameter.name not in hints:
            raise ConfigError(f"the parameter {parameter.name} of the tool {name} has no type hint", hint="add one")
        default = ... if parameter.default is parameter.empty else parameter.default
        # The field has a name of its own, since pydantic keeps some (copy, json, model_config) for itself.
        known: dict[str, Any] = {"description": texts[parameter.name]} if parameter.name in texts else {}
        field = Field(default, alias=parameter.name, **known)
        fields[f"argument_{number}"] = (hints[parameter.name], field)
    return fields


def _plain(schema: Any) -> Any:
    """The schema without pydantic's titles, which only cost tokens."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # Below `properties` a key is a name, not a keyword; a parameter may be called title.
    return {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in schema.items()
        if key != "title"
    }


def _unquoted(arguments: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """Arguments that are wrong and are text, read as JSON: models often quote a list or an object."""
    wrong = {detail["loc"][0] for detail in error.errors(include_url=False) if detail["loc"]}
    result = dict(arguments)
    for name in wrong & {key for key, value in arguments.items() if isinstance(value, str)}:
        try:
            result[str(name)] = json.loads(arguments[str(name)])
        except ValueError:
            continue
    return result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
