"""A corpus of any size out of a small one, with duplicates whose pairs are known.

The texts are those of `corpora/` below LIANLU_TEST_DATA or ../shared/data: English and Chinese technical documents, Chinese
prose, a repository of Python. Each copy after the first exchanges words for others of the same length, and Chinese characters
for others about as common, by a permutation of its own that spares the commonest of all. So lengths, lines, repetitions and
frequencies stay as they are, while hardly a run of five words is left: copies are no duplicates. In each, some documents are
repeated: exactly (but for white space), or with so many units replaced that the Jaccard similarity of their 5-grams is
anything from 0.5 to 0.98.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "corpora"
CORPORA = {"en_peps": "docs", "en_rust_rfcs": "web", "zh_lctt": "web", "zh_modern_prose": "web", "code_thealgorithms": "code"}
"""Names of the corpora, and what sort of text each is said to be: rules for web pages cost the most."""
ENGLISH = ("en_peps", "en_rust_rfcs")
EXACT_SHARE, NEAR_SHARE = 0.015, 0.015
PARTS = 8
_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_SPARED_WORDS, _SPARED_HAN, _HAN_GROUP = 150, 60, 300
Row = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """A document that repeats another one: the ids of both, and their similarity (1: exact)."""

    id: str
    of: str
    jaccard: float


def grams(text: str) -> set[tuple[str, ...]]:
    """The 5-grams of a text's words (Chinese: characters), by the book."""
    units = _UNIT.findall(text.lower())
    return {tuple(units[n : n + 5]) for n in range(max(len(units) - 4, 1))}


def jaccard(a: str, b: str) -> float:
    """Similarity of two texts, 0..1."""
    one, other = grams(a), grams(b)
    return len(one & other) / len(one | other)


def texts(name: str) -> list[Row]:
    """The rows of one corpus."""
    with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@cache
def base() -> list[Row]:
    """All documents, mixed."""
    rows = [{**row, "source": name, "domain": domain} for name, domain in CORPORA.items() for row in texts(name)]
    for row in rows:
        row.pop("license", None)
        if row["domain"] == "code":
            row["path"] = row["id"].split("Python/", 1)[-1]
    random.Random(0).shuffle(rows)
    return rows


@cache
def _exchangeable() -> tuple[list[list[str]], list[list[str]]]:
    """Groups of words (by length) and of Chinese characters (by frequency) that may stand for each other."""
    words: Counter[str] = Counter()
    han: Counter[str] = Counter()
    for row in base():
        words.update(word for word in row["text"].split(" ") if word.isalpha() and word.islower() and word.isascii())
        han.update(_HAN.findall(row["text"]))
    by_length: defaultdict[int, list[str]] = defaultdict(list)
    for word, _ in words.most_common()[_SPARED_WORDS:]:
        by_length[len(word)].append(word)
    ranked = [character for character, _ in han.most_common()[_SPARED_HAN:]]
    return list(by_length.values()), [ranked[start : start + _HAN_GROUP] for start in range(0, len(ranked), _HAN_GROUP)]


def altered(copy: int) -> Callable[[str], str]:
    """What the texts of a copy become; those of copy 0 stay."""
    if copy == 0:
        return str
    rng = random.Random(copy)
    words, han = (
        {old: new for group in groups for old, new in zip(group, rng.sample(group, len(group)), strict=True)}
        for groups in _exchangeable()
    )
    table = str.maketrans(han)

    def change(text: str) -> str:
        text = " ".join([words.get(word, word) for word in text.split(" ")])
        return text if text.isascii() else text.translate(table)

    return change


def repeated_nearly(text: str, wanted: float, rng: random.Random) -> str:
    """The text with so many of its words and characters replaced that the similarity comes out near `wanted`."""
    kept = 2 * wanted / (1 + wanted)
    share = 1 - kept ** (1 / 5)
    words, han = ([unit for group in groups for unit in group] for groups in _exchangeable())
    common = han[:1000]
    spelt = [rng.choice(words) if rng.random() < share and word.isalnum() else word for word in text.split(" ")]
    made = " ".join(spelt)
    return _HAN.sub(lambda found: rng.choice(common) if rng.random() < share else found[0], made)


def documents(num_bytes: int, planted: list[Planted]) -> Iterator[Row]:
    """Documents of so many bytes in all; the pairs go to `planted`."""
    rows, size = base(), 0
    stride = max(1, sum(len(row["text"].encode()) for row in rows) // num_bytes)
    for copy in itertools.count():
        rng, change = random.Random(1000 + copy), altered(copy)
        repeats = []
        for row in rows[copy % stride :: stride]:
            made = {**row, "id": f"{row['id']}#{copy}", "text": change(row["text"])}
            kind = rng.random()
            if kind < EXACT_SHARE + NEAR_SHARE:
                repeats.append(_repeat(made, kind < EXACT_SHARE, rng, planted))
            yield made
            size += len(made["text"].encode())
            if size >= num_bytes:
                break
        yield from repeats
        size += sum(len(row["text"].encode()) for row in repeats)
        if size >= num_bytes:
            return


def _repeat(row: Row, exact: bool, rng: random.Random, planted: list[Planted]) -> Row:
    text = row["text"].replace("\n\n", "\n\n\n") if exact else repeated_nearly(row["text"], rng.uniform(0.5, 0.98), rng)
    own = {**row, "id": f"{row['id']}~again", "text": text}
    planted.append(Planted(own["id"], row["id"], 1.0 if exact else round(jaccard(row["text"], text), 4)))
    return own


def write(folder: Path, num_bytes: int) -> tuple[list[Path], list[Planted]]:
    """Write `PARTS` files of about equal size; returns them and the planted pairs."""
    planted: list[Planted] = []
    paths = [folder / f"part-{number}.jsonl" for number in range(PARTS)]
    stream = documents(num_bytes, planted)
    for number, path in enumerate(paths):
        size = 0
        with path.open("w", encoding="utf-8") as file:
            for row in stream:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                size += len(row["text"].encode())
                if size >= num_bytes / PARTS and number < PARTS - 1:
                    break
    return paths, planted


def sample(paths: Sequence[Path], num_bytes: int, planted: Sequence[Planted], sources: Sequence[str]) -> list[Row]:
    """So many bytes of the documents of some sources, evenly over their lengths, with the duplicates planted of them."""
    rows = [row for path in paths for row in read(path) if row["source"] in sources]
    repeats = {pair.id: pair.of for pair in planted}
    firsts = sorted((row for row in rows if row["id"] not in repeats), key=lambda row: len(row["text"]))
    total = sum(len(row["text"].encode()) for row in firsts)
    step = max(total / num_bytes, 1)
    chosen = {firsts[int(n * step)]["id"] for n in range(int(len(firsts) / step))}
    return [row for row in rows if row["id"] in chosen or repeats.get(row["id"]) in chosen]


def read(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def save(path: Path, rows: Sequence[Row | Planted]) -> Path:
    """Write rows as JSONL."""
    values = (asdict(row) if isinstance(row, Planted) else row for row in rows)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path
