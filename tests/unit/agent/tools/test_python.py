from __future__ import annotations

import pytest

from lianlu.agent.tools.python import cut, describe, python_tool
from lianlu.formats.messages import ToolCall
from lianlu.sandbox.run import Limits, Result, check

LIMITS = Limits(wall_s=2)
needs_sandbox = pytest.mark.skipif(check() is not None, reason=f"needs a sandbox: {check()}")


def test_what_the_model_is_shown() -> None:
    spec = python_tool().spec
    assert (spec.name, spec.description) == ("python", "Run Python code and return what it prints.")
    assert spec.parameters["properties"] == {"code": {"type": "string", "description": "The code to run."}}


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print(6 * 7)", "42"),
        ("x = 6\nx * 7", "42"),
        ("'a'", "'a'"),
        ("None", "(nothing was printed)"),
        ("x = 1", "(nothing was printed)"),
        ("exit(3)", "(nothing was printed; exit code 3)"),
        ("print('a')\nprint('b')", "a\nb"),
    ],
)
def test_results(code: str, text: str) -> None:
    message = python_tool().answer(ToolCall(id="1", name="python", arguments={"code": code}))
    assert message.content == text


@needs_sandbox
def test_the_traceback_is_that_of_the_code() -> None:
    text = python_tool().answer(ToolCall(name="python", arguments={"code": "print(1)\n1 / 0"})).content
    assert text.startswith('1\nTraceback (most recent call last):\n  File "<code>", line 2, in <module>\n    1 / 0')
    assert text.endswith("ZeroDivisionError: division by zero")


@needs_sandbox
def test_a_run_without_end_is_told() -> None:
    tool = python_tool(Limits(wall_s=0.3))
    text = tool.answer(ToolCall(name="python", arguments={"code": "print('on', flush=True)\nwhile True: pass"})).content
    assert text == "on\n(stopped: it ran longer than 0.3 s)"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result("", "", -9, "time"), "(stopped: it ran longer than 2 s)"),
        (Result("a\n", "b\n", -9, "memory"), "a\nb\n(stopped: it used more than 512 MiB of memory)"),
        (Result("", "", -11), "(it was killed by signal 11)"),
        (Result("a\n", "", 0), "a"),
    ],
)
def test_endings(result: Result, text: str) -> None:
    assert describe(result, LIMITS) == text


def test_long_texts_keep_both_ends() -> None:
    text = cut("a" * 100 + "z" * 100, 20)
    assert text == "a" * 10 + "\n... (180 characters left out) ...\n" + "z" * 10
    assert cut("short", 5) == "short"
