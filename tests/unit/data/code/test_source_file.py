"""Path and language of a document of code."""

from __future__ import annotations

import pytest

from lianlu.data.code.source_file import language, path_of
from lianlu.formats.documents import Document


@pytest.mark.parametrize(
    ("lang", "path", "name", "found"),
    [
        ("", "a/b.xsl", "1", "xslt"), ("Python", "a.txt", "1", "python"), ("C++", "a/b.cpp", "1", "cpp"), ("C", "b.h", "1", "c"),
        ("cpp", "b.h", "1", "cpp"), ("Cobol", "b.cob", "1", "cobol"), ("", "rows.jsonl.gz", "x/b.rs", "rust"), ("", "", "", ""),
        ("", "page.html", "1", ""), ("", "a/Dockerfile", "1", "dockerfile"), ("", "B.IPYNB", "1", "jupyter"),
    ],
)  # fmt: skip
def test_language(lang: str, path: str, name: str, found: str) -> None:
    assert language(Document(name, "text", lang=lang, path=path)) == found


def test_markup_is_html_and_what_was_taken_out_of_it_is_not() -> None:
    assert language(Document("1", "\n<p>text</p>", path="page.html")) == "html"


def test_a_file_of_records_is_no_path() -> None:
    assert path_of(Document("r/a.py", "", path="rows.parquet")) == "r/a.py"
    assert path_of(Document("r/a.py", "", path="a.py")) == "a.py"
    assert path_of(Document("r/a.py", "")) == "r/a.py"
