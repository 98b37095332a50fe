"""What rules are given besides texts: lists of domains and words, trained filters, a language model. Each is loaded once.

None is needed: a rule without its list or model has no value and drops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lianlu.core.files import sha256_file
from lianlu.data.filters import linear_filter, perplexity
from lianlu.data.rules import blocked_domains, long_text, unsafe_words
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits

FAMILIES = ("safety", "filters", "perplexity", "long_text")


@dataclass(frozen=True)
class Assets:
    """Where they are; empty: not given."""

    blocked_domains: str = ""
    unsafe_words: str = ""
    filters: tuple[str, ...] = ()
    model: str = ""

    def fingerprint(self) -> dict[str, Any]:
        """What has to be equal for scores to be equal."""
        found: dict[str, Any] = {"filters": [linear_filter.digest(Path(path)) for path in self.filters]}
        for name in ("blocked_domains", "unsafe_words"):
            path = Path(getattr(self, name))
            found[name] = sha256_file(path) if path.is_file() else str(getattr(self, name))
        return {**found, "model": perplexity.opened(self.model).fingerprint() if self.model else ""}

    def signals(self, family: str, view: TextView, url: str, limits: Limits) -> Iterator[tuple[str, float]]:
        """The values of one of `FAMILIES`, as far as what it needs is given."""
        if family == "safety":
            if self.blocked_domains:
                yield from blocked_domains.signals(url, _domains(self.blocked_domains))
            if self.unsafe_words:
                yield from unsafe_words.signals(view, _words(self.unsafe_words))
        elif family == "filters" and self.filters:
            yield from linear_filter.signals(view.text, _filters(self.filters))
        elif family == "perplexity" and self.model:
            yield from perplexity.signals(view, perplexity.opened(self.model))
        elif family == "long_text" and self.model:
            yield from long_text.context_signals(view, limits, perplexity.opened(self.model))


@cache
def _domains(source: str) -> blocked_domains.BlockedDomains:
    return blocked_domains.load(source)


@cache
def _words(path: str) -> unsafe_words.UnsafeWords:
    return unsafe_words.load(Path(path))


@cache
def _filters(paths: tuple[str, ...]) -> list[linear_filter.LinearFilter]:
    return [linear_filter.load(Path(path)) for path in paths]
