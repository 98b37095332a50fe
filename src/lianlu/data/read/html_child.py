"""The process that takes articles out of HTML pages for `html_extractor`, by the extractor named as its first argument.

trafilatura   the default (Barbaresi 2021)
resiliparse   a fast one in C (https://resiliparse.chatnoir.eu), extra `resiliparse`
magic-html    OpenDataLab's (https://github.com/opendatalab/magic-html), extra `magic-html`, Python 3.12 or later
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from lianlu.data.read.child import serve
from lianlu.data.read.html_tree import prepared


def by_trafilatura(page: bytes) -> str:
    """The article of a page by trafilatura, with tables and formulas, without what is hidden and readers' comments."""
    import trafilatura

    tree = prepared(page)
    return "" if tree is None else trafilatura.extract(tree, include_comments=False, include_tables=True) or ""


def by_resiliparse(page: bytes) -> str:
    """The article of a page by resiliparse."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(_decoded(page), main_content=True, alt_texts=False, comments=False, post_meta=False)


def by_magic_html(page: bytes) -> str:
    """The article of a page by magic-html, which gives HTML; its text by trafilatura's plain conversion."""
    from trafilatura import html2txt

    found = _magic_html().extract(_decoded(page), base_url="").get("html") or ""
    return html2txt(f"<html>{found}</html>") if found.strip() else ""


EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    "trafilatura": by_trafilatura, "resiliparse": by_resiliparse, "magic-html": by_magic_html,
}  # fmt: skip


@cache
def _magic_html() -> Any:
    from magic_html import GeneralExtractor  # type: ignore[import-not-found]

    return GeneralExtractor()


def _decoded(page: bytes) -> str:
    from trafilatura.utils import decode_file

    text: str = decode_file(page)
    return text


if __name__ == "__main__":
    chosen = EXTRACTORS[sys.argv[1]]
    serve(lambda page: chosen(page).encode("utf-8", "replace"), float(sys.argv[2]))
