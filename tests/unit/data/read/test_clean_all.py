"""Every format in one folder, through the clean stage with two processes: what is kept knows where it came from."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

from lianlu.core.config import validate, with_overrides
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.read import pdf
from lianlu.data.scores import scored
from lianlu.formats import jsonl
from lianlu.formats.documents import read_documents

ARTICLE = "".join(f"<p>On day {n} the ships came in at dusk, and the town went down to see them.</p>" for n in range(8))
PAGE = f"<html><body><article>{ARTICLE}</article></body></html>"


def test_a_folder_of_every_format(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{PAGE}".encode()
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        "WARC-Date: 2024-02-01T10:00:00Z\r\n"
        f"WARC-Target-URI: http://e.org/1\r\nContent-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    (source / "a.warc.gz").write_bytes(gzip.compress(head.encode() + http + b"\r\n\r\n"))
    with zipfile.ZipFile(source / "b.zip", "w") as file:
        file.writestr("b-1/ferry.py", "def speed(knots):\n    return knots * 1.852\n")
        file.writestr("b-1/LICENSE", "This is free and unencumbered software released into the public domain.")
        file.writestr("b-1/image.png", b"\x89PNG\0\0")
    (source / "c.md").write_text("---\ntitle: Knots\ndate: 2020-01-02\n---\nA knot is a mile an hour.")
    jsonl.write_values(source / "d.jsonl", [{"id": "w", "content": "![](u)\ntext", "img_list": [{"url": "u", "width": "4"}]}])
    (source / "e.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "out").mkdir()
    out = Output(tmp_path / "out")
    config = with_overrides({"source": str(source), "rules": [], "workers": 2}, ())
    clean.run(validate(CleanConfig, config), out)
    scored._pages(5.0, "trafilatura").close()
    pdf._child().close()
    kept = {document.id: document for document in read_documents(out.path)}
    assert set(kept) == {"1", "b.zip/b-1/ferry.py", "b.zip/b-1/LICENSE", "c.md", "w"}
    assert (kept["1"].url, kept["1"].date) == ("http://e.org/1", "2024-02-01T10:00:00Z")
    code = kept["b.zip/b-1/ferry.py"]
    assert (code.license, code.path, code.meta["repo"], code.lang) == ("Unlicense", "ferry.py", "b", "python")
    assert (kept["c.md"].text, kept["c.md"].date) == ("A knot is a mile an hour.", "2020-01-02")
    assert kept["w"].meta == {"media": [{"kind": "image", "uri": "u", "width": 4}]}
    rejected = [json.loads(line) for line in (out.path / "rejected.jsonl").read_text().splitlines()]
    assert {row["id"]: row["rule"] for row in rejected} == {"b.zip/b-1/image.png": "read.binary", "e.pdf": "extract.pdf"}
