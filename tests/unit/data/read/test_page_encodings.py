"""Pages in the encodings that they name, and bodies whose headers do not tell the truth."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import brotli
import pytest
import zstandard

from lianlu.data.read import html_head
from lianlu.data.read.extract import documents
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.http_body import decoded, in_utf8
from lianlu.data.read.raw import Raw
from lianlu.data.rules.thresholds import Verdict

TEXTS = {
    "gbk": "渡船中午离开了码头，送行的人没有一个招手。", "big5": "我是一隻貓，名字還沒有。全然沒有印象。",
    "shift_jis": "吾輩は猫である。名前はまだ無い。①", "euc-jp": "吾輩は猫である。名前はまだ無い。",
    "iso-2022-jp": "吾輩は猫である。名前はまだ無い。", "windows-1252": "Personne n’a salué à l’embarcadère",
    "iso-8859-1": "Personne n’a salué à l’embarcadère", "windows-1251": "Паром ушёл в полдень", "koi8-r": "Паром ушел в полдень",
    "euc-kr": "나룻배는 정오에 떠났고 똠방각하", "gb2312": "渡船與碼頭，朱镕基。", "tis-620": "เรือข้ามฟาก",
}  # fmt: skip
WRITTEN = {"shift_jis": "cp932", "iso-8859-1": "cp1252", "euc-kr": "cp949", "gb2312": "gbk"}
PAGE = b"<html><body>" + b"<p>The ferry left at noon, and nobody on the pier waved.</p>" * 20 + b"</body></html>"


@pytest.fixture(scope="module")
def pages() -> Iterator[HtmlExtractor]:
    extractor = HtmlExtractor(20)
    yield extractor
    extractor.close()


@pytest.mark.parametrize("form", ['<meta charset="{}">', '<meta http-equiv=Content-Type content="text/html; charset={}">'])
@pytest.mark.parametrize("charset", TEXTS)
def test_a_page_is_read_in_the_encoding_that_it_names(pages: HtmlExtractor, charset: str, form: str) -> None:
    text = TEXTS[charset]
    head = f"<head>{form.format(charset.upper())}<title>{text}</title></head>"
    page = f"<html>{head}<body><article><p>{text}</p></article></body></html>"
    found = documents(Raw("a.html", "html", 1, path="a.html"), page.encode(WRITTEN.get(charset, charset)), pages)
    assert isinstance(found, list)
    assert (found[0].text.strip(), found[0].meta) == (text, {"title": text})


def test_what_a_page_names_is_found_and_nonsense_is_passed_over() -> None:
    assert html_head.charset(b'<?xml version="1.0" encoding="windows-1251"?><html>') == "windows-1251"
    assert html_head.charset(b"<p>charset=gbk</p>") is None
    assert html_head.charset(b"<meta " * 100_000) is None
    for name in ("rot13", "hex", "undefined", "klingon", "utf-16", "idna", "cp037", ""):
        assert in_utf8(b"<p>n\xe9</p>", name) == b"<p>n\xe9</p>"
    assert in_utf8(b"<p>\\ud800 n\xe9", "unicode_escape") == "<p>? né".encode()
    assert in_utf8("né 渡".encode(), "gbk") == "né 渡".encode()


def test_a_title_in_an_encoding_that_nobody_names_is_left_out(pages: HtmlExtractor) -> None:
    page = f"<html><head><title>{TEXTS['gbk']}</title></head><body><article><p>{TEXTS['gbk'] * 9}</p></article></body></html>"
    found = documents(Raw("a.html", "html", 1, path="a.html"), page.encode("gbk"), pages)
    assert isinstance(found, list)
    assert found[0].meta == {}


@pytest.mark.parametrize(
    "body", [b"Bad news: the ferry\nleft at noon.\n", b"A\tb\nc", b"Add 5 to it\r\nand 0\r\n\r\n", b"<p>fine</p>"]
)
def test_a_body_that_only_looks_like_chunks_is_taken_as_it_is(body: bytes) -> None:
    assert decoded(body, {"transfer-encoding": "chunked"}, 1000) == body
    assert (
        decoded(b"5;x=y\r\nhello\r\n6 \r\n world\r\n0\r\nTrailer: x\r\n\r\n", {"transfer-encoding": "chunked"}, 99)
        == b"hello world"
    )


def test_packings_in_each_other_and_members_are_all_undone() -> None:
    assert decoded(gzip.compress(brotli.compress(PAGE)), {"content-encoding": "br, gzip"}, 10_000) == PAGE
    assert decoded(gzip.compress(PAGE) + gzip.compress(PAGE) + b"rest", {"content-encoding": "gzip"}, 10_000) == PAGE * 2
    found = decoded(gzip.compress(PAGE) * 10, {"content-encoding": "gzip"}, 2000)
    assert isinstance(found, Verdict)
    assert found.rule == "read.max_bytes"


PACKERS = {"deflate": zlib.compress, "br": brotli.compress, "gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_damaged_body_is_no_text(encoding: str) -> None:
    body = PACKERS[encoding](PAGE)
    damaged = body[:10] + bytes(byte ^ 0xFF for byte in body[10:])
    found = decoded(damaged, {"content-encoding": encoding}, 10_000)
    assert isinstance(found, Verdict)
    assert found.rule == "read.damaged"
