"""Jinja templates in the sandbox."""

from __future__ import annotations

import pytest

from lianlu.core.errors import DataError, RequestError
from lianlu.tokenizer.template import ChatTemplate

HELLO = [{"role": "user", "content": "hello"}]


def render(source: str, **variables) -> str:
    return ChatTemplate(source, "m").render(HELLO, (), False, variables)


def test_blocks_are_trimmed_and_json_is_not_escaped() -> None:
    assert render("{% if true %}\n  {{ {'a': '<é>'} | tojson }}\n{% endif %}\n") == '  {"a": "<é>"}\n'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"


def test_loop_controls_and_variables() -> None:
    assert (
        render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}{{ bos_token }}", bos_token="<s>")
        == "1<s>"
    )


def test_what_an_assistant_generates_is_marked() -> None:
    template = ChatTemplate("a{% generation %}{{ messages[0].content }}{% endgeneration %}b", "m")
    assert template.marks_generation
    assert template.render(HELLO, (), False, {}) == "ahellob"
    assert template.render(HELLO, (), False, {}, ("[", "]")) == "a[hello]b"
    assert not ChatTemplate("{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}", "m").marks_generation


def test_whether_a_template_knows_tools() -> None:
    assert ChatTemplate("{% if tools %}x{% endif %}", "m").knows_tools
    assert not ChatTemplate("{% set tools = 1 %}{{ tools }}", "m").knows_tools


def test_a_refusal_is_the_fault_of_the_conversation() -> None:
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.status == 400


@pytest.mark.parametrize("source", ["{% for %}", "{{ 'x }}", "{% unknown %}", "{% if x %}"])
def test_a_syntax_error_is_named(source: str) -> None:
    with pytest.raises(DataError, match=r"chat template of folder/x is not valid, line 1"):
        ChatTemplate(source, "folder/x")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content.strip() }}",
        "{{ 1 / 0 }}",
        "{{ 'x'.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{% for x in range(10**9) %}{% endfor %}",
        "{% include 'x' %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_errors_and_attacks_are_errors(source: str) -> None:
    with pytest.raises(DataError, match="fails on this conversation"):
        render(source)
