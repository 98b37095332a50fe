"""What each rule for code sees: generated, vendored, minified, encoded files, HTML, notebooks, comments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.code.markup import visible_text
from lianlu.data.code.notebook import to_markdown
from lianlu.data.code.rules import signals
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Thresholds, broken, shipped

LIMITS = Thresholds(shipped())
CODE = "\n".join(f"def function_{n}(value):\n    return value + {n}\n" for n in range(10))
HTML = "<html><head><title>t</title></head>\n<body>\n" + "<p>A line of text that a reader sees.</p>\n" * 12 + "</body></html>"


def rule_of(text: str, lang: str, path: str = "", licence: str = "") -> str | None:
    limits = LIMITS.of("code", "code", "", lang)
    verdict = broken("code", limits, signals(TextView(text), limits, lang, path, licence))
    return verdict.rule.split(".")[1] if verdict else None


@pytest.mark.parametrize(
    ("text", "lang", "path", "rule"),
    [
        (CODE, "python", "src/app/core.py", None),
        (CODE, "python", "src/app/core_pb2.py", "max_generated_names"),
        (CODE, "javascript", "static/app.min.js", "max_generated_names"),
        (CODE, "python", "app/_vendor/core.py", "max_vendored_folders"),
        (CODE, "javascript", "node_modules/x/index.js", "max_vendored_folders"),
        (CODE, "go", "vendor.go", None),
        (CODE, "javascript", "web/dist/index.js", "max_vendored_folders"),
        ("function a(b){return b}\n" * 12, "javascript", "", None),
        (
            "var total=function(first,second){return(first+second)};total(a,b)\n" * 12,
            "javascript",
            "",
            "min_space_chars",
        ),
        (CODE + "\nDATA = '" + "QUJDREVG" * 100 + "'\n", "python", "", "max_encoded_chars"),
        (CODE + "\n" + "".join(f"x{n} = '{'deadbeef' * 9}'\n" for n in range(20)), "python", "", "max_encoded_chars"),
        (CODE * 20 + '\nDATA = """\n' + ("QUJDREVG" * 9 + "\n") * 15 + '"""\n', "python", "", "max_encoded_run"),
        ("# a note that says what is meant\n" * 30 + "x = 1\n", "python", "", "max_comment_share"),
        ('"""A docstring of one module."""\n' * 30 + "x = 1\n", "python", "", "max_comment_share"),
        ("x=(a+b)*c-d/e;y[i]={k:v};\n" * 12, "c", "", "min_chars_per_token"),
        (HTML, "html", "", None),
        ("<div class='row big'>\n" * 80 + HTML[:400], "html", "", "min_visible_share"),
        ("<p>few words</p>\n" * 2 + "<br>\n" * 10, "html", "", "min_visible_chars"),
        ('<?xml version="1.0"?>\n' + CODE, "xslt", "", None),
    ],
)
def test_rules(text: str, lang: str, path: str, rule: str | None) -> None:
    assert rule_of(text, lang, path) == rule


@pytest.mark.parametrize(
    ("licence", "rule"),
    [
        ("", None),
        ("MIT", None),
        ("MIT OR GPL-3.0", None),
        ("MPL-2.0", "max_licence_terms"),
        ("MIT AND GPL-3.0-or-later", "max_licence_terms"),
        ("NOASSERTION", "max_licence_terms"),
    ],
)
def test_what_a_licence_asks_for(licence: str, rule: str | None) -> None:
    assert rule_of(CODE, "python", licence=licence) == rule


def notebook(outputs: list[Any]) -> str:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": "print('```')\n", "outputs": outputs},
        {"cell_type": "code", "source": []},
    ]
    return json.dumps({"cells": cells, "metadata": {"kernelspec": {"language": "julia"}}}, indent=1)


def test_notebooks() -> None:
    assert to_markdown(notebook([])) == "# Title\nwords\n\n```julia\nprint('```')\n```\n"
    printed = {"output_type": "stream", "text": ["a line of output\n"] * 100}
    assert to_markdown(notebook([printed])) == to_markdown(notebook([]))
    old = json.dumps({"worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1"}]}]})
    assert to_markdown(old) == "```python\nx = 1\n```\n"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"cells": 3}', '{"cells": [3, {"source": 4}], "metadata": 1}'])
def test_what_is_no_notebook_has_no_markdown(text: str) -> None:
    assert not (to_markdown(text) or "").strip()


def test_visible_text() -> None:
    page = "<!doctype html><head><title>no</title></head><style>p {}</style><p>a &lt; b</p><!-- c --><script>d()</script> e<br>f"
    assert visible_text(page) == "a < b e f"
    assert visible_text("before <script> never closed") == "before"
    assert visible_text("<script>" * 20_000) == visible_text("<!--" * 20_000) == ""


@given(st.text(max_size=200), st.sampled_from(["python", "html", "jupyter", "json", "rust", "", "cobol"]), st.text(max_size=20))
def test_any_text_has_signals_in_range(text: str, lang: str, path: str) -> None:
    found = dict(signals(TextView(text), LIMITS.of("code", "code", "", lang), lang, path))
    for key, value in found.items():
        assert 0 <= value <= (1 if key.endswith("_share") else 200), key
    rule_of(text, lang, path)
