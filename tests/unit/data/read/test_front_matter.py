from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.read import front_matter
from lianlu.data.read.extract import documents
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.raw import Raw
from lianlu.formats.documents import Document

BODY = "# Ships\n\nThey float."


def made(kind: str, text: str) -> Document:
    found = documents(Raw("a", kind, len(text)), text, HtmlExtractor(1))
    assert isinstance(found, list)
    return found[0]


def test_yaml_goes_to_meta_and_to_where_documents_keep_it() -> None:
    head = (
        "---\ntitle: Ships\ndate: 2020-01-02\nversion: 1.10\ntags: [sea, no]\nlicense: CC-BY-4.0\nurl: https://e.org/s\n---\n\n"
    )
    told = {
        "title": "Ships", "date": "2020-01-02", "version": "1.10", "tags": ["sea", "no"], "license": "CC-BY-4.0", "url": "https://e.org/s",
    }  # fmt: skip
    assert made("markdown", head + BODY) == Document(
        "a", BODY, domain="docs", url="https://e.org/s", license="CC-BY-4.0", date="2020-01-02", meta={"front_matter": told}
    )
    assert made("markdown", (head + BODY).replace("\n", "\r\n")).text == BODY


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("+++\ntitle = 'S'\ndate = 2020-01-02\n[extra]\nweight = 3\n+++\n",
         {"title": "S", "date": "2020-01-02", "extra": {"weight": 3}}),
        ('[#]: subject: "S: t"\n[#]: via: "https://e.org"\n[#]: author: (wxy)\n',
         {"subject": "S: t", "via": "https://e.org", "author": "wxy"}),
        ("PEP: 1\nTitle: S\nAuthor: A,\n        B\n", {"pep": "1", "title": "S", "author": "A, B"}),
        (":Author: A\n:Date: 2020-01-02\n", {"author": "A", "date": "2020-01-02"}),
    ],
)  # fmt: skip
def test_every_form_is_taken_out_of_the_text(head: str, told: dict[str, object]) -> None:
    assert front_matter.split(f"{head}\n{BODY}") == (told, BODY)


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nA line above a text, and one below.\n\n---\nmore",
        "---\n: : {broken\n---\ntext",
        "---\na: &a [x, x]\nb: [*a, *a, *a]\n---\ntext",
        "+++\nbroken\n+++\ntext",
        "Note: this\nis a text\n\nwith a colon",
        "Yes: one\nNo: two\nMaybe: three\n\nA list of answers",
        "---\nno end of it",
        "- - -\n",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert front_matter.split(text) == ({}, text)


@given(st.text(alphabet="-+:[]# \nabTitle&*{}\t", max_size=300))
def test_no_text_is_lost(text: str) -> None:
    told, body = front_matter.split(text)
    assert text.endswith(body)
    assert told or body == text
    json.dumps(told)


def test_long_heads_take_no_time_and_code_is_left_alone() -> None:
    for start in ("Ab: c\n", "[#]: x\n", ":a: b\n", "---\n", " : \n"):
        front_matter.split(start * 50_000)
    assert made("code", "---\na: b\n---\n").text == "---\na: b\n---\n"


def test_real_corpora(shared_data: Path) -> None:
    def share(name: str, key: str) -> float:
        with gzip.open(shared_data / "corpora" / f"{name}.jsonl.gz") as file:
            told = [front_matter.split(json.loads(line)["text"])[0] for line in file]
        return sum(key in one for one in told) / len(told)

    assert share("en_peps", "title") > 0.97  # the rest is about them
    assert share("zh_lctt", "url") > 0.4
    assert share("zh_modern_prose", "title") == 0
