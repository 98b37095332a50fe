"""The text layer of PDF files by PDFium (the package pypdfium2), in a child process that can be killed.

Pages are lines set to a width: lines that run into each other are joined to paragraphs, words divided at a line's end too,
and lines that stand at the head or foot of most pages, numbers aside, are left out. Limits: columns and reading order are
PDFium's, formulas and tables come as their characters; pictures of pages have no text, which the rejection says.
"""

from __future__ import annotations

import atexit
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache

from lianlu.data.read.child import Child, serve
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document

LIMIT_S = 60.0
"""Processor time a file may take: a book of a thousand pages takes ten seconds."""
MIN_CHARS_PER_PAGE = 8
FULL_LINE = 0.7
_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?")
_NUMBERS = re.compile(r"\d+")
_SENTENCE_END = re.compile(r"[.!?:;。！？：；…][\"'”’)\]」』）]*$")
_NEW = re.compile(r"(?:[•‣▪◦·*–—-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
_HYPHENS = "\ufffe\u0002\u00ad"
"""What PDFium puts where a word is divided at the end of a line."""


def document(content: bytes, known: Document) -> Document | Verdict:
    """`known` with the text of a PDF, and its title and date where the file tells them; or why there is no text."""
    answer = _child().ask(content)
    if isinstance(answer, Verdict):
        return answer
    told = json.loads(answer)
    if "error" in told:
        return Verdict("extract.pdf", told["error"], "a PDF that opens without a password")
    pages: list[str] = told["pages"]
    found = sum(len(page.strip()) for page in pages)
    if found < MIN_CHARS_PER_PAGE * max(len(pages), 1):
        return Verdict("extract.no_text_layer", f"{found} characters on {len(pages)} pages", "text: run OCR over it first")
    known.text = joined(pages)
    known.date = known.date or told["date"]
    known.meta = {**known.meta, "pages": len(pages), **({"title": told["title"]} if told["title"] else {})}
    return known


@cache
def _child() -> Child:
    """The PDF reader of this process; it ends with the process."""
    child = Child(("lianlu.data.read.pdf",), LIMIT_S)
    atexit.register(child.close)
    return child


def joined(pages: Sequence[str]) -> str:
    """The text of all pages in paragraphs; a paragraph may run over the end of a page."""
    lined = _without_running_lines([[line.strip() for line in page.splitlines() if line.strip()] for page in pages])
    paragraphs: list[str] = []
    is_open = False
    for lines in lined:
        width = sorted(map(_width, lines))[len(lines) * 9 // 10] if lines else 0
        for line in lines:
            if is_open and paragraphs and not _NEW.match(line):
                paragraphs[-1] = _glued(paragraphs[-1], line)
            else:
                paragraphs.append(line)
            divided = line.endswith(tuple(_HYPHENS))
            is_open = divided or (
                _width(line) >= FULL_LINE * width and not (_SENTENCE_END.search(line) and _width(line) < 0.9 * width)
            )
        is_open = is_open and bool(lines) and not _SENTENCE_END.search(lines[-1])
    return "\n".join(paragraph.rstrip(_HYPHENS) for paragraph in paragraphs)


def _width(line: str) -> int:
    return len(line) + len(_CJK.findall(line))


def _glued(before: str, line: str) -> str:
    if before.endswith(tuple(_HYPHENS)):
        return before.rstrip(_HYPHENS) + line
    return before + line if _CJK.match(before[-1]) and _CJK.match(line) else f"{before} {line}"


def _without_running_lines(pages: list[list[str]]) -> list[list[str]]:
    """The pages without the first and last lines that most of them share."""
    if len(pages) < 4:
        return pages
    edges = Counter(_NUMBERS.sub("0", line) for page in pages for line in {*page[:1], *page[-1:]})
    running = {line for line, count in edges.items() if count > len(pages) / 2}
    return [
        [line for place, line in enumerate(page) if place not in (0, len(page) - 1) or _NUMBERS.sub("0", line) not in running]
        for page in pages
    ]


def _read(content: bytes) -> bytes:
    """The child's work: pages, title and date as JSON, or what is wrong with the file."""
    import pypdfium2  # type: ignore[import-untyped]

    try:
        with pypdfium2.PdfDocument(content) as pdf:
            pages = []
            for page in pdf:
                text = page.get_textpage()
                pages.append(text.get_text_bounded())
                text.close()
                page.close()
            told = pdf.get_metadata_dict()
    except pypdfium2.PdfiumError as error:
        return json.dumps({"error": str(error)}).encode()
    stamp = _DATE.match(told.get("CreationDate") or "")
    date = "-".join(part for part in stamp.groups() if part) if stamp else ""
    return json.dumps({"pages": pages, "title": (told.get("Title") or "").strip(), "date": date}).encode()


if __name__ == "__main__":
    serve(_read, float(sys.argv[1]))
