"""A page as a tree, made ready for an extractor of articles: what no reader sees is taken out, formulas become text.

Extractors look at the words of a tag and not at its style, so that hidden menus and notices would count as text; and they drop
formulas, which pages about science are full of. A formula's own LaTeX is used where the page carries it, as `$...$`.
"""

from __future__ import annotations

import re
from typing import Any

_STYLED = "//body//*[@hidden or contains(@style, 'none') or contains(@style, 'hidden')]"
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_FORMULAS = "//math[not(ancestor::math)] | //script[starts-with(@type, 'math/tex')]"
_LATEX = ".//annotation[@encoding='application/x-tex' or @encoding='TeX']"
_FRAMES = "ancestor::*[self::mjx-container or contains(@class, 'katex') or contains(@class, 'mwe-math-element')]"


def prepared(page: bytes) -> Any:
    """The tree of a page (lxml); None if there is none in these bytes."""
    from trafilatura import load_html

    tree = load_html(whole(page))
    if tree is None:
        return None
    for element in tree.xpath(_FORMULAS):
        _write_out(element)
    for element in tree.xpath(_STYLED):
        if element.getparent() is not None and (element.get("hidden") is not None or _HIDDEN.search(element.get("style", ""))):
            element.drop_tree()
    return tree


def whole(page: bytes) -> bytes:
    """The page, or a fragment put into one: trafilatura takes text without an html tag for no page at all."""
    head = page[:2000].lower()
    return page if b"<html" in head or b"\0" in head else b"<html><body>" + page + b"</body></html>"


def _write_out(element: Any) -> None:
    """Put a formula's text in the place of the formula and of what draws it (MathJax, KaTeX, MediaWiki)."""
    found = element.xpath(_LATEX)
    latex = found[0].text if found else element.get("alttext") or (element.text if element.tag == "script" else "")
    text = f"${' '.join(latex.split())}$" if latex and latex.strip() else "".join("".join(element.itertext()).split())
    frames = element.xpath(_FRAMES)
    place = frames[0] if frames else element
    tail = place.tail
    place.clear()
    place.tag, place.text, place.tail = "span", text, tail
