"""One Jinja chat template in a sandbox: messages in, text out, with marks at what an assistant generates.

Templates come with models from anywhere, so they run in jinja2's immutable sandbox with what transformers offers them:
`tojson` (no HTML escapes), `raise_exception`, `strftime_now`, loop controls, trimmed blocks, and the tag
`{% generation %}` around the assistant's own text. The marks are characters that occur nowhere in the conversation.

Source of the conventions: the chat templating guide of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lianlu.core.errors import DataError, RequestError

_MARKS = "_generation_marks"


class _Refusal(jinja2.TemplateError):
    """A template called raise_exception: the conversation is not one it can render."""


class _Generation(jinja2.ext.Extension):
    """The tag pair `generation`, `endgeneration`: puts the marks of this rendering around its body."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Read the body up to the end tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    @jinja2.pass_context
    def _mark(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
        begin, end = context.get(_MARKS) or ("", "")
        return f"{begin}{caller()}{end}"


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> str:
    raise _Refusal(str(message))


class ChatTemplate:
    """A compiled template. `knows_tools`: it looks at `tools`. `marks_generation`: it says what an assistant generates."""

    def __init__(self, source: str, name: str) -> None:
        """Compile `source`; `name` says in errors where it came from. Raises: DataError for a syntax error."""
        self.name = name
        self.source = source
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            place = f", line {line}" if line else ""
            raise DataError(
                f"the chat template of {name} is not valid{place}: {error}", hint="mend or replace the template"
            ) from error
        self.knows_tools = "tools" in jinja2.meta.find_undeclared_variables(tree)
        self.marks_generation = any(
            isinstance(block.call.node, jinja2.nodes.ExtensionAttribute) for block in tree.find_all(jinja2.nodes.CallBlock)
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        reply: bool,
        variables: Mapping[str, Any],
        marks: tuple[str, str] = ("", ""),
    ) -> str:
        """The text of a conversation; `variables` are further names it may use, `marks` are put around what is generated.

        Raises: RequestError when the template refuses the conversation, DataError when it fails.
        """
        values = {
            **variables,
            "messages": list(messages),
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": reply,
            _MARKS: marks,
        }
        try:
            return self._template.render(values)
        except _Refusal as error:
            raise RequestError(
                f"the chat template of {self.name} refuses this conversation: {error}",
                hint="change the order or the roles of the messages",
            ) from error
        except Exception as error:  # a template is a program: any error may come out of it
            raise DataError(
                f"the chat template of {self.name} fails on this conversation: {type(error).__name__}: {error}",
                hint="the template may not know these roles or tools; try fewer features, or replace the template",
            ) from error
