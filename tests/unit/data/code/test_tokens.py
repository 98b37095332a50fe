"""Tokens for comparing code: blind to layout, not to what the code does."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.code.lexer import CODE, pieces
from lianlu.data.code.tokens import shingle_tokens

PYTHON = '''def area(width, height=1):
    """The area of
    a box."""
    # width times
    # height, as always
    if width < 0:
        raise ValueError("negative width")
    return width * height
'''
JAVA = """class Box {
    /** The area
     *  of a box. */
    static int area(int width, int height) { // as always
        return width * height + "a b".length();
    }
}
"""


def test_indentation_line_breaks_and_the_space_of_comments_do_not_matter() -> None:
    wide = PYTHON.replace("    ", "\t\t").replace("(width, height=1)", "(\n  width,\n  height = 1\n)")
    wide = wide.replace("# width times\n\t\t# height, as always", "#width\n\t\t\t#   times height,\n# as always").replace(
        '"neg', "'neg"
    )
    wide = (
        wide.replace('width"', "width'").replace("width * height", "width \\\n   *height").replace("area of\n\t\ta", "area of a")
    )
    assert shingle_tokens(wide, "python") == shingle_tokens(PYTHON, "python")
    ast.parse(wide)
    flat = JAVA.replace("\n     *  of", " of").replace("// as always\n", "//as   always\n").replace("        return", "return")
    assert shingle_tokens(flat, "java") == shingle_tokens(JAVA, "java")


@pytest.mark.parametrize(
    ("a", "b"), [("a - b", "a + b"), ("f(x)", "f[x]"), ("Foo", "foo"), ("f(a, b)", "f(b, a)"), ("x = 1", "x = 2")]
)
def test_what_the_code_does_matters(a: str, b: str) -> None:
    assert shingle_tokens(a, "python") != shingle_tokens(b, "python")


def test_tokens_are_names_with_the_operators_behind_them() -> None:
    assert shingle_tokens("return f( x ) + 'some text'  # a note", "python") == [
        "return",
        "f(",
        "x)+",
        "some",
        "text",
        "a",
        "note",
    ]
    assert shingle_tokens("// 中文 ok\n&&x", "c") == ["中", "文", "ok", "&&", "x"]
    assert shingle_tokens(" \n\t", "python") == []


LEXEMES = ["alpha", "b2", "12", "(", ")", "{", "}", "+", "->", ";", '"some text"', "/* a note */", "==", ",", "名"]
SPACES = [" ", "\n", "\t", "  \n    ", "\r\n", " \\\n"]


@given(st.lists(st.sampled_from(LEXEMES), max_size=30), st.randoms(use_true_random=False))
def test_any_space_between_the_same_lexemes_gives_the_same_tokens(lexemes: list[str], rng: random.Random) -> None:
    def laid_out() -> str:
        return "".join(lexeme + rng.choice(SPACES) for lexeme in lexemes)

    assert shingle_tokens(laid_out(), "c") == shingle_tokens(laid_out(), "c")


@pytest.mark.parametrize("module", [random, re, ast])
def test_real_code_indented_anew_has_jaccard_one(module: object) -> None:
    text = Path(str(getattr(module, "__file__", ""))).read_text("utf-8")
    again = re.sub(r"(?m)^( +)", lambda match: "\t" * (len(match[1]) // 4) + " " * (len(match[1]) % 4 * 3), text)
    again = re.sub(r"\n\n+", "\n", again)
    again = "".join(piece.replace(", ", ",\n\t  ") if kind == CODE else piece for kind, piece in pieces(again, "python"))
    assert again != text
    assert shingle_tokens(again, "python") == shingle_tokens(text, "python")
