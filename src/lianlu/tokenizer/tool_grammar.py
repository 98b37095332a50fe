r"""A grammar of replies in which tool calls cannot be malformed.

From the tools on offer comes a Lark grammar (as llguidance reads it) of all replies in which whatever `tool_calls.parse` would
read as a call is a call of an offered tool, with arguments that satisfy its JSON Schema. The dialect is the one in which the
chat template shows calls to the model:

    hermes      <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>
    internlm2   <|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 1}}<|action_end|>, and code for a Python tool
    bare        {"name": "add", "parameters": {"a": 1}} as the whole reply (templates that know tools but none of these tags)

Tags are control tokens where the vocabulary has them as such, else text. A reply is text, then calls, then nothing. Text in
which an opening tag stands has to go on as a call, and so has text that begins like a bare call. Arguments have no properties
besides the declared ones, unless the schema says something about others. A schema that llguidance does not support is taken
as far as it is understood, else as that of any object, with a warning.

Limits: text and code cannot spell out opening tags; a reply that is a JSON object cannot contain the quoted name of a tool,
nor `\u`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from lianlu.core import console
from lianlu.core.errors import RequestError
from lianlu.formats.messages import ToolSpec
from lianlu.tokenizer import json_schema
from lianlu.tokenizer.backend import without_surrogates
from lianlu.tokenizer.tool_calls import INTERPRETERS, OPENERS

Tag = Callable[[str], str]
_GAP = r"[ \n\r\t]{0,20}"
_BLANK = r"[\s\x1c-\x1f]*"
_ANY_KEY = "(arguments|parameters)"
_TERMINALS = rf"""ANY: /(.|\n)*/
SPACE: /[ \n\r\t]{{1,20}}/
NAME: /{_GAP}\{{{_GAP}"name"{_GAP}:{_GAP}/
END: /{_GAP}\}}{_GAP}/"""
# choices that leave it to the model what and how often to call
_FREE = ("auto", "required")
# keywords that say themselves which further properties there may be
_OPEN_ENDED = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf"})


@dataclass(frozen=True)
class Dialect:
    """How calls are written: the tags around the JSON (none: the reply is the JSON), and a pattern for the arguments' key."""

    opening: tuple[str, ...]
    closing: str
    key: str


HERMES = Dialect(("<tool_call>",), "</tool_call>", "arguments")
INTERNLM2 = Dialect(("<|action_start|>", "<|plugin|>"), "<|action_end|>", "parameters")
BARE = Dialect((), "", _ANY_KEY)


def dialect_of(template: str) -> Dialect:
    """The dialect in which a chat template (its source) shows calls."""
    if INTERNLM2.opening[0] in template or INTERNLM2.opening[1] in template:
        return INTERNLM2
    return HERMES if HERMES.opening[0] in template else BARE


def tool_grammar(tools: Sequence[ToolSpec], choice: str, parallel: bool, dialect: Dialect, specials: Mapping[str, int]) -> str:
    """The grammar of replies to a conversation with `tools`; see `Tokenizer.tool_constraint`.

    `specials` maps control tokens to ids. Raises: RequestError for a choice that the tools do not allow.
    """
    chosen = _chosen(tools, choice)
    tag = partial(_tag, specials)
    more = "(SPACE? first rest)* SPACE?" if parallel and choice in _FREE else ""
    try:
        rules = [_TERMINALS, *_tools(chosen, dialect)]
    except RecursionError as error:
        raise RequestError("the parameters of the tools are nested too deeply", hint="make them flatter") from error
    if dialect.opening:
        rules += _tagged(dialect, tag, _code_tool(tools) in chosen)
        begin = f"SPACE? first rest {more}"
    else:
        begin = "NAME tool END"
    if choice == "auto":
        rules += [*_text(chosen, dialect, specials), *_bare(chosen)]
        begin = "text | bare" + (f" | begun rest {more}" if dialect.opening else "")
    return without_surrogates("\n".join([f"start: {begin}", *rules]) + "\n")


def _chosen(tools: Sequence[ToolSpec], choice: str) -> list[ToolSpec]:
    """The tools that may be called; of equal names the first."""
    by_name = {tool.name: tool for tool in reversed(tools)}
    if not tools:
        raise RequestError(f"tool_choice is {choice!r}, but there are no tools", hint="offer tools, or choose auto")
    if choice in _FREE:
        return [tool for tool in tools if by_name[tool.name] is tool]
    if choice not in by_name:
        hint = f"it has to be auto, required, none or one of: {', '.join(by_name)}"
        raise RequestError(f"tool_choice names {choice!r}, which is no tool on offer", hint=hint)
    return [by_name[choice]]


def _literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def _any_of(texts: Sequence[str]) -> str:
    return " | ".join(map(_literal, texts))


def _name(tool: ToolSpec) -> str:
    """The quoted name of a tool, as Lark writes it."""
    return _literal(_literal(tool.name))


def _tag(specials: Mapping[str, int], text: str) -> str:
    """A tag as Lark writes it: by its id if it is a control token."""
    return f"<[{specials[text]}]>" if text in specials else _literal(text)


def _tools(tools: Sequence[ToolSpec], dialect: Dialect) -> list[str]:
    """What follows `"name": ` in a call: `tool`, and the arguments of each."""
    key = rf'KEY: /{_GAP},{_GAP}"{dialect.key}"{_GAP}:{_GAP}/'
    rules = [f"tool_{number}: {_name(tool)} KEY args_{number}" for number, tool in enumerate(tools)]
    arguments = [f"args_{number}: %json {_arguments(tool)}" for number, tool in enumerate(tools)]
    return [key, "tool: " + _either("tool", tools), *rules, *arguments]


def _either(rule: str, tools: Sequence[ToolSpec]) -> str:
    return " | ".join(f"{rule}_{number}" for number in range(len(tools)))


def _tagged(dialect: Dialect, tag: Tag, code: bool) -> list[str]:
    """`first`, the first tag of a call, and `rest`, the call after it."""
    first, *others = dialect.opening
    rest = " ".join([*map(tag, others), "NAME tool END", tag(dialect.closing)])
    rules = [f"first: {tag(first)}", f"rest: {rest}" + (" | code_call" if code and dialect is INTERNLM2 else "")]
    if code and dialect is INTERNLM2:
        rules += [
            f"code_call: {tag('<|interpreter|>')} code {tag(dialect.closing)}",
            f'code[lazy]: /\\n?```(python|py)?\\n/ (ANY & ~(ANY ({_any_of(OPENERS)}) ANY)) "```"',
        ]
    return rules


def _text(tools: Sequence[ToolSpec], dialect: Dialect, specials: Mapping[str, int]) -> list[str]:
    """`text` without calls, and `begun`, text up to the first tag of a call."""
    tags = _any_of(OPENERS)
    is_plain = all(tool.name.isprintable() and not set(tool.name) & set('"\\/') for tool in tools)
    spelled = " | ".join([tags, _literal(r"\u"), *map(_name, tools)])
    rules = [
        "text: TEXT" + (" | OBJECT" if is_plain else ""),
        rf"TEXT: /{_BLANK}([^{{\s\x1c-\x1f](.|\n)*)?/ & ~(ANY ({tags}) ANY)",
    ]
    if is_plain:
        rules.append(rf"OBJECT: /{_BLANK}\{{(.|\n)*/ & ~(ANY ({spelled}) ANY)")
    if not dialect.opening:
        return rules
    if dialect.opening[0] in specials:
        return [*rules, "begun: text first"]
    before = "(TEXT | OBJECT)" if is_plain else "TEXT"
    return [*rules, f"begun[lazy]: {before} {_literal(dialect.opening[0])}"]


def _bare(tools: Sequence[ToolSpec]) -> list[str]:
    """`bare`, a reply that is nothing but the JSON of a call; its head wins over text as soon as it is complete."""
    rules = ["bare: " + _either("bare", tools), rf'BARE_KEY: /{_GAP},{_GAP}"{_ANY_KEY}"{_GAP}:{_GAP}/']
    for number, tool in enumerate(tools):
        rules.append(f"bare_{number}: bare_head_{number} BARE_KEY args_{number} END")
        rules.append(rf'bare_head_{number}[lazy]: /{_BLANK}\{{{_GAP}"name"{_GAP}:{_GAP}/ {_name(tool)}')
    return rules


def _code_tool(tools: Sequence[ToolSpec]) -> ToolSpec | None:
    """The tool whose call a block of code is read as, if such a call has the right arguments."""
    by_name = {tool.name: tool for tool in reversed(tools)}
    tool = next((by_name[name] for name in INTERPRETERS if name in by_name), None)
    if tool is None:
        return None
    code = tool.parameters.get("properties", {}).get("code", {})
    is_free = set(code) <= {"type", "description", "title"} and code.get("type") == "string"
    return tool if is_free and set(tool.parameters.get("required", [])) <= {"code"} else None


def _arguments(tool: ToolSpec) -> str:
    """The schema of a tool's arguments as text."""
    schema = {**tool.parameters, "type": "object"}
    if "properties" in schema and not _OPEN_ENDED & schema.keys():
        schema["additionalProperties"] = False
    return _supported(tool.name, json.dumps(schema, ensure_ascii=False))


@lru_cache(maxsize=1024)
def _supported(name: str, text: str) -> str:
    """A schema that llguidance supports: the given one, as much of it as is understood, or any object."""
    schema: dict[str, Any] = json_schema.with_safe_bounds(json.loads(text))
    options: dict[str, Any] = {"whitespace_pattern": json_schema.SPACE}
    strict = {**schema, "x-guidance": options}
    message = json_schema.complaint(strict)
    if not message:
        return json.dumps(strict, ensure_ascii=False)
    loose = {**schema, "x-guidance": {**options, "lenient": True, "coerce_one_of": True}}
    is_understood = not json_schema.complaint(loose)
    how = "what is not supported is ignored" if is_understood else "any object is accepted"
    first = message.splitlines()[0]
    console.warn(f"the parameters of the tool {name!r} cannot all be enforced: {first}{_at(schema, message)}; {how}")
    return json.dumps(loose if is_understood else {"type": "object", "x-guidance": options}, ensure_ascii=False)


def _at(schema: dict[str, Any], message: str) -> str:
    where = json_schema.place(schema, message)
    return f" (at {where})" if where else ""
