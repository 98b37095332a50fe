"""Clean documents a second, lianlu against datatrove, with the same four filters at the papers' values.

Gopher quality, Gopher repetition, C4 (without the terminal mark) and FineWeb, each applied to every document, one process
each, rounds interleaved; start-up and imports are not counted. The corpus is the standard library's docstrings, the READMEs of
installed packages and, where LIANLU_TEST_DATA or ../shared/data has them, Python enhancement proposals and Rust RFCs. datatrove
gets a virtual environment of its own below ~/.cache/lianlu, since its extras pin other versions. The two agree in rules and
thresholds, not in what a word is: datatrove's spaCy tokens count punctuation and line breaks, so it passes fewer documents.
Prints ratios and keeps bench/results/data.json. Run: python bench/data.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from lianlu.data.read.extract import documents, read
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.python_source import list_python
from lianlu.formats.documents import Document, read_documents, write_jsonl

ROUNDS = 3
MAX_BYTES = 4_000_000
PEER = ("datatrove[processing]==0.10.1", "spacy==3.8.18")
CACHE = Path.home() / ".cache" / "lianlu" / "datatrove"
RESULTS = Path(__file__).parent / "results" / "data.json"
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "corpora"
FAMILIES = ("gopher_quality", "gopher_repetition", "c4", "fineweb")

OURS_PROGRAM = """
import json, sys, time
from lianlu.data.rules import c4, fineweb, gopher_quality, gopher_repetition
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Thresholds, shipped
from pathlib import Path
texts = [json.loads(line)["text"] for line in Path(sys.argv[1]).read_text().splitlines()[1:]]
def through_c4(view, own):
    return c4.judge(TextView(c4.keep_lines(view, own)), own)
judges = {"gopher_quality": gopher_quality.judge, "gopher_repetition": gopher_repetition.judge,
          "c4": through_c4, "fineweb": fineweb.judge}
limits = {family: Thresholds(shipped()).of(family, "web", "", "en") for family in judges}
seconds, passed = dict.fromkeys(limits, 0.0), dict.fromkeys(limits, 0)
for text in texts:
    for family, judge in judges.items():
        began = time.perf_counter()
        verdict = judge(TextView(text), limits[family])
        seconds[family] += time.perf_counter() - began
        passed[family] += verdict is None
print(json.dumps({"seconds": seconds, "passed": passed}))
"""

PEER_PROGRAM = """
import json, sys, time
from pathlib import Path
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
filters = {"gopher_quality": GopherQualityFilter(), "gopher_repetition": GopherRepetitionFilter(),
           "c4": C4QualityFilter(filter_no_terminal_punct=False), "fineweb": FineWebQualityFilter()}
texts = [json.loads(line)["text"] for line in Path(sys.argv[1]).read_text().splitlines()[1:]]
for item in filters.values():
    item.filter(Document(text="The first call loads what is needed. It is not counted.", id="0"))
seconds, passed = dict.fromkeys(filters, 0.0), dict.fromkeys(filters, 0)
for text in texts:
    for family, item in filters.items():
        document = Document(text=text, id="x")
        began = time.perf_counter()
        verdict = item.filter(document)
        seconds[family] += time.perf_counter() - began
        passed[family] += verdict is True
print(json.dumps({"seconds": seconds, "passed": passed}))
"""


def corpus() -> list[Document]:
    """Prose about techniques, up to MAX_BYTES, from all sources in turn."""
    pages = HtmlExtractor(5.0)
    own = []
    for raw in list_python().raws:
        content = read(raw, MAX_BYTES)
        made = documents(raw, content, pages) if isinstance(content, str) else []
        own.extend(document for document in made if isinstance(document, Document) and document.domain == "docs")
    groups = [own] + [
        list(read_documents(path)) for name in ("en_peps", "en_rust_rfcs") if (path := SHARED / f"{name}.jsonl.gz").is_file()
    ]
    chosen: list[Document] = []
    for group in groups:
        room = MAX_BYTES // len(groups)
        for document in group[:: max(1, sum(len(one.text) for one in group) // room)]:
            chosen.append(document)
    return [document for document in chosen if len(document.text) > 200]


def peer_python() -> Path:
    """The interpreter of datatrove's own environment, made if it is not there."""
    python = CACHE / "bin" / "python"
    if not python.exists():
        print("making an environment for datatrove (once) ...", flush=True)
        venv.create(CACHE, with_pip=True)
    if subprocess.run([python, "-c", "import datatrove, spacy"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
    return python


def measured(python: Path | str, program: str, path: Path) -> dict[str, Any]:
    """One round in one process on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", program, path], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"a measured process failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run the rounds, print the ratios, keep the figures."""
    chosen = corpus()
    size = sum(len(document.text.encode()) for document in chosen)
    python = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.jsonl"
        write_jsonl(path, chosen)
        rounds = [(measured(sys.executable, OURS_PROGRAM, path), measured(python, PEER_PROGRAM, path)) for _ in range(ROUNDS)]
    result = summary(rounds, len(chosen), size)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{len(chosen)} documents, {size / 1e6:.2f} MB, {ROUNDS} rounds, medians, one core each")
    print(f"{'filter':20}{'lianlu MB/s':>14}{'datatrove MB/s':>16}{'ratio':>8}   passed by lianlu / datatrove")
    for name, row in result["filters"].items():
        print(f"{name:20}{row['lianlu_mb_per_s']:14.2f}{row['datatrove_mb_per_s']:16.2f}{row['ratio']:8.1f}   {row['passed']}")
    print(f"all four: {result['lianlu_documents_per_s']:.0f} against {result['datatrove_documents_per_s']:.0f} documents/s")


def summary(rounds: list[tuple[dict[str, Any], dict[str, Any]]], count: int, size: int) -> dict[str, Any]:
    """Medians over rounds, a filter and all four together."""
    result: dict[str, Any] = {
        "machine": platform.platform(),
        "rounds": len(rounds),
        "documents": count,
        "bytes": size,
        "peer": PEER,
    }
    rows = {}
    for name in (*FAMILIES, "all"):
        families = FAMILIES if name == "all" else (name,)
        ours, theirs = (statistics.median(sum(pair[side]["seconds"][f] for f in families) for pair in rounds) for side in (0, 1))
        passed = "" if name == "all" else f"{rounds[0][0]['passed'][name]} / {rounds[0][1]['passed'][name]}"
        rows[name] = {
            "lianlu_mb_per_s": size / ours / 1e6,
            "datatrove_mb_per_s": size / theirs / 1e6,
            "ratio": theirs / ours,
            "passed": passed,
        }
        if name == "all":
            result |= {
                "lianlu_documents_per_s": count / ours,
                "datatrove_documents_per_s": count / theirs,
                "ratio": theirs / ours,
            }
    return {**result, "filters": rows, "seconds": [[side["seconds"] for side in pair] for pair in rounds]}


if __name__ == "__main__":
    main()
