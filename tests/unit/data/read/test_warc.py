from __future__ import annotations

import gzip
import resource
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard

from lianlu.data.read.extract import documents, read
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.http_body import decoded, in_utf8
from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files
from lianlu.data.rules.thresholds import Verdict

PAGE = (
    b"<html><body><article>" + b"<p>The ferry left at noon, and nobody on the pier waved.</p>" * 20 + b"</article></body></html>"
)


def record(number: int, body: bytes, kind: str = "response", status: str = "200 OK", **headers: str) -> bytes:
    http = b""
    if kind == "response":
        fields = {"Content-Type": "text/html"} | {name.replace("_", "-"): value for name, value in headers.items()}
        http = (
            f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{key}: {value}\r\n" for key, value in fields.items()).encode() + b"\r\n"
        )
    block = http + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>\r\n"
        f"WARC-Date: 2024-02-0{number % 9 + 1}T10:00:00Z\r\nWARC-Target-URI: http://e.org/{number}\r\n"
        f"Content-Type: {'application/http; msgtype=response' if kind == 'response' else 'text/plain'}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def raws(path: Path, max_bytes: int = 100_000) -> list[Raw]:
    return list(expand(list_files(path).raws, ("text",), max_bytes))


def rules(found: list[Raw]) -> list[str]:
    return [raw.verdict.rule if raw.verdict else "" for raw in found]


@pytest.mark.parametrize("packed", [False, True])
def test_pages_keep_address_and_date_and_everything_else_is_a_rejection(tmp_path: Path, packed: bool) -> None:
    records = [
        record(0, b"software: test", "warcinfo"),
        record(1, PAGE),
        record(2, b"gone", status="404 Not Found"),
        record(3, b"\x89PNG", Content_Type="image/png"),
        record(4, gzip.compress(PAGE), Content_Encoding="gzip"),
        record(5, b"3\r\n<p>\r\n4\r\nwell\r\n0\r\n\r\n", Transfer_Encoding="chunked"),
        record(6, "<p>中文网页</p>".encode("gbk"), Content_Type="text/html; charset=GBK"),
        record(7, b"A text that was extracted before.", "conversion"),
        record(8, b""),
    ]
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(gzip.compress(one) if packed else one for one in records))
    found = raws(path)
    assert rules(found) == ["", "read.http_status", "read.media_type", "", "", "", "", "read.empty"]
    assert [raw.content for raw in found if raw.content] == [
        PAGE, PAGE, b"<p>well", "<p>中文网页</p>".encode(), b"A text that was extracted before.",
    ]  # fmt: skip
    assert found[0].id == "00000000-0000-0000-0000-000000000001"
    pages = HtmlExtractor(5)
    content = read(found[0], 10**6)
    assert isinstance(content, bytes)
    (document,) = documents(found[0], content, pages)
    pages.close()
    assert (document.url, document.date, document.domain) == ("http://e.org/1", "2024-02-02T10:00:00Z", "web")
    assert "The ferry left" in document.text


@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_archive_gives_what_is_whole_and_one_rejection(tmp_path: Path, packed: bool) -> None:
    for last in ("response", "request"):
        whole = [record(number, PAGE) for number in range(3)] + [record(3, PAGE, last)]
        parts = [gzip.compress(one) for one in whole] if packed else whole
        path = tmp_path / (f"{last}.warc" + ".gz" * packed)
        path.write_bytes(b"".join(parts)[: -len(parts[-1]) // 2])
        found = raws(path)
        assert rules(found) == ["", "", "", "read.damaged"]
        assert [raw.content for raw in found[:3]] == [PAGE] * 3
        assert str(tmp_path) not in str(found[3])


def test_damage_in_the_middle_and_nonsense_are_told(tmp_path: Path) -> None:
    parts = [gzip.compress(record(number, PAGE)) for number in range(3)]
    (tmp_path / "flipped.warc.gz").write_bytes(parts[0] + parts[1][:40] + b"\0\0\0\0" + parts[1][44:] + parts[2])
    (tmp_path / "nonsense.warc").write_bytes(b"hello\n" * 100)
    (tmp_path / "none.warc").write_bytes(b"")
    assert rules(raws(tmp_path / "flipped.warc.gz"))[0] == ""
    assert "read.damaged" in rules(raws(tmp_path / "flipped.warc.gz"))
    assert rules(raws(tmp_path / "nonsense.warc")) == ["read.damaged"]
    assert rules(raws(tmp_path / "none.warc")) == ["read.empty"]


def test_a_body_that_unpacks_to_any_size_is_left_at_the_limit(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1000)) + packer.flush()
    (tmp_path / "a.warc").write_bytes(record(1, bomb, Content_Encoding="gzip") + record(2, PAGE) + record(3, PAGE * 100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = raws(tmp_path / "a.warc", 2_000_000)
    assert rules(found) == ["read.max_bytes", "", ""]
    assert rules(raws(tmp_path / "a.warc", 10_000)) == ["read.max_bytes", "", "read.max_bytes"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # of the 1 GB that it holds


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("br", brotli.compress), ("zstd", zstandard.compress), ("gzip", bytes), ("deflate", bytes), ("br", bytes),
        ("identity", bytes),
    ],
)  # fmt: skip
def test_every_packing_is_undone_and_bodies_stored_unpacked_are_taken(encoding: str, pack) -> None:  # type: ignore[no-untyped-def]
    assert decoded(pack(PAGE), {"content-encoding": encoding}, 100_000) == PAGE
    found = decoded(pack(PAGE), {"Content-Encoding": encoding.upper()}, 100)
    assert isinstance(found, Verdict)
    assert found.rule == "read.max_bytes"


def test_text_that_is_utf8_stays_and_an_unknown_charset_harms_nobody() -> None:
    assert in_utf8("né".encode(), "latin-1") == "né".encode()
    assert in_utf8("né".encode("latin-1"), "latin-1") == "né".encode()
    assert in_utf8(b"n\xe9", "klingon") == b"n\xe9"
    assert in_utf8(b"n\xe9", None) == b"n\xe9"
