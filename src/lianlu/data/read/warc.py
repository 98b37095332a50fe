"""Web archives (WARC 1.0 and 1.1, ISO 28500; .warc, .warc.gz, and the WET files of texts): pages with address and date.

Read by FastWARC, record by record, so that the size of an archive does not matter. Answers with HTML, plain text, Markdown or
a PDF are read; every other answer (another type, a status that is not 200) is a rejection that says so. Damage costs the record
it is in: reading goes on where the next record begins, or in a packed archive the next member of gzip that holds one.

Of a body no more is held or unpacked than the limit for documents: bodies are decoded here (`http_body`), not by the library.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lianlu.data.read.http_body import decoded, in_utf8
from lianlu.data.read.raw import HTML, MARKDOWN, PDF, TEXT, Raw, rejected
from lianlu.data.read.warc_places import GZIP, Packed, Plain
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats import jsonl
from lianlu.formats.documents import Document

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

TYPES = {
    "text/html": HTML, "application/xhtml+xml": HTML, "text/plain": TEXT, "text/markdown": MARKDOWN, "application/pdf": PDF,
}  # fmt: skip


SILENT = ("warcinfo", "request", "metadata", "revisit")
"""Types of records that hold no page: what was asked, and that a page was as it had been before."""


def pages(raw: Raw, max_bytes: int) -> Iterator[Raw]:
    """The answers in one archive, in order."""
    from fastwarc.warc import ArchiveIterator

    number = found = 0
    place: int | None = 0
    told = False
    with open(raw.file, "rb") as file:
        archive = Packed(file) if file.read(2) == GZIP else Plain(file)
        while place is not None:
            start: int | None = None
            is_read = True
            try:
                for record in ArchiveIterator(archive.stream(place)):
                    start, is_read, number = record.stream_pos, False, number + 1
                    page = _answer(raw, record, number, max_bytes)
                    is_read = True
                    if page is not None:
                        found += 1
                        yield page
                break
            except (OSError, EOFError, ValueError, zlib.error) as error:
                is_packing = isinstance(error, EOFError | zlib.error)
                if not (told and start is None):  # else it is the header that has been told of
                    found, number = found + 1, number + is_read
                    reason = jsonl.damage(error).replace(raw.file, raw.path)[:200]
                    yield rejected(raw, f"{raw.path}#{number}", Verdict("read.damaged", reason, "a whole archive"))
                told = is_read and start is not None and not is_packing
                place = archive.after(place, None if is_packing and is_read else start)
    if not found:
        yield rejected(raw, raw.id, Verdict("read.empty", 0, 1))


def _answer(raw: Raw, record: WarcRecord, number: int, max_bytes: int) -> Raw | None:
    """A record if it is an answer. Raises: EOFError if the archive breaks off in it."""
    from fastwarc.warc import WarcRecordType

    if record.headers.get("Content-Length") is None:
        raise EOFError  # every record has one: its header breaks off
    kind = record.record_type
    if kind in (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion):
        return _page(raw, record, number, max_bytes)
    if record.reader.consume() < record.content_length:
        raise EOFError
    told = record.headers.get("WARC-Type") or "none"
    if told.lower() in SILENT:
        return None
    verdict = Verdict("read.record_type", told[:200], "response, resource or conversion")
    return rejected(raw, _name(raw, record, number), verdict, record.content_length)


def _page(raw: Raw, record: WarcRecord, number: int, max_bytes: int) -> Raw:
    """One answer. Raises: EOFError if the archive breaks off in it."""
    name = _name(raw, record, number)
    document = Document(name, "", url=record.headers.get("WARC-Target-URI") or "", date=_date(record), path=raw.path)
    kind = TYPES.get(_type(record), "")
    left = record.content_length
    verdict = _hopeless(record, max_bytes)
    if verdict is not None and record.reader.consume() < left:
        raise EOFError
    content = verdict or _content(record, kind, max_bytes)
    if isinstance(content, Verdict):
        return Raw(name, TEXT, left, path=raw.path, document=document, verdict=content)
    return Raw(name, kind, len(content), path=raw.path, document=document, content=content)


def _name(raw: Raw, record: WarcRecord, number: int) -> str:
    return (record.record_id or f"{raw.path}#{number}").strip("<>").removeprefix("urn:uuid:")


def _hopeless(record: WarcRecord, max_bytes: int) -> Verdict | None:
    if record.is_http and not record.is_http_parsed:
        raise EOFError
    if record.is_http_parsed and record.http_headers.status_code != 200:
        return Verdict("read.http_status", record.http_headers.status_code or "none", 200)
    if _type(record) not in TYPES:
        return Verdict("read.media_type", _type(record) or "none", "HTML, plain text, Markdown or PDF")
    if record.content_length > max_bytes:
        return Verdict("read.max_bytes", record.content_length, max_bytes)
    return None


def _content(record: WarcRecord, kind: str, max_bytes: int) -> bytes | Verdict:
    left = record.content_length
    body = record.reader.read(left) if left else b""
    if len(body) < left:
        raise EOFError
    if not record.is_http_parsed:
        return body or Verdict("read.empty", 0, 1)
    content = decoded(body, record.http_headers.to_dict(), max_bytes)
    if isinstance(content, Verdict):
        return content
    return content if kind == PDF else in_utf8(content, record.http_charset)


def _type(record: WarcRecord) -> str:
    """text/html and the like, in small letters."""
    stated = record.http_content_type if record.is_http_parsed else record.headers.get("Content-Type")
    return (stated or "").partition(";")[0].strip().lower()


def _date(record: WarcRecord) -> str:
    """When it was fetched, as the archive says it (ISO 8601)."""
    return record.headers.get("WARC-Date") or ""
