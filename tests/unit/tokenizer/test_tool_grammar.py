"""Whatever a model says under the grammar of its tools, what is read as a call is a right call; and it may still just talk."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Constraint
from lianlu.core.errors import RequestError
from lianlu.engine.grammar import Grammars
from lianlu.formats.messages import Message, ToolCall, ToolSpec
from lianlu.tokenizer import tool_grammar
from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.tokenizer import Tokenizer

NUMBER, TEXT = {"type": "integer"}, {"type": "string"}
TOOLS = [
    ToolSpec(name="add", parameters={"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a"]}),
    ToolSpec(
        name="look_up",
        parameters={
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 9}, "in": {"enum": ["de", "en"]}},
            "required": ["word", "in"],
        },
    ),
    ToolSpec(name="python", parameters={"type": "object", "properties": {"code": TEXT}, "required": ["code"]}),
    ToolSpec(name="now"),
]
RIGHT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "add": lambda given: {"a"} <= set(given) <= {"a", "b"} and all(type(value) is int for value in given.values()),
    "look_up": lambda given: set(given) == {"word", "in"} and len(given["word"]) <= 9 and given["in"] in ("de", "en"),
    "python": lambda given: set(given) == {"code"} and isinstance(given["code"], str),
    "now": lambda given: given == {},
}
SNIPPETS = [
    "<tool_call>",
    '<tool_call>\n{"name": "add", "arguments": {"a": 12}}\n</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": "x"}}</tool_call>',
    "</tool_call>",
    "<|action_start|>",
    "<|action_start|><|plugin|>",
    '<|action_start|><|plugin|>\n{"name": "now", "parameters": {}}<|action_end|>',
    "<|action_start|><|interpreter|>```python\nprint(1)\n```<|action_end|>",
    "```",
    "<|action_end|>",
    "{",
    '{"name": "',
    '{"name": "add", "arguments": {"a": 12}}',
    '  {\n"name":"look_up", "parameters": {"word": "',
    '{"function": {"name": "add", "arguments": {"a": "x"}}}',
    '{"arguments": {}, "name": "add"}',
    '{"name": "\\u0061dd", "arguments": {}}',
    '\x1c{"name": "add", "arguments": {}}',
    '{"x": [1, 2]}',
    "add",
    '"',
    "}",
    "Hello. ",
    "12",
    "\n",
]


@pytest.fixture(scope="module", params=["hermes text", "hermes tokens", "internlm2 tokens", "internlm2 text", "bare"])
def speaker(request: pytest.FixtureRequest, internlm2_tokenizer: Tokenizer, tokenizer: Tokenizer) -> Tokenizer:
    """A vocabulary with a template: dialects, with their tags as control tokens and without."""
    if request.param == "internlm2 tokens":
        return internlm2_tokenizer
    if request.param == "hermes tokens":
        return tokenizer
    tag = {"hermes text": "<tool_call>", "internlm2 text": "<|action_start|><|plugin|>", "bare": ""}[request.param]
    backend = {"hermes text": internlm2_tokenizer, "internlm2 text": tokenizer, "bare": tokenizer}[request.param].backend
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}" + tag
    return Tokenizer(Loaded(request.param, backend, {"eos_token": "</s>"}, {"default": template}))


@pytest.fixture(scope="module")
def grammars(speaker: Tokenizer) -> Grammars:
    return Grammars(speaker, speaker.vocab_size, speaker.eos_ids)


def babble(speaker: Tokenizer, grammars: Grammars, source: str, seed: int, longest: int = 150) -> tuple[list[int], bool]:
    """Ids of a reply of random tokens and tempting pieces, and whether it came to its end."""
    course, rng, ids = grammars.start(Constraint("lark", source)), random.Random(seed), []
    while not course.finished and len(ids) < longest:
        allowed = [int(index) for index in (~course.refused()).nonzero()[0]]
        ends = [token for token in speaker.eos_ids if token in allowed]
        piece = speaker.encode(rng.choice(SNIPPETS), specials=True) if rng.random() < 0.6 else []
        if ends and rng.random() < 0.15:
            course.accept(ends[0])
        for token in piece or [rng.choice(allowed)]:
            if course.finished or course.refused()[token] or token in speaker.eos_ids:
                break
            ids.append(token)
            course.accept(token)
    return ids, course.finished


def calls(speaker: Tokenizer, ids: Sequence[int], tools: Sequence[ToolSpec] = TOOLS) -> list[ToolCall]:
    return speaker.parse(speaker.decode(ids), tools).tool_calls


def are_right(found: Sequence[ToolCall]) -> bool:
    return all(call.name in RIGHT and RIGHT[call.name](call.arguments) for call in found)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["auto", "auto", "required", "look_up", "python"]), st.booleans())
def test_what_is_read_as_a_call_is_right(speaker: Tokenizer, grammars: Grammars, seed: int, choice: str, parallel: bool) -> None:
    """At every place where a reply may be cut, too."""
    source = speaker.tool_constraint(TOOLS, choice, parallel)
    assert source is not None
    ids, is_whole = babble(speaker, grammars, source, seed)
    for cut in range(len(ids) + 1):
        assert are_right(calls(speaker, ids[:cut])), speaker.decode(ids[:cut])
    found = calls(speaker, ids)
    if not parallel or choice not in ("auto", "required"):
        assert len(found) <= 1
    if is_whole and choice != "auto":
        assert found
    if choice not in ("auto", "required"):
        assert {call.name for call in found} <= {choice}


def test_calls_do_happen_and_so_does_talk(speaker: Tokenizer, grammars: Grammars) -> None:
    source = speaker.tool_constraint(TOOLS)
    assert source is not None
    counts = [len(calls(speaker, babble(speaker, grammars, source, seed)[0])) for seed in range(60)]
    assert 0 in counts
    assert any(counts)


def accepts(speaker: Tokenizer, grammars: Grammars, source: str | None, reply: str | Sequence[int]) -> bool:
    """Whether a text, or ids without the end token, are a whole reply."""
    assert source is not None
    course = grammars.start(Constraint("lark", source))
    ids = speaker.encode(reply, specials=True) if isinstance(reply, str) else reply
    if course.num_valid(ids) < len(ids):
        return False
    for token in ids:
        course.accept(token)
    return course.finished or not course.refused()[list(speaker.eos_ids)].all()


@pytest.mark.parametrize(
    "text", ["", " \n", "Hello!", "a < b, <tool_cal", '{"x": [1, "two"]}', "```python\nx\n```", "\u4f60\u597d {1}"]
)
def test_plain_text_is_free(speaker: Tokenizer, grammars: Grammars, text: str) -> None:
    assert accepts(speaker, grammars, speaker.tool_constraint(TOOLS), text)
    assert not accepts(speaker, grammars, speaker.tool_constraint(TOOLS, "required"), text)


def test_calls_as_the_template_renders_them_are_allowed(internlm2_tokenizer: Tokenizer, tokenizer: Tokenizer) -> None:
    """What a conversation trains a model to say is what the grammar lets it say."""
    asked = Message(role="user", content="?")
    two = [ToolCall(name="add", arguments={"a": 1, "b": -2}), ToolCall(name="look_up", arguments={"word": "ja", "in": "de"})]
    for speaker in (internlm2_tokenizer, tokenizer):
        own = Grammars(speaker, speaker.vocab_size, speaker.eos_ids)
        for content, made in (("", two[:1]), ("Let me see.", two[:1]), ("", two), ("Well:", two)):
            whole = speaker.render([asked, Message(role="assistant", content=content, tool_calls=made)], TOOLS)
            ids = [token for token, is_said in zip(whole.ids, whole.mask, strict=True) if is_said]
            assert ids.pop() in speaker.eos_ids
            for choice, parallel, fits in (
                ("auto", True, True),
                ("auto", False, len(made) == 1),
                ("required", True, not content),
                ("add", True, not content and len(made) == 1),
                ("now", True, False),
            ):
                source = speaker.tool_constraint(TOOLS, choice, parallel)
                assert accepts(speaker, own, source, ids) == fits, (content, choice, speaker.decode(ids))


def test_arguments_are_closed_unless_the_schema_opens_them() -> None:
    def schema(**parameters: Any) -> dict[str, Any]:
        grammar = tool_grammar.tool_grammar([ToolSpec(name="f", parameters=parameters)], "f", False, tool_grammar.BARE, {})
        return json.loads(grammar.split("args_0: %json ")[1].splitlines()[0])

    assert schema(properties={"a": NUMBER})["additionalProperties"] is False
    assert schema(properties={"a": NUMBER}, additionalProperties=True)["additionalProperties"] is True
    assert "additionalProperties" not in schema(type="object")
    assert schema(type="object")["type"] == schema()["type"] == "object"


def test_a_schema_that_is_not_supported_is_loosened_with_one_warning(
    internlm2_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    properties = {"a": {"type": "array", "uniqueItems": True, "items": NUMBER}}
    tools = [
        ToolSpec(name="unique", parameters={"type": "object", "properties": properties}),
        ToolSpec(name="broken", parameters={"$ref": "#/nowhere"}),
        ToolSpec(name="endless", parameters={"type": "object", "properties": {"a": {"multipleOf": 1e9}}}),
    ]
    source = internlm2_tokenizer.tool_constraint(tools)
    assert internlm2_tokenizer.tool_constraint(tools) == source
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("'unique'") == told.count("'broken'") == told.count("'endless'") == 1
    assert "uniqueItems" in told
    grammars = Grammars(internlm2_tokenizer, internlm2_tokenizer.vocab_size, internlm2_tokenizer.eos_ids)

    def call(name: str, given: str) -> bool:
        text = f'<|action_start|><|plugin|>{{"name": "{name}", "parameters": {given}}}<|action_end|>'
        return accepts(internlm2_tokenizer, grammars, source, text)

    assert call("unique", '{"a": [1, 1]}')
    assert not call("unique", '{"a": ["x"]}')
    assert call("broken", '{"anything": [{}]}')
    assert not call("broken", "[]")


def test_code_goes_to_the_python_tool_only_where_it_takes_nothing_else(internlm2_tokenizer: Tokenizer) -> None:
    speaker = internlm2_tokenizer
    grammars = Grammars(speaker, speaker.vocab_size, speaker.eos_ids)
    text = "<|action_start|><|interpreter|>```python\nprint(1)\n```<|action_end|>"
    more = {"type": "object", "properties": {"code": TEXT, "n": NUMBER}, "required": ["code", "n"]}
    assert accepts(speaker, grammars, speaker.tool_constraint(TOOLS), text)
    assert accepts(speaker, grammars, speaker.tool_constraint(TOOLS, "python"), text)
    assert not accepts(speaker, grammars, speaker.tool_constraint(TOOLS, "add"), text)
    assert not accepts(speaker, grammars, speaker.tool_constraint(TOOLS[:2]), text)
    assert not accepts(speaker, grammars, speaker.tool_constraint([ToolSpec(name="python", parameters=more)]), text)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a/b", "\u67e5\u8be2", "a\nb", "x" * 300, "<tool_call>", "%json {"])
def test_any_name_of_a_tool_can_be_called(speaker: Tokenizer, grammars: Grammars, name: str) -> None:
    odd = [ToolSpec(name=name)]
    source = speaker.tool_constraint(odd, name, parallel=False)
    assert source is not None
    ids, is_whole = babble(speaker, grammars, source, 3, longest=800)
    assert is_whole
    (call,) = calls(speaker, ids, odd)
    assert call.arguments == {}
    assert call.name == name
    for seed in range(5):
        free, _ = babble(speaker, grammars, speaker.tool_constraint(odd) or "", seed)
        assert all(call.arguments == {} for call in calls(speaker, free, odd))


def test_choices(tokenizer: Tokenizer) -> None:
    assert tokenizer.tool_constraint(TOOLS, "none") is None
    assert tokenizer.tool_constraint([], "none") is None
    assert tokenizer.tool_constraint([]) is None
    for tools, choice in (([], "required"), ([], "add"), (TOOLS, "sub")):
        with pytest.raises(RequestError, match="tool_choice"):
            tokenizer.tool_constraint(tools, choice)


def test_parameters_nested_too_deeply_are_a_request_error(tokenizer: Tokenizer) -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(RequestError, match="deeply"):
        tokenizer.tool_constraint([ToolSpec(name="f", parameters=deep)])


def test_a_tokenizer_without_a_way_to_show_tools_cannot_offer_them(byte_level_without_chat: Tokenizer) -> None:
    with pytest.raises(RequestError, match="chat template"):
        byte_level_without_chat.tool_constraint(TOOLS)
