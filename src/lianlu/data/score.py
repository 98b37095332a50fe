"""What is found out about one document by itself: its language, the signals of every rule, the edits it needs.

    read -> extract -> normalise -> language -> Gopher quality, Gopher repetition -> C4 lines -> C4, FineWeb | code -> PII

Nothing is decided here but what cannot be read: thresholds are applied to the signals later (`decide`), so that moving one
costs nothing. Prose rules look at prose, code rules at code (domain `code`). C4's rules for pages, FineWeb's and the
comparison of documents look at the text without the lines that C4 takes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from lianlu.data import c4, code_rules, edits, extract, fineweb, gopher_quality, gopher_repetition, near_dedup, pii
from lianlu.data.edits import Edit
from lianlu.data.html_extractor import HtmlExtractor
from lianlu.data.language import identify
from lianlu.data.ledger import Ledger
from lianlu.data.normalise import normalise
from lianlu.data.sources import Raw, language_of
from lianlu.data.textview import TextView
from lianlu.data.thresholds import Limits, Thresholds, Verdict
from lianlu.formats.documents import Document

READ_STEPS = ("read", "extract", "normalise")
CODE = "code"


@dataclass(frozen=True)
class Settings:
    """What scores depend on: which families of rules are asked, and the lists and lengths that their signals use."""

    rules: tuple[str, ...]
    thresholds: Thresholds
    name: str = ""
    domain: str = ""
    max_bytes: int = 50_000_000
    html_limit_s: float = 5.0

    def fingerprint(self) -> dict[str, Any]:
        """What has to be equal for scores to be equal, as JSON values."""
        own = {"rules": list(self.rules), "name": self.name, "domain": self.domain, "thresholds": self.thresholds.of_scores()}
        return {**own, "max_bytes": self.max_bytes, "html_limit_s": self.html_limit_s}


@dataclass
class Scored:
    """A document with its normalised text, and all that rules and comparisons need of it.

    `signals` has the value of each rule by its name (`family.key`); `num_bytes` is the size without the lines taken out.
    """

    document: Document
    script: str
    signals: dict[str, float]
    edits: list[Edit]
    num_bytes: int
    exact: bytes
    shingles: near_dedup.Hashes
    bands: near_dedup.Hashes


def score(raw: Raw, settings: Settings, pages: HtmlExtractor, ledger: Ledger) -> Iterator[Scored]:
    """Read one raw thing and score the documents in it; what cannot be read goes to the ledger."""
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
        size = len(document.text.encode("utf-8", "replace"))
        ledger.leave("extract", size)
        ledger.enter("normalise", size)
        text = normalise(document.text)
        if not text.strip():
            ledger.drop("normalise", document, Verdict("normalise.empty", 0, 1))
            continue
        ledger.leave("normalise", len(text.encode()), edited=text != document.text)
        document.text = text
        yield scored(document, settings)


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


def scored(document: Document, settings: Settings) -> Scored:
    """Everything about one document whose text is normalised; sets its language."""
    view = TextView(document.text)
    signals, lines = _code(document, view, settings) if document.domain == CODE else _prose(document, view, settings)
    found = pii.find(view.text) if "pii" in settings.rules else []
    seen = TextView(edits.applied(view.text, lines)) if lines else view
    hashes = bands = np.empty(0, dtype=np.uint64)
    if "near_dedup" in settings.rules:
        hashes = near_dedup.shingles(seen)
        bands = near_dedup.bands(hashes) if len(hashes) else bands
    exact = xxhash.xxh3_128_digest(" ".join(seen.text.split()).encode())
    return Scored(document, view.script, signals, edits.joined(lines, found), len(seen.text.encode()), exact, hashes, bands)


def _named(family: str, signals: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {f"{family}.{name}": float(value) for name, value in signals}


def _limits(family: str, document: Document, view: TextView, settings: Settings) -> Limits:
    return settings.thresholds.of(family, document.domain, view.script, document.lang)


def _code(document: Document, view: TextView, settings: Settings) -> tuple[dict[str, float], list[Edit]]:
    if "code" not in settings.rules:
        return {}, []
    return _named("code", code_rules.signals(view, _limits("code", document, view, settings))), []


def _prose(document: Document, view: TextView, settings: Settings) -> tuple[dict[str, float], list[Edit]]:
    signals: dict[str, float] = {}
    rules = settings.rules
    if "language" in rules:
        document.lang, signals["language.min_probability"] = identify(view.text)

    def limits(family: str) -> Limits:
        return _limits(family, document, view, settings)

    lines = c4.line_edits(view, limits("c4")) if "c4" in rules else []
    left = TextView(edits.applied(view.text, lines)) if lines else view
    if "gopher_quality" in rules:
        signals |= _named("gopher_quality", gopher_quality.signals(view, limits("gopher_quality")))
    if "gopher_repetition" in rules:
        signals |= _named("gopher_repetition", gopher_repetition.signals(view))
    if "c4" in rules:
        signals |= _named("c4", c4.signals(left))
    if "fineweb" in rules:
        signals |= _named("fineweb", fineweb.signals(left, limits("fineweb")))
    return signals, lines
