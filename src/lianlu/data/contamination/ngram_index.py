"""An index of evaluation items by their word n-grams, and the search for them in a text (used by `decontaminate`).

Texts are compared as `TextView.tokens` gives them: lower case, no punctuation, each CJK character alone. An item is covered
by its windows of 13 tokens, or of 20 where it is CJK (GPT-3, arXiv 2005.14165, appendix C, takes 13 words). An item shorter
than a window is searched as a whole if it has 6 words (10 CJK characters); below that it says too little to be searched.
A window that more than 10 items of one task share is a template of the task and no evidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import xxhash

from lianlu.core.errors import DataError
from lianlu.data.contamination.ngram_table import Hashes, Longs, Match, NgramTable, Rows, Sums
from lianlu.data.read.normalise import normalise
from lianlu.data.rules.textview import TextView
from lianlu.formats.documents import Document


@dataclass(frozen=True)
class Windows:
    """Tokens of a window and of the shortest item that is searched (words, CJK characters); items that may share a window."""

    words: int = 13
    chars: int = 20
    min_words: int = 6
    min_chars: int = 10
    max_items: int = 10


@dataclass(frozen=True)
class Part:
    """A part of an item (`question`, `answer`, ...); `is_short`: shorter than a window, so that it is found as a whole only."""

    task: str
    item: str
    part: str
    num_tokens: int
    num_windows: int
    is_short: bool


@dataclass(frozen=True)
class Hit:
    """A part of an item that stands in a text.

    `overlap` is the share of its tokens that lie in a window that was found (0..1); characters `start` to `end` of the text
    are the longest run that both have in common, `text` is that run.
    """

    part: Part
    overlap: float
    start: int
    end: int
    text: str


def names_of(document: Document) -> tuple[str, str, str]:
    """Task, item (else the id) and part (else question) of an item as a document. Raises: DataError if it names no task."""
    meta = document.meta
    if not meta.get("task"):
        raise DataError(f"item {document.id} has no meta.task", hint="name the output of the eval-items stage")
    return str(meta["task"]), str(meta.get("item") or document.id), str(meta.get("part") or "question")


class NgramIndex:
    """Evaluation items, ready to be searched for; `unsearched` counts the parts of each task that cannot be.

    Items are documents, named as `names_of` says. Raises: DataError for one without a task.
    """

    def __init__(self, documents: Iterable[Document], windows: Windows = Windows()) -> None:
        self._words: dict[str, int] = {}
        self.parts: list[Part] = []
        self.unsearched = Counter[str]()
        rows: defaultdict[int, list[Rows]] = defaultdict(list)
        for document in documents:
            self._add(document, windows, rows)
        items, tasks = _numbers([(part.task, part.item) for part in self.parts]), _numbers([part.task for part in self.parts])
        self._tables = [NgramTable(size, rows[size], items, tasks, windows.max_items) for size in sorted(rows)]
        self._num_windows = np.zeros(len(self.parts), dtype=np.int64)
        for table in self._tables:
            self._num_windows += np.bincount(table.parts, minlength=len(self.parts))
        self.unsearched.update(part.task for part, count in zip(self.parts, self._num_windows, strict=True) if not count)

    def _add(self, document: Document, windows: Windows, rows: defaultdict[int, list[Rows]]) -> None:
        task, item, part = names_of(document)
        view = TextView(normalise(document.text))
        tokens = view.tokens()
        full, least = (windows.chars, windows.min_chars) if view.script == "cjk" else (windows.words, windows.min_words)
        if len(tokens) < least:
            self.unsearched[task] += 1
            return
        for token in set(tokens).difference(self._words):
            self._words[token] = xxhash.xxh3_64_intdigest(token.encode())
        size = min(full, len(tokens))
        begin = full if size == full else min(least, size)
        sums, count = Sums(self._hashes(tokens)), len(tokens) - size + 1
        rows[begin].append(Rows(len(self.parts), size, sums.windows(begin)[:count], sums.windows(size)))
        self.parts.append(Part(task, item, part, len(tokens), count, size < full))

    def complete_parts(self) -> list[Part]:
        """The parts that all windows of are searched for: none is a template."""
        wanted = np.array([part.num_windows for part in self.parts], dtype=np.int64)
        return [self.parts[number] for number in np.flatnonzero(self._num_windows == wanted)]

    def _hashes(self, tokens: list[str]) -> Hashes:
        """The hash of each token; 0 for those that no item has."""
        return np.fromiter(map(self._words.get, tokens, repeat(0)), np.uint64, len(tokens))

    def search(self, text: str) -> list[Hit]:
        """What of the items stands in a text, in the order of the items."""
        view = TextView(text)
        sums = Sums(self._hashes(view.tokens()))
        found: defaultdict[int, list[Match]] = defaultdict(list)
        for table in self._tables:
            for part, match in table.find(sums):
                found[part].append(match)
        spans = view.token_spans() if found else []
        return [_hit(self.parts[number], found[number], text, spans) for number in sorted(found)]


def _numbers(names: Sequence[Hashable]) -> Longs:
    """Equal numbers for equal names."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=np.int64)


def _hit(part: Part, matches: list[Match], text: str, spans: list[tuple[int, int]]) -> Hit:
    covered = np.zeros(part.num_tokens, dtype=np.bool_)
    for place, _, size in matches:
        covered[place : place + size] = True
    first, last = _longest_run(matches)
    start, end = spans[first][0], spans[last][1]
    return Hit(part, float(covered.mean()), start, end, text[start:end])


def _longest_run(matches: list[Match]) -> tuple[int, int]:
    """First and last token, in the text, of the longest run of windows that touch in both; the first of equals."""
    runs: list[tuple[int, int]] = []
    ahead: int | None = None
    for match in sorted(matches, key=lambda match: (match.start - match.place, match.start)):
        if match.start - match.place == ahead and match.start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], match.start + match.size)
        else:
            runs.append((match.start, match.start + match.size))
        ahead = match.start - match.place
    begin, end = max(runs, key=lambda run: (run[1] - run[0], -run[0]))
    return begin, end - 1
