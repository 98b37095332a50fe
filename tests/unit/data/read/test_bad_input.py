"""What people really have on their disks: it is read or on record with a reason, and what is beside it is read."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import tarfile
from pathlib import Path

import pytest
import zstandard

from lianlu.core.config import validate, with_overrides
from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.read import pdf, unreadable
from lianlu.data.read.encodings import decoded
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files
from lianlu.data.rules.thresholds import Verdict
from lianlu.data.scores import scored
from lianlu.formats.documents import Document, read_documents, write_parquet

TEXT = "The ferry left at noon, and nobody on the pier waved to those who had stayed behind. " * 5
CHINESE = "渡船中午离开了码头，送行的人没有一个招手。他们知道，船要到明年春天才会回来。"
TRADITIONAL = "我是一隻貓，名字還沒有。在什麼地方出生的，全然沒有印象。"
LARGE = 1 << 30


def raws(path: Path, max_bytes: int = 100_000) -> list[Raw]:
    return list(expand(list_files(path).raws, ("text", "content"), max_bytes))


def rules(found: list[Raw]) -> list[str]:
    return [raw.verdict.rule if raw.verdict else "" for raw in found]


def run(source: Path, target: Path, *overrides: str) -> tuple[dict[str, Document], dict[str, str]]:
    """What is kept, and the rule for what is not, without any rules for texts."""
    target.mkdir(exist_ok=True)
    fields = {"source": str(source), "workers": 1, "rules": []}
    clean.run(validate(CleanConfig, with_overrides(fields, overrides)), Output(target))
    return {document.id: document for document in read_documents(target)}, rejected(target)


def rejected(target: Path) -> dict[str, str]:
    return {row["id"]: row["rule"] for row in map(json.loads, (target / "rejected.jsonl").read_text().splitlines())}


@pytest.fixture(autouse=True)
def _children():  # type: ignore[no-untyped-def]
    yield
    scored._pages(5.0, "trafilatura").close()
    pdf._child().close()


def test_encodings_zero_bytes_and_empty_files(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    files = {
        "utf8_broken.txt": TEXT.encode() + b"\xe9 and", "gb.txt": CHINESE.encode("gb18030"),
        "big5.txt": TRADITIONAL.encode("big5"),
        "utf16.txt": TEXT.encode("utf-16"), "utf16_odd.txt": TEXT.encode("utf-16") + b"a",
        "utf16_half.txt": TEXT.encode("utf-16") + b"\x00\xd8a\x00", "utf16_unmarked.txt": TEXT.encode("utf-16-le"),
        "utf32.txt": TEXT.encode("utf-32"), "zero.txt": b"a\0b" + TEXT.encode(), "late_zero.txt": TEXT.encode() * 40 + b"\0end",
        "mark.txt": b"\xef\xbb\xbf", "empty.txt": b"", "empty.html": b"", "empty.pdf": b"", "empty.jsonl.gz": b"",
        "empty.parquet": b"", "empty.zip": b"", "empty.tar.gz": b"", "cut.pdf": b"%PDF-1.7\n1 0 obj\n<<",
    }  # fmt: skip
    for name, content in files.items():
        (source / name).write_bytes(content)
    kept, gone = run(source, tmp_path / "out")
    assert set(kept) == {"utf16.txt", "utf32.txt", "late_zero.txt", "gb.txt"}
    assert kept["utf16.txt"].text == kept["utf32.txt"].text == TEXT.strip()
    assert kept["gb.txt"].text == CHINESE
    assert "\0" not in kept["late_zero.txt"].text
    assert gone == {
        "utf8_broken.txt": "read.encoding", "big5.txt": "read.encoding", "utf16_odd.txt": "read.encoding",
        "utf16_half.txt": "read.encoding", "utf16_unmarked.txt": "read.binary",
        "zero.txt": "read.binary", "mark.txt": "normalise.empty", "empty.txt": "read.empty", "empty.html": "read.empty",
        "empty.pdf": "read.empty", "empty.jsonl.gz": "read.empty", "empty.parquet#1": "read.damaged",
        "empty.zip#1": "read.damaged", "empty.tar.gz#1": "read.damaged", "cut.pdf": "extract.pdf",
    }  # fmt: skip


def test_names_with_odd_characters_and_links_that_go_round(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "below").mkdir(parents=True)
    names = ["new\nline.txt", "tab\t.txt", 'quote".txt', "-rf.txt", "%s#?&.txt", "😀.txt", "a" * 240 + ".txt", "UP.TXT"]
    for number, name in enumerate(names):
        (source / name).write_text(f"{number} {TEXT}")
    for number in range(2):
        Path(os.fsdecode(os.path.join(os.fsencode(source), b"raw\xff" + bytes([0xFE + number]) + b".txt"))).write_text(TEXT)
    (source / "below" / "up").symlink_to("..")
    (source / "round").symlink_to("round")
    kept, gone = run(source, tmp_path / "out")
    assert set(kept) == {*names, "raw??.txt", "raw??.txt~2"}
    assert gone == {"below/up": "read.link_to_folder", "round": "read.unreadable"}


def test_records_with_the_same_id_are_told_apart_and_bad_json_is_named(tmp_path: Path) -> None:
    lines = [{"id": "same", "text": f"{number} {TEXT}"} for number in range(3)] + [{"id": "zero\0", "text": "a\0b " + TEXT}]
    odd = ["[" * 100_000, '{"text": "\\ud800"}', '{"text": "x", "n": ' + "9" * 5000 + "}", "null", '{"text": "cut', "{}"]
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, lines), *odd]))
    kept, gone = run(tmp_path / "a.jsonl", tmp_path / "out")
    assert list(kept) == ["same", "same~2", "same~3", "zero\0"]
    assert kept["zero\0"].text.startswith("ab")
    assert gone == {f"a.jsonl#{number}": "read.bad_line" for number in range(5, 11)}


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.pdf", "a.py", "a.jsonl", "a.md"])
def test_a_document_of_a_gigabyte_is_never_held(tmp_path: Path, name: str) -> None:
    with open(tmp_path / name, "wb") as file:
        file.truncate(LARGE)  # zeros, for which the disk needs no room
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="nothing is left"):
        run(tmp_path / name, tmp_path / "out", "max_document_bytes=1000000")
    assert list(rejected(tmp_path / "out").values()) == ["read.bad_line" if name == "a.jsonl" else "read.max_bytes"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_parquet_file_with_a_damaged_group_a_huge_cell_or_no_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [Document(f"r{number}", os.urandom(200).hex()) for number in range(3000)]
    write_parquet(tmp_path / "a.parquet", rows)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 100):
        content[place] ^= 0x5A
    (tmp_path / "a.parquet").write_bytes(content)
    found = raws(tmp_path / "a.parquet")
    assert [raw.id for raw in found if raw.verdict is None] == [f"r{number}" for number in (*range(1000), *range(2000, 3000))]
    assert [(raw.id, raw.verdict.rule) for raw in found if raw.verdict] == [("a.parquet#1001", "read.damaged")]
    huge = pa.table({"text": ["first", "x" * 10_000_000, "last"], "note": ["", "", "y" * 10_000_000], "n": [1, None, 2]})
    pq.write_table(huge, tmp_path / "b.parquet")
    assert rules(raws(tmp_path / "b.parquet")) == ["", "read.max_bytes", "read.max_bytes"]
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    assert rules(raws(tmp_path / "c.parquet")) == ["read.damaged"]
    assert rules(raws(tmp_path / "d.parquet")) == ["read.empty"]
    (tmp_path / "e.parquet").write_bytes(content[:-2000])
    assert rules(raws(tmp_path / "e.parquet")) == ["read.damaged"]


def test_a_tar_whose_header_claims_a_gigabyte_is_left(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, LARGE
        with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as file:
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            for _ in range(64):
                file.write(bytes(1 << 20))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (raw,) = raws(tmp_path / "a.tar.gz")
        assert raw.verdict is not None
        assert (raw.verdict.rule, "a header of" in str(raw.verdict.value)) == ("read.damaged", True)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_names_of_any_usual_length_are_read_from_tars(tmp_path: Path) -> None:
    name = "/".join(["folder" * 20] * 10) + "/a.txt"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as file:
            info = tarfile.TarInfo(name)
            info.size = len(TEXT)
            file.addfile(info, io.BytesIO(TEXT.encode()))
        assert [raw.id for raw in raws(tmp_path / "a.tar")] == [f"a.tar/{name}"]


def warc(number: int, header: bytes = b"") -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + header + b"\r\nA page of its own."
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
    kind = f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    return (head + kind).encode() + http + b"\r\n\r\n"


@pytest.mark.parametrize("packed", [False, True])
def test_a_page_whose_header_has_megabytes_costs_only_itself(tmp_path: Path, packed: bool) -> None:
    parts = [warc(1), warc(2, b"X: " + b"a" * 5_000_000 + b"\r\n"), warc(3), warc(4)]
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(gzip.compress(part) if packed else part for part in parts))
    found = raws(path)
    assert [(raw.id, rule) for raw, rule in zip(found, rules(found), strict=True)] == [
        ("1", ""), (f"{path.name}#2", "read.damaged"), ("3", ""), ("4", ""),
    ]  # fmt: skip


def test_real_pages_that_take_a_parser_long_are_killed_and_the_next_is_read(tmp_path: Path) -> None:
    extractor = HtmlExtractor(0.5)
    try:
        extractor.extract(b"<html></html>")  # loading the library takes time of its own
        slow = b"<html><body><article>" + b'<a href="x">word word</a> ' * 200_000 + b"</article></body></html>"
        assert extractor.extract(slow) == Verdict("extract.max_seconds", "over", 0.5)
        extractor.child.limit_s, extractor.child._command[-1] = 30.0, "30.0"
        assert isinstance(extractor.extract(f"<html><body><article><p>{TEXT}</p></article></body></html>".encode()), str)
    finally:
        extractor.close()


def test_an_unreadable_file_is_on_record_and_the_recipe_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lianlu.core import files
    from lianlu.core.store import Store
    from lianlu.recipe.recipe import build_recipe
    from lianlu.recipe.run import run_recipe

    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_text(TEXT)
    (source / "b.txt").write_text(TEXT)
    read_bytes, digest = Path.read_bytes, files.sha256_file

    def refused(path: Path) -> bytes:
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(files, "sha256_file", lambda path: refused(path) and digest(path))
    (result,) = run_recipe(
        build_recipe("t", {"steps": {"clean": {"stage": "clean", "source": str(source), "workers": 1, "rules": []}}}), Store(home)
    )
    assert rejected(result.artifact.path) == {"b.txt": "read.unreadable"}


def test_truncated_archives_of_records_give_what_is_whole(tmp_path: Path) -> None:
    data = b"".join(json.dumps({"text": f"{number} " + os.urandom(300).hex()}).encode() + b"\n" for number in range(3000))
    source = tmp_path / "in"
    source.mkdir()
    for name, packed in (("a.jsonl.gz", gzip.compress(data, 1)), ("b.jsonl.zst", zstandard.compress(data))):
        (source / name).write_bytes(packed[: len(packed) * 2 // 3])
    kept, gone = run(source, tmp_path / "out")
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        own = [key for key in kept if key.startswith(name)]
        assert 1000 < len(own) < 2100
        assert gone[f"{name}#{len(own) + 1}"] == "read.bad_line"


def test_a_run_stops_when_too_much_cannot_be_read_and_goes_on_when_more_is_allowed(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines = [json.dumps({"text" if number % 5 else "body": f"{number} {TEXT}"}) for number in range(500)]
    (source / "a.jsonl").write_text("\n".join(lines))
    (source / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(DataError, match=r"100 of 501 records could not be read, and max_bad = 0\.1") as told:
        run(source, tmp_path / "out")
    assert "a.jsonl#1 (read.bad_line: no text in text or content)" in told.value.message
    assert "text_fields" in told.value.hint
    assert list(rejected(tmp_path / "out").values()).count("read.bad_line") == 100
    with pytest.raises(DataError, match="max_bad = 99"):
        run(source, tmp_path / "out", "max_bad=99")
    for limit in ("0.2", "100"):
        kept, gone = run(source, tmp_path / "out", f"max_bad={limit}")
        assert (len(kept), len(gone)) == (400, 101)


def test_a_small_source_is_not_stopped_by_one_bad_file_and_a_large_one_is_stopped_early(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_text(TEXT)
    (source / "b.txt").write_bytes(b"\xff\xff")
    kept, gone = run(source, tmp_path / "out")
    assert (set(kept), gone) == ({"a.txt"}, {"b.txt": "read.encoding"})
    with pytest.raises(DataError, match="max_bad = 0 allows fewer"):
        run(source, tmp_path / "none", "max_bad=0")
    (source / "many.jsonl").write_text("{}\n" * 10_000)
    with pytest.raises(DataError, match=r"[12],\d{3} of [12],\d{3} records"):
        run(source, tmp_path / "early")
    assert unreadable.EARLY <= len(rejected(tmp_path / "early")) < 3000


def test_how_much_may_be_bad_is_no_part_of_what_is_made() -> None:
    from lianlu.core.config import aside_fields

    assert "max_bad" in aside_fields(CleanConfig)


def test_nothing_to_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.bin").write_bytes(b"\0\1")
    with pytest.raises(DataError, match=r"nothing is left: all 1 documents were rejected \(read.binary took 1\)"):
        run(tmp_path / "in", tmp_path / "out")


def test_chinese_in_gb18030_is_read_and_other_encodings_are_not_guessed(shared_data: Path) -> None:
    read = told = 0
    for name in ("zh_lctt", "zh_modern_prose"):
        with gzip.open(next((shared_data / "corpora").glob(f"{name}*")), "rt", encoding="utf-8") as file:
            for text in [json.loads(line)["text"] for line in file][::20]:
                read += decoded(text.encode("gb18030"), "") == text
                told += isinstance(decoded(text.encode("big5", "ignore") + b"\xff", ""), Verdict)
                assert not isinstance(decoded(text.encode("big5", "ignore"), ""), str) or text.encode("big5", "ignore").isascii()
    assert (read, told) == (118, 120)
    japanese = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 3
    for text, encoding in ((japanese, "euc_jp"), (japanese, "shift_jis"), ("Я кот. Имени у меня пока нет. " * 5, "cp1251")):
        assert isinstance(decoded(text.encode(encoding), ""), Verdict)
