from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.data.read import pdf
from lianlu.data.read.extract import documents, read
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.sources import list_files
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document


def make(pages: list[list[str]]) -> bytes:
    """A PDF of text lines in Helvetica; its table of offsets is left to the reader to rebuild."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{5 + 2 * n} 0 R' for n in range(len(pages)))}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Title (On Ferries) /CreationDate (D:20190704120000Z) >>",
    ]
    for number, lines in enumerate(pages):
        shown = "".join(f"({line}) Tj T* " for line in lines)
        stream = f"BT /F1 10 Tf 14 TL 50 750 Td {shown}ET".encode()
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {6 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n".encode() + stream + b"\nendstream")
    body = b"%PDF-1.4\n" + b"".join(f"{n} 0 obj\n".encode() + one + b"\nendobj\n" for n, one in enumerate(objects, 1))
    return body + b"trailer\n<< /Root 1 0 R /Info 4 0 R >>\n%%EOF\n"


@pytest.fixture(autouse=True)
def _child_ends():  # type: ignore[no-untyped-def]
    yield
    pdf._child().close()


def extracted(folder: Path, content: bytes) -> Document | Verdict:
    (folder / "a.pdf").write_bytes(content)
    (raw,) = list_files(folder / "a.pdf").raws
    found = read(raw, 10**8)
    assert isinstance(found, bytes)
    made = documents(raw, found, HtmlExtractor(1))
    return made if isinstance(made, Verdict) else made[0]


def test_the_text_layer_comes_in_paragraphs_with_title_and_date(tmp_path: Path) -> None:
    lines = [
        "The ferry left the pier at noon and nobody who stood there",
        "waved to those on board of it.",
        "A second paragraph begins.",
    ]
    found = extracted(tmp_path, make([lines, ["Another page follows the first."]]))
    assert found == Document(
        "a.pdf",
        "The ferry left the pier at noon and nobody who stood there waved to those on board of it.\nA second paragraph begins.\n"
        "Another page follows the first.",
        domain="docs",
        date="2019-07-04",
        path="a.pdf",
        meta={"pages": 2, "title": "On Ferries"},
    )


def test_pages_without_text_and_files_that_do_not_open_say_so(tmp_path: Path) -> None:
    empty = extracted(tmp_path, make([[], []]))
    assert empty == Verdict("extract.no_text_layer", "0 characters on 2 pages", "text: run OCR over it first")
    broken = extracted(tmp_path, b"%PDF-1.4 and nothing more")
    assert isinstance(broken, Verdict)
    assert broken.rule == "extract.pdf"


def test_a_file_over_its_time_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pdf._child.cache_clear()
    monkeypatch.setattr(pdf, "LIMIT_S", 0.05)
    found = extracted(tmp_path, make([["word " * 20] * 50] * 2000))
    pdf._child().close()
    pdf._child.cache_clear()
    monkeypatch.undo()
    assert found == Verdict("extract.max_seconds", "over", 0.05)
    assert isinstance(extracted(tmp_path, make([["This one is quick to read."]])), Document)


def test_lines_are_joined_as_their_widths_and_ends_tell() -> None:
    page = (
        "The harbour was built in a year of great inven\ufffe\ntion of steam and is in use since then, all with\nno break.\nOld."
    )
    whole = "The harbour was built in a year of great invention of steam and is in use since then, all with no break.\nOld."
    assert pdf.joined([page]) == whole
    assert (
        pdf.joined(["这一行写满了整个页面的宽度没有\n标点所以下一行接着它。\n新的一段。"])
        == "这一行写满了整个页面的宽度没有标点所以下一行接着它。\n新的一段。"
    )
    listed = "There are several things to be said about this matter now\n1. the first one\n2. the second one"
    assert pdf.joined([listed]).count("\n") == 2


def test_lines_at_the_head_and_foot_of_most_pages_are_left_out() -> None:
    pages = [f"Journal of Ferries {n}\nWhat stands on page number {n} is of its own.\nPage {n}" for n in range(6)]
    assert pdf.joined(pages).splitlines() == [f"What stands on page number {n} is of its own." for n in range(6)]
