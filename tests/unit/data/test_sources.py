from __future__ import annotations

import gzip
import os
import resource
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from lianlu.core.errors import DataError
from lianlu.data.read.extract import documents, read
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.sources import Raw, expand, list_files
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document, write_parquet


def raws(folder: Path) -> dict[str, Raw]:
    return {raw.id: raw for raw in expand(list_files(folder).raws, ("text", "content"), 10_000)}


def rule(raw: Raw, max_bytes: int = 1000) -> str:
    found = read(raw, max_bytes)
    return found.rule if isinstance(found, Verdict) else ""


def test_kinds_and_domains_come_from_names(tmp_path: Path) -> None:
    for name in ("a.html", "b.md", "c.txt", "d.py", "e", "sub/f.rst", "g.json", "CMakeLists.txt", "sub/Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("some text")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    found = raws(tmp_path)
    assert {name: raw.kind for name, raw in found.items()} == {
        "a.html": "html", "b.md": "markdown", "c.txt": "text", "d.py": "code", "e": "text", 
        "sub/f.rst": "markdown", "g.json": "code", "CMakeLists.txt": "code", "sub/Makefile": "code",
    }  # fmt: skip
    assert (found["d.py"].lang, found["CMakeLists.txt"].lang, found["sub/Makefile"].lang) == ("python", "cmake", "makefile")
    pages = HtmlExtractor(1)
    made = documents(found["sub/f.rst"], "some text", pages)
    assert made == [Document("sub/f.rst", "some text", domain="docs", path="sub/f.rst")]


def test_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "binary.txt").write_bytes(b"PK\x03\x04\x00\x00")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "huge.txt").write_text("x" * 1001)
    (tmp_path / "marked.txt").write_bytes("你好".encode("utf-16"))
    (tmp_path / "cookie.py").write_bytes(b"# -*- coding: latin-1 -*-\nname = 'caf\xe9'\n")
    (tmp_path / "nonsense.py").write_bytes(b"# -*- coding: klingon -*-\n")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "absent")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe.txt")
    found = raws(tmp_path)
    assert {name: rule(raw) for name, raw in found.items()} == {
        "empty.txt": "read.empty", "binary.txt": "read.binary", "latin.txt": "read.encoding", "huge.txt": "read.max_bytes",
        "marked.txt": "", "cookie.py": "", "nonsense.py": "", "dangling.txt": "read.unreadable", "loop": "read.link_to_folder",
        "self": "read.unreadable", "pipe.txt": "read.not_a_file",
    }  # fmt: skip
    assert read(found["marked.txt"], 1000) == "你好"
    assert "café" in str(read(found["cookie.py"], 1000))


def test_a_file_that_vanishes_or_is_locked_is_a_rejection(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    raw = raws(tmp_path)["a.txt"]
    path.unlink()
    assert rule(raw) == "read.unreadable"


def test_jsonl_records_keep_ids_and_bad_lines_are_named(tmp_path: Path) -> None:
    lines = [
        '{"id": 7, "text": "one", "url": "u", "stars": 3}',
        "broken",
        '{"content": "two"}',
        '{"text": ""}',
        '{"text": "' + "x" * 20_000 + '"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "none.jsonl").write_text("")
    found = raws(tmp_path)
    assert list(found) == ["7", "a.jsonl#2", "a.jsonl#3", "a.jsonl#4", "a.jsonl#5", "none.jsonl"]
    assert found["7"].document == Document("7", "one", url="u", path="a.jsonl", meta={"stars": 3})
    assert [rule(raw, 10**6) for raw in found.values()] == ["", "read.bad_line", "", "read.empty", "read.bad_line", "read.empty"]
    assert found["a.jsonl#5"].num_bytes > 20_000


def test_parquet_gives_records_until_it_is_damaged(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [Document("1", "one", domain="book"), Document("2", "two")])
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    found = raws(tmp_path)
    assert found["1"].document == Document("1", "one", domain="book", path="a.parquet")
    assert rule(found["b.parquet#1"]) == "read.damaged"
    assert str(tmp_path) not in str(read(found["b.parquet#1"], 1000))


def test_one_file_is_a_source_and_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert [raw.id for raw in list_files(tmp_path / "a.txt").raws] == ["a.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        list_files(tmp_path / "empty")
    with pytest.raises(DataError, match="there is no"):
        list_files(tmp_path / "absent")


def test_packed_records_that_unpack_to_any_size_or_break_off_are_named(tmp_path: Path) -> None:
    row = b'{"text": "one"}\n'
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(row)
        for _ in range(400):
            file.write(b"a" * (1 << 20))
        file.write(b"\n" + row)
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(20_000))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines)[:-5000])
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(lines)[:-2000])
    (tmp_path / "odd.jsonl").write_bytes(row + b'{"text": "caf\xe9"}\n' + row)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def verdicts(name: str) -> list[str]:
        found = expand(list_files(tmp_path / name).raws, ("text",), 1_000_000)
        return [str(raw.verdict.value) if raw.verdict else "" for raw in found]

    assert verdicts("bomb.jsonl.gz") == ["", "line above the limit of 1,000,000 bytes", ""]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    for name in ("cut.jsonl.gz", "cut.jsonl.zst"):
        found = verdicts(name)
        assert found[-1] == "truncated archive"
        assert name.endswith("zst") or len(found) > 100
    assert verdicts("odd.jsonl")[1].startswith("not UTF-8")


def test_a_listing_holds_no_files(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.txt").write_text("text")
    tracemalloc.start()
    listing = list_files(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (listing.num_files, listing.num_bytes) == (2000, 8000)
    assert held < 2000 * 16
    assert len(list(listing.raws)) == len(list(listing.raws)) == 2000


def test_a_pipe_or_a_device_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(DataError, match="neither a file nor a folder"):
            list_files(source)


def test_a_folder_nobody_may_read_is_a_rejection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "locked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text")

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    scan = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    assert {raw.id: raw.verdict and raw.verdict.rule for raw in list_files(tmp_path).raws} == {
        "a/a.txt": None, "locked": "read.unreadable",
    }  # fmt: skip
