"""How much of an article extraction finds, and how much else: token F1 against the articles that people would keep.

The pages are Mozilla's readability test set (`corpora/html_readability.tar.gz` below LIANLU_TEST_DATA or ../shared/data): crawled
pages, each with its expected article. Tokens are words, and single characters of Chinese, Japanese and Korean; F1 counts them as
a multiset, a page at a time. `trafilatura alone` is its default call, `resiliparse alone` its call for main content; the others
go through lianlu's child process, as in the clean stage, and so bear its cost. Seconds are of processor time, the child's
included. Prints a table and keeps bench/results/extraction.json. Run: python bench/extraction.py
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import procfs
import regex
import trafilatura

from lianlu.core.errors import MissingExtraError
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.rules.thresholds import Verdict

RESULTS = Path(__file__).parent / "results" / "extraction.json"
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "corpora"
LIMIT_S = 20.0
_TOKEN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]|[\p{L}\p{N}]+")


def pages(archive: Path) -> dict[str, tuple[bytes, str]]:
    """Each page with its expected article as text: what a browser would show of it."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                name, _, part = member.name.rpartition("/")
                found.setdefault(name, {})[part] = file.read()
    return {name: (parts["source.html"], shown(parts["expected.html"])) for name, parts in sorted(found.items())}


def shown(page: bytes) -> str:
    """All text of a page, a space at every tag."""
    from lxml import html

    tree = html.fromstring(b"<div>" + page + b"</div>", parser=html.HTMLParser(encoding="utf-8"))
    for hidden in tree.xpath("//script|//style|//noscript"):
        hidden.drop_tree()
    return " ".join(tree.itertext())


def scores(text: str, expected: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of tokens."""
    found, wanted = Counter(_TOKEN.findall(text.lower())), Counter(_TOKEN.findall(expected.lower()))
    shared = (found & wanted).total()
    precision, recall = shared / max(found.total(), 1), shared / max(wanted.total(), 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def cpu_seconds() -> float:
    """Processor time of this process and of those it has started."""
    return time.process_time() + sum(map(procfs.cpu_seconds, procfs.children(os.getpid())))


def measured(extract: Callable[[bytes], str], corpus: dict[str, tuple[bytes, str]]) -> dict[str, float]:
    """Means over all pages, pages without any text, and pages a second."""
    extract(b"<html><body><p>warm up</p></body></html>")
    began = cpu_seconds()
    texts = {name: extract(page) for name, (page, _) in corpus.items()}
    seconds = cpu_seconds() - began
    rows = [scores(texts[name], expected) for name, (_, expected) in corpus.items()]
    precision, recall, f1 = (statistics.mean(column) for column in zip(*rows, strict=True))
    empty = sum(not text.strip() for text in texts.values())
    median = statistics.median(row[2] for row in rows)
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "f1_median": median,
        "empty": empty,
        "pages_per_s": len(rows) / seconds,
        "html_mb_per_s": sum(len(page) for page, _ in corpus.values()) / seconds / 1e6,
        "text_share": sum(len(text.encode()) for text in texts.values()) / sum(len(page) for page, _ in corpus.values()),
    }


def through(name: str) -> Callable[[bytes], str]:
    """lianlu's own way to extract, by one of its extractors; a rejection gives no text."""
    extractor = HtmlExtractor(LIMIT_S, name)  # type: ignore[arg-type]

    def extract(page: bytes) -> str:
        text = extractor.extract(page)
        return "" if isinstance(text, Verdict) else text

    return extract


def main() -> None:
    """Measure every extractor that is installed."""
    corpus = pages(SHARED / "html_readability.tar.gz")
    ways: dict[str, Callable[[bytes], str]] = {"trafilatura alone": lambda page: trafilatura.extract(page) or ""}
    with contextlib.suppress(ImportError):
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding

        ways["resiliparse alone"] = lambda page: extract_plain_text(bytes_to_str(page, detect_encoding(page)), main_content=True)
    for label, name in (
        ("lianlu (trafilatura)", "trafilatura"),
        ("lianlu (resiliparse)", "resiliparse"),
        ("lianlu (magic-html)", "magic-html"),
    ):
        try:
            ways[label] = through(name)
        except MissingExtraError as error:
            print(f"left out: {error.message}")
    table = {label: measured(extract, corpus) for label, extract in ways.items()}
    print(f"{len(corpus)} pages{'':14}precision  recall      F1  median F1  empty  pages/s")
    for label, row in table.items():
        print(f"{label:22} {row['precision']:10.3f} {row['recall']:7.3f} {row['f1']:7.3f} {row['f1_median']:10.3f} "
              f"{row['empty']:6} {row['pages_per_s']:8.1f}")  # fmt: skip
    machine = {
        "python": platform.python_version(),
        "trafilatura": trafilatura.__version__,
        "cpu": platform.processor() or platform.machine(),
    }
    RESULTS.write_text(json.dumps({"pages": len(corpus), "machine": machine, "results": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
