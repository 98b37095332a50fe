"""Long texts: is this one text, and is it running text? For documents above 32 KiB; shorter ones have no values here.

The report of InternLM2 (arXiv 2403.17297, section 3.1.3) selects texts over 32 KiB, drops by statistics of language first and
then by what a passage is worth as context of a later one: where it does not make the later one likelier, the text is a heap of
others. LongWanjuan (arXiv 2402.13583) names the three sides of it: coherence, cohesion (connectives, pronouns) and complexity
(variety of words). Neither gives thresholds; they are set by domain and language.

Words are those of `TextView`, so that densities in Chinese are per 1000 characters. In English a term within another
counts too ("so" in "so that"), in Chinese the longer one only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lianlu.data.filters.perplexity import LanguageModel
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits

WINDOW_WORDS = 1000
_PER = 1000
_DIGITS = re.compile(r"\d+")
_HEADING = re.compile(
    r"^#{1,6}[ \t]+\S.*$"  # Markdown
    r"|^(?=\S)[^\n]{2,100}\n[=\-~^*+#`'\"]{3,}[ \t]*$"  # underlined, as in reStructuredText
    r"|^(?:\d{1,2}\.){1,4}\d{0,2}[ \t]+[A-Z\u4e00-\u9fff][^\n.]{1,80}$"  # 2.1 Name
    r"|^(?:chapter|part|section|book)[ \t]+(?:\d+|[ivxlc]+)\b[^\n]{0,80}$"
    r"|^[ \t\u3000]*第[0-9〇零一二三四五六七八九十百千两]{1,6}[章节節回卷部篇][^\n]{0,40}$",
    re.MULTILINE | re.IGNORECASE,
)


def is_long(view: TextView, limits: Limits) -> bool:
    """Whether a text is longer than `long_bytes`."""
    return bool(_num_bytes(view) > limits["long_bytes"])


def signals(view: TextView, limits: Limits) -> Iterator[tuple[str, float]]:
    """What the rules look at without a model, in order; densities are per 1000 words.

    `limits` has `long_bytes`, and `connectives` and `pronouns` where there are lists for the language.
    """
    yield "min_bytes", _num_bytes(view)
    if not is_long(view, limits):
        return
    words = view.tokens()
    for name in ("connectives", "pronouns"):
        if limits.get(name):
            yield f"min_{name}", _density(view.text, words, tuple(limits[name]), len(view.words))
    ratio = type_token_ratio(words)
    yield "min_type_token_ratio", ratio
    yield "max_type_token_ratio", ratio
    # texts of one paragraph a line have no blank lines
    blocks = view.paragraphs if len(view.paragraphs) > 1 else view.lines
    lengths = np.array([len(TextView(block).words) for block in blocks])
    yield "max_repeated_paragraphs", _repeated(blocks)
    yield "min_paragraph_words", float(lengths @ lengths / max(lengths.sum(), 1))
    yield "max_paragraph_share", float(lengths.max(initial=0) / max(len(view.words), 1))
    yield "max_headings", _PER * len(_HEADING.findall(view.text)) / max(len(view.words), 1)


def context_signals(view: TextView, limits: Limits, model: LanguageModel) -> Iterator[tuple[str, float]]:
    """What passages are worth as context of the next ones, for long texts; bits per byte, negative where they help.

    `limits` has `long_bytes`, `segment_bytes` and `max_segments`.
    """
    if not is_long(view, limits):
        return
    found = segments(view.text, min(limits["segment_bytes"], model.piece_bytes), limits["max_segments"])
    costs = model.context_cost(list(pairwise(found)))
    if costs:
        yield "max_context_cost", float(np.mean(costs))


def segments(text: str, num_bytes: int, count: int) -> list[str]:
    """Up to `count` passages evenly spread over a text, none longer than `num_bytes`, not overlapping, none blank.

    A passage begins with a line where one begins in the first quarter of its place.
    """
    data = text.encode("utf-8", "replace")
    count = min(count, len(data) // max(num_bytes, 1))
    found = []
    for start in np.linspace(0, len(data) - num_bytes, count).astype(int).tolist():
        line = data.find(b"\n", start, start + num_bytes // 4) + 1 if start else 0
        found.append(data[line or start : start + num_bytes].decode("utf-8", "ignore"))
    return [segment for segment in found if segment.strip()]


def type_token_ratio(words: Sequence[str]) -> float:
    """Different words over words, the mean over the full windows of 1000 words (of a shorter text all); 1 for no words."""
    if not words:
        return 1.0
    starts = range(0, max(len(words) - WINDOW_WORDS, 0) + 1, WINDOW_WORDS)
    windows = [words[start : start + WINDOW_WORDS] for start in starts]
    return float(np.mean([len(set(window)) / len(window) for window in windows]))


def _num_bytes(view: TextView) -> int:
    return len(view.text) if view.text.isascii() else len(view.text.encode("utf-8", "replace"))


def _density(text: str, words: Sequence[str], terms: tuple[str, ...], num_words: int) -> float:
    """How often the terms occur, per 1000 words; `words` are those for comparing."""
    single, phrases, ideographs = _sorts(terms)
    count = sum(map(single.__contains__, words))
    if phrases:
        joined = f" {' '.join(words)} "
        count += sum(map(joined.count, phrases))
    if ideographs is not None:
        count += len(ideographs.findall(text))
    return _PER * count / max(num_words, 1)


@cache
def _sorts(terms: tuple[str, ...]) -> tuple[frozenset[str], list[str], re.Pattern[str] | None]:
    """Terms of one word, those of several, and a pattern of those in CJK characters, the longest first."""
    cjk = [term for term in terms if TextView(term).num_cjk]
    words = [" ".join(TextView(term).tokens()) for term in terms if term not in cjk]
    longest_first = sorted(cjk, key=lambda term: (-len(term), term))
    pattern = re.compile("|".join(map(re.escape, longest_first))) if cjk else None
    return frozenset(term for term in words if " " not in term), [f" {term} " for term in words if " " in term], pattern


def _repeated(paragraphs: Sequence[str]) -> float:
    """Share of the paragraphs, by characters, that have come before; numbers and white space make no difference."""
    texts = [_DIGITS.sub("0", " ".join(block.lower().split())) for block in paragraphs]
    sizes: npt.NDArray[np.int64] = np.array([len(text) for text in texts], dtype=np.int64)
    first = dict(zip(reversed(texts), reversed(range(len(texts))), strict=True))
    again = np.array([first[text] != place for place, text in enumerate(texts)], dtype=bool)
    return float(sizes[again].sum() / max(sizes.sum(), 1))
