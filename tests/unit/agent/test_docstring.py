from __future__ import annotations

from lianlu.agent.docstring import split_docstring


def test_sections_types_and_continued_lines() -> None:
    text = """Find a thing
    in a place.

    Second paragraph: with a colon.

    Args:
        name (str): What to find,
            over two lines.
        *places: Where.
        plain:
            Below.

    Returns:
        text: not an argument.
    """
    description, arguments = split_docstring(text)
    assert description == "Find a thing in a place.\n\nSecond paragraph: with a colon."
    assert arguments == {"name": "What to find, over two lines.", "places": "Where.", "plain": "Below."}


def test_no_sections_and_nothing_at_all() -> None:
    assert split_docstring("Only this.") == ("Only this.", {})
    assert split_docstring("") == ("", {})
    assert split_docstring("Args:\n    x: A number.") == ("", {"x": "A number."})


def test_an_indented_word_with_a_colon_is_no_section() -> None:
    assert split_docstring("See:\n\n    args:\nbelow") == ("See:\n\nargs: below", {})
