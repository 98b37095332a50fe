"""What is found out about one document by itself: its language, the signals of every rule, the edits it needs.

    read -> extract -> normalise -> language, families of rules for prose | licence, families for code -> personal data -> hashes

Nothing is decided here but what cannot be read: thresholds are applied to the signals later (`decide`), so that moving one
costs nothing. Documents are compared by the text without the lines that are taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from lianlu.data.code import licences, source_file
from lianlu.data.code.tokens import shingle_tokens
from lianlu.data.dedup import near_dedup
from lianlu.data.forgotten import Forgotten
from lianlu.data.read import extract
from lianlu.data.read.html_extractor import HtmlExtractor, Name
from lianlu.data.read.normalise import normalise
from lianlu.data.read.sources import Raw
from lianlu.data.rules import edits, pii
from lianlu.data.rules.assets import Assets
from lianlu.data.rules.characters import Hashes, hashes_of
from lianlu.data.rules.edits import Edit
from lianlu.data.rules.families import code_signals, prose_signals
from lianlu.data.rules.language import identify
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Thresholds, Verdict
from lianlu.data.scores.cost import timed
from lianlu.data.scores.ledger import Ledger
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
    extractor: Name = "trafilatura"
    assets: Assets = field(default_factory=Assets)
    forgotten: Forgotten = field(default_factory=Forgotten)
    """What is dropped unread; no part of the fingerprint, since `forget` takes it out of scores too."""

    def fingerprint(self) -> dict[str, Any]:
        """What has to be equal for scores to be equal, as JSON values."""
        own = {"rules": list(self.rules), "name": self.name, "domain": self.domain, "thresholds": self.thresholds.of_scores()}
        read = {"max_bytes": self.max_bytes, "html_limit_s": self.html_limit_s, "extractor": self.extractor}
        return {**own, **read, "assets": self.assets.fingerprint()}


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
    shingles: Hashes
    bands: Hashes


def score(raw: Raw, settings: Settings, pages: HtmlExtractor, ledger: Ledger) -> Iterator[Scored]:
    """Read one raw thing and score the documents in it; what cannot be read goes to the ledger."""
    ledger.enter("read", raw.num_bytes)
    if verdict := settings.forgotten.verdict(raw.document or raw):
        ledger.drop("read", settings.forgotten.stub(verdict), verdict)
        return
    with timed("read", raw.num_bytes):
        content = extract.read(raw, settings.max_bytes)
    if isinstance(content, Verdict):
        ledger.drop("read", _stub(raw, settings), content)
        return
    size = len(content) if isinstance(content, bytes) else len(content.encode("utf-8", "replace"))
    ledger.leave("read", size)
    ledger.enter("extract", size)
    with timed("extract", size):
        found = extract.documents(raw, content, pages)
    if isinstance(found, Verdict):
        ledger.drop("extract", _stub(raw, settings), found)
        return
    for document in found:
        document.domain = settings.domain or document.domain
        document.source = document.source or settings.name
        if document.domain == CODE:
            document.lang = source_file.language(document)
        size = len(document.text.encode("utf-8", "replace"))
        if verdict := settings.forgotten.verdict(document, "extract"):
            ledger.drop("extract", settings.forgotten.stub(verdict), verdict)
            continue
        ledger.leave("extract", size)
        ledger.enter("normalise", size)
        with timed("normalise", size):
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
    """Everything about one document whose text is normalised; sets its language, or the licence of code that has none."""
    view = TextView(document.text)
    size = view.num_bytes
    signals, lines = _code(document, view, settings) if document.domain == CODE else _prose(document, view, settings)
    with timed("pii", size):
        found = pii.find(view.text) if "pii" in settings.rules else []
    seen = TextView(edits.applied(view.text, lines)) if lines else view
    hashes = bands = np.empty(0, dtype=np.uint64)
    if "near_dedup" in settings.rules:
        with timed("near_dedup", size):
            is_code = document.domain == CODE
            tokens = hashes_of(shingle_tokens(seen.text, document.lang)) if is_code else seen.token_hashes()
            hashes = near_dedup.shingles(tokens)
            bands = near_dedup.bands(hashes) if len(hashes) else bands
    with timed("exact_dedup", size):
        exact = xxhash.xxh3_128_digest(" ".join(seen.text.split()).encode())
    return Scored(document, view.script, signals, edits.joined(lines, found), seen.num_bytes, exact, hashes, bands)


def _limits(family: str, document: Document, view: TextView, settings: Settings) -> Limits:
    return settings.thresholds.of(family, document.domain, view.script, document.lang)


def _code(document: Document, view: TextView, settings: Settings) -> tuple[dict[str, float], list[Edit]]:
    document.license = licences.of_file(view.text, document.license)

    def limits(family: str) -> Limits:
        return _limits(family, document, view, settings)

    return code_signals(view, document, settings.rules, limits, settings.assets), []


def _prose(document: Document, view: TextView, settings: Settings) -> tuple[dict[str, float], list[Edit]]:
    signals: dict[str, float] = {}
    if "language" in settings.rules:
        with timed("language", view.num_bytes):
            document.lang, signals["language.min_probability"] = identify(view.text)

    def limits(family: str) -> Limits:
        return _limits(family, document, view, settings)

    found, lines = prose_signals(view, document.url, settings.rules, limits, settings.assets)
    return signals | found, lines
