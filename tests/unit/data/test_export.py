from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.core.errors import ConfigError, DataError
from lianlu.data.export import export
from lianlu.data.read.media import MARK, marked
from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files
from lianlu.formats import jsonl
from lianlu.formats.documents import Document, read_documents, write_documents, write_jsonl

IMAGE = {"url": "http://e.org/1.jpg", "sha256": "019c", "caption": "", "width": "400", "height": "266"}
WANJUAN = [
    {"id": "BkA", "img_list": [IMAGE, {**IMAGE, "url": "http://e.org/2.jpg", "caption": "渡船"}], "content": "![](http://e.org/1.jpg)\n正文"},
    {"id": "BkB", "content": "没有图片的正文"},
]  # fmt: skip


def documents_of(path: Path) -> list[Document]:
    found: list[Raw] = list(expand(list_files(path).raws, jsonl.TEXT_FIELDS, 10**6))
    return [raw.document for raw in found if raw.document is not None]


def test_wanjuans_format_comes_in_and_goes_out_unchanged(tmp_path: Path) -> None:
    jsonl.write_values(tmp_path / "in.jsonl", WANJUAN)
    first, second = documents_of(tmp_path / "in.jsonl")
    assert first.text == "![](http://e.org/1.jpg)\n正文"
    assert first.meta == {
        "media": [
            {"kind": "image", "uri": "http://e.org/1.jpg", "sha256": "019c", "width": 400, "height": 266},
            {"kind": "image", "uri": "http://e.org/2.jpg", "sha256": "019c", "width": 400, "height": 266, "caption": "渡船"},
        ]
    }
    assert second == Document("BkB", "没有图片的正文", path="in.jsonl")
    write_documents(tmp_path / "made", [first, second])
    assert export(tmp_path / "made", tmp_path / "out.jsonl", "wanjuan") == 2
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == WANJUAN


@pytest.mark.parametrize("odd", [["http://e.org/1.jpg"], "none", [5], [{"width": "wide"}], [{"url": None}]])
def test_odd_lists_of_images_lose_nothing(tmp_path: Path, odd: object) -> None:
    jsonl.write_values(tmp_path / "in.jsonl", [{"id": "a", "content": "text", "img_list": odd}])
    (document,) = documents_of(tmp_path / "in.jsonl")
    assert document.meta
    export(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "wanjuan")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet"])
def test_documents_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    rows = [Document(str(n), f"text {n}", url="u", license="MIT", date="2020", meta={"n": n, "media": []}) for n in range(2500)]
    write_documents(tmp_path / "made", rows, rows_per_part=900)
    form = "parquet" if name.endswith("parquet") else "jsonl"
    assert export(tmp_path / "made", tmp_path / name, form) == 2500  # type: ignore[arg-type]
    assert list(read_documents(tmp_path / name)) == rows
    again = tmp_path / f"again-{name}"
    export(tmp_path / "made", again, form)  # type: ignore[arg-type]
    assert again.read_bytes() == (tmp_path / name).read_bytes()


def test_a_source_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [Document("1", "one")])
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write("{broken")
    for name, form in (("a.parquet", "parquet"), ("a.jsonl", "jsonl")):
        with pytest.raises(DataError, match=r"line 3"):
            export(tmp_path / "in.jsonl", tmp_path / name, form)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    with pytest.raises(ConfigError, match="no name for parquet"):
        export(tmp_path / "in.jsonl", tmp_path / "a.jsonl", "parquet")


def test_pictures_that_marks_name_are_found_once_and_in_order() -> None:
    text = '![a](x.png) and ![b](<y.png>) ![ ](https://e.org/z_(1).png "t") [no](link) ![a](x.png) ![broken](no end'
    assert marked(text) == [
        {"kind": "image", "uri": "x.png", "caption": "a"}, {"kind": "image", "uri": "y.png", "caption": "b"},
        {"kind": "image", "uri": "https://e.org/z_(1).png"},
    ]  # fmt: skip
    assert not MARK.search("![" * 20_000 + "](" * 20_000)
