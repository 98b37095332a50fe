"""What happens to one document before documents are compared with each other: extract, normalise, judge, redact.

The steps run in the order of `STEPS`, each sees what the one before let through, and every decision goes into the ledger.
Prose rules look at prose, code rules at code (domain `code`). What survives carries what deduplication needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import xxhash

from lianlu.data import c4, code_rules, extract, fineweb, gopher_quality, gopher_repetition, near_dedup, pii
from lianlu.data.html_extractor import HtmlExtractor
from lianlu.data.language import identify
from lianlu.data.ledger import Ledger
from lianlu.data.normalise import normalise
from lianlu.data.sources import Raw, language_of
from lianlu.data.textview import TextView
from lianlu.data.thresholds import Limits, Thresholds, Verdict
from lianlu.formats.documents import Document

DOCUMENT_STEPS = ("normalise", "language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "code")
STEPS = ("read", "extract", *DOCUMENT_STEPS, "exact_dedup", "near_dedup", "pii")
CODE = "code"


@dataclass(frozen=True)
class Settings:
    """What the workers need of the stage's configuration."""

    rules: tuple[str, ...]
    thresholds: Thresholds
    name: str = ""
    domain: str = ""
    languages: tuple[str, ...] = ()
    max_bytes: int = 50_000_000
    html_limit_s: float = 5.0


@dataclass
class Survivor:
    """A document that passed all rules, as it will be written, with its size before redaction and what dedup compares."""

    document: Document
    num_bytes: int
    exact: bytes
    shingles: near_dedup.Hashes
    bands: near_dedup.Hashes


@dataclass
class Work:
    """A document on its way through the steps."""

    document: Document
    view: TextView
    settings: Settings

    def limits(self, family: str) -> Limits:
        """The thresholds of a family for this kind of text."""
        return self.settings.thresholds.of(family, self.document.domain, self.view.script, self.document.lang)

    def replace(self, text: str) -> None:
        """Go on with another text."""
        if text != self.view.text:
            self.view = TextView(text)


def process(raw: Raw, settings: Settings, pages: HtmlExtractor, ledger: Ledger) -> Iterator[Survivor]:
    """Take one raw thing through all steps; yields the documents in it that pass."""
    ledger.enter("read", raw.num_bytes)
    content = extract.read(raw, settings.max_bytes)
    if isinstance(content, Verdict):
        ledger.drop("read", _stub(raw, settings), content)
        return
    size = len(content) if isinstance(content, bytes) else len(content.encode("utf-8", "replace"))
    ledger.leave("read", size)
    ledger.enter("extract", size)
    found = extract.documents(raw, content, pages)
    if isinstance(found, Verdict):
        ledger.drop("extract", _stub(raw, settings), found)
        return
    for document in found:
        document.domain = settings.domain or document.domain
        document.source = document.source or settings.name
        if document.domain == CODE and not document.lang:
            document.lang = language_of(document.path) or language_of(document.id)
        ledger.leave("extract", len(document.text.encode("utf-8", "replace")))
        if survivor := judge(document, settings, ledger):
            yield survivor


def _stub(raw: Raw, settings: Settings) -> Document:
    """What is known of something that could not be read."""
    document = raw.document or Document(raw.id, "", path=raw.path, lang=raw.lang)
    return Document(
        document.id,
        document.text,
        document.source or settings.name,
        settings.domain or document.domain,
        path=raw.path,
        meta={"bytes": raw.num_bytes},
    )


def judge(document: Document, settings: Settings, ledger: Ledger) -> Survivor | None:
    """Take one document through the steps for single documents."""
    work = Work(document, TextView(document.text), settings)
    size = len(document.text.encode("utf-8", "replace"))
    for step in DOCUMENT_STEPS:
        ledger.enter(step, size)
        before = work.view
        verdict = _ACTIONS[step](work) if step in settings.rules or step == "normalise" else None
        if verdict is not None:
            document.text = work.view.text.encode("utf-8", "replace").decode()
            ledger.drop(step, document, verdict)
            return None
        if work.view is not before:
            size = len(work.view.text.encode())
        ledger.leave(step, size, edited=work.view is not before)
    return _survivor(work, size)


def _normalise(work: Work) -> Verdict | None:
    work.replace(normalise(work.view.text))
    return None if work.view.text.strip() else Verdict("normalise.empty", 0, 1)


def _language(work: Work) -> Verdict | None:
    if work.document.domain == CODE:
        return None
    lang, probability = identify(work.view.text)
    work.document.lang = lang
    wanted = work.settings.languages
    if wanted and lang not in wanted:
        return Verdict("language.allowed", lang, " ".join(wanted))
    limit = work.limits("language")["min_probability"]
    if wanted and limit is not False and probability < limit:
        return Verdict("language.min_probability", round(probability, 4), limit)
    return None


def _gopher_quality(work: Work) -> Verdict | None:
    return None if work.document.domain == CODE else gopher_quality.judge(work.view, work.limits("gopher_quality"))


def _gopher_repetition(work: Work) -> Verdict | None:
    return None if work.document.domain == CODE else gopher_repetition.judge(work.view, work.limits("gopher_repetition"))


def _c4(work: Work) -> Verdict | None:
    if work.document.domain == CODE:
        return None
    work.replace(c4.keep_lines(work.view, work.limits("c4")))
    return c4.judge(work.view, work.limits("c4"))


def _fineweb(work: Work) -> Verdict | None:
    return None if work.document.domain == CODE else fineweb.judge(work.view, work.limits("fineweb"))


def _code(work: Work) -> Verdict | None:
    return code_rules.judge(work.view, work.limits("code")) if work.document.domain == CODE else None


_ACTIONS: dict[str, Callable[[Work], Verdict | None]] = {
    "normalise": _normalise,
    "language": _language,
    "gopher_quality": _gopher_quality,
    "gopher_repetition": _gopher_repetition,
    "c4": _c4,
    "fineweb": _fineweb,
    "code": _code,
}


def _survivor(work: Work, size: int) -> Survivor:
    document, settings = work.document, work.settings
    document.text = work.view.text
    exact = xxhash.xxh3_128_digest(" ".join(document.text.split()).encode())
    hashes = bands = np.empty(0, dtype=np.uint64)
    if "near_dedup" in settings.rules:
        hashes = near_dedup.shingles(work.view)
        bands = near_dedup.bands(hashes) if len(hashes) else bands
    if "pii" in settings.rules:
        document.text, counts = pii.redact(document.text)
        if counts:
            document.meta = {**document.meta, "pii": counts}
    return Survivor(document, size, exact, hashes, bands)
