"""The languages of a document paragraph by paragraph: shares of its characters that are English, Chinese, code and so on.

Code is told by its marks and key words, Chinese, Japanese and Korean by their characters, all else by py3langid on the
paragraph's beginning. A paragraph of few letters has no language of its own and is counted as unknown (empty). Short paragraphs
in Latin script are guessed badly by any model: a guess below `min_probability` goes to the main language of that script.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from lianlu.data.rules.language import identify
from lianlu.data.rules.textview import CJK_SHARE, TextView
from lianlu.data.rules.thresholds import Limits

CODE, UNKNOWN = "code", ""
SAMPLE_CHARS = 300
MIN_LETTERS = 12
MIN_MARKS, MIN_CODE_LINES = 0.12, 0.5
_MARKS = re.compile(r"[{}()\[\]=<>;_+*/&|\\$@^~`\"'#%]")
_CODE_LINE = re.compile(
    r"\s*(?:>>>|\.\.\.\s|\$\s|#\s*include\b|//|/\*|[)}\]]+[;,]?$|\)\s*->.*:$|"
    r"(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[:({]|(?:from\s+[\w.]+\s+)?import\s+\w|return\b(?!\s+\w+\s+\w+\s+\w)|"
    r"(?:el)?if\s.*:$|else\s*:$|for\s+.+\s+in\s.+:$|while\s.+:$|try\s*:$|assert\s|raise\s|yield\s|print\(|"
    r"(?:public|private|static|let|const|var|fn|impl|pub|struct|enum|use|mut)\s+[\w<(]|@\w+(?:\(|$)|"
    r"[\w.\[\]\"']+(?:\s*:\s*[\w\[\], |]+)?\s*[-+*/|&]?=[^=]|[\w.]+\(.*\)[;:]?$)|"
    r"\s+(?:[#*]|[\w*]+\s*:\s*[\w\[\]|.,: ]+(?:=.*)?,?$|[\"'\w.]+(?:\s*:\s*[\"'\w.]+)?,$)|.*[;{]$"
)
_IMPORT = re.compile(r"\s*(?:from\s+[\w.]+\s+)?import\s+[\w.*]+(?:\s+as\s+\w+)?(?:,\s*\w+)*$|\s*#include\b").match
_LETTERS = re.compile(r"[^\W\d_]+")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af]")


def shares(view: TextView, min_probability: float) -> dict[str, float]:
    """Share of the characters of all paragraphs in each language, largest first; `code` and "" (unknown) among them."""
    found: Counter[str] = Counter()
    unsure = 0
    for paragraph in view.paragraphs:
        lang, probability = language_of(paragraph)
        if probability < min_probability:
            unsure += len(paragraph)
        else:
            found[lang] += len(paragraph)
    if unsure:
        found[_main_spelt(found)] += unsure
    total = max(sum(found.values()), 1)
    return {lang: count / total for lang, count in found.most_common()}


def language_of(paragraph: str) -> tuple[str, float]:
    """The language of one paragraph, `code`, or "" for one of few letters; and how sure that is (0..1)."""
    if is_code(paragraph):
        return CODE, 1.0
    view = TextView(paragraph)
    if view.num_cjk >= CJK_SHARE * max(len(view.word_starts), 1):
        kana, hangul = len(_KANA.findall(paragraph)), len(_HANGUL.findall(paragraph))
        return ("ko" if 2 * hangul > view.num_cjk else "ja" if 10 * kana > view.num_cjk else "zh"), 1.0
    if sum(map(len, _LETTERS.findall(paragraph))) < MIN_LETTERS:
        return UNKNOWN, 1.0
    return identify(paragraph[:SAMPLE_CHARS])


def is_code(paragraph: str) -> bool:
    """Whether a paragraph is source code or a session of a shell: by the share of such lines, and of such marks."""
    lines = [line for line in paragraph.split("\n") if line.strip()]
    if not lines:
        return False
    marks = len(_MARKS.findall(paragraph)) / max(sum(map(len, paragraph.split())), 1)
    if marks < MIN_MARKS / 3:
        return all(_IMPORT(line) for line in lines)
    coded = sum(_CODE_LINE.match(line) is not None for line in lines) / len(lines)
    return coded >= MIN_CODE_LINES or (marks >= MIN_MARKS and coded >= MIN_CODE_LINES / 3)


def _main_spelt(found: Mapping[str, int]) -> str:
    """The commonest language that is written with spaces; none: unknown."""
    spelt = {lang: count for lang, count in found.items() if lang not in (CODE, UNKNOWN, "zh", "ja", "ko")}
    return max(spelt, key=lambda lang: spelt[lang]) if spelt else UNKNOWN


def signals(view: TextView, limits: Limits) -> Iterator[tuple[str, float]]:
    """What rules look at: share of the main language, of code and of what has no language; and of English and Chinese."""
    found = shares(view, limits["paragraph_probability"])
    written = {lang: share for lang, share in found.items() if lang not in (CODE, UNKNOWN)}
    yield "min_main_language", max(written.values(), default=0.0) / max(sum(written.values()), 1e-9) if written else 1.0
    yield "max_code", found.get(CODE, 0.0)
    yield "max_unknown", found.get(UNKNOWN, 0.0)
    yield "min_english", found.get("en", 0.0)
    yield "min_chinese", found.get("zh", 0.0)
