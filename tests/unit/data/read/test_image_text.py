"""Image-text documents whose texts and pictures are in lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files

OBELICS = {
    "images": [None, "https://e.org/a.png", None, "https://e.org/b.png"],
    "texts": ["A cat sat.", None, "A dog ran.", None],
    "metadata": "[]",
}
MMC4 = {
    "url": "https://e.org/page",
    "text_list": ["A cat sat.", "A dog ran."],
    "image_info": [
        {"image_name": "b", "raw_url": "https://e.org/b.png", "matched_text_index": 1, "matched_sim": 0.3},
        {"image_name": "a", "raw_url": "https://e.org/a.png", "matched_text_index": 0, "matched_sim": 0.2},
    ],
}


def read(path: Path) -> list[Raw]:
    return list(expand(list_files(path).raws, ("text", "content"), 10_000))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_texts_and_images_side_by_side_become_one_text_with_marks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(OBELICS) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([OBELICS]), path)
    (raw,) = read(path)
    assert raw.document is not None
    assert raw.document.text == "A cat sat.\n\n![](https://e.org/a.png)\n\nA dog ran.\n\n![](https://e.org/b.png)"
    assert [one["uri"] for one in raw.document.meta["media"]] == ["https://e.org/a.png", "https://e.org/b.png"]
    assert "texts" not in raw.document.meta


def test_pictures_stand_before_the_text_that_they_belong_to(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(MMC4) + "\n")
    (raw,) = read(tmp_path / "a.jsonl")
    assert raw.document is not None
    assert raw.document.text == "![](https://e.org/a.png)\n\nA cat sat.\n\n![](https://e.org/b.png)\n\nA dog ran."
    assert raw.document.url == "https://e.org/page"
    assert raw.document.meta["media"][0] == {
        "kind": "image", "uri": "https://e.org/a.png", "image_name": "a", "matched_text_index": 0, "matched_sim": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [{"texts": []}, {"texts": [None, 3]}, {"texts": ["x"], "images": "y"}, {"texts": "x"}, {"image_info": [1]}, {"images": [1]}],
)
def test_odd_lists_do_no_harm(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (raw,) = read(tmp_path / "a.jsonl")
    has_lists = isinstance(row.get("texts"), list)
    assert (raw.verdict is None) == has_lists
    assert raw.document is not None
    assert raw.document.text == (("x" if row["texts"] == ["x"] else "") if has_lists else json.dumps(row))
