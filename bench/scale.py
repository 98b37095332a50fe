"""What the clean stage costs for a terabyte and for a hundred, reckoned from what was measured; no figure is typed by hand.

Reads bench/results/data.json (python bench/data.py) and extraction.json (python bench/extraction.py), and writes the part of
docs/scale.md between its two marks. Pages of a crawl are Common Crawl's of December 2024: 2.64 billion pages, 394 TiB
(its announcement of CC-MAIN-2024-51); about 75 TB of compressed WARC (arXiv 2404.09770). Everything is taken to grow with the
bytes of text, as the measurement at three sizes says it does. Run: python bench/scale.py
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- made by bench/scale.py -->", "<!-- end of what bench/scale.py makes -->"
CRAWL_PAGES, CRAWL_HTML_BYTES, CRAWL_WARC_BYTES = 2.64e9, 394 * 2**40, 75e12
MEMORY_BYTES = 64e9
"""Memory that the process that compares may take on one machine."""
CORES = (64, 1024)
MEMORY_PER_DOCUMENT = 64
"""Bytes at most, as a test holds (tests/unit/data/test_flat_memory.py): a whole process moves by more than its documents take."""


@dataclass(frozen=True)
class Rates:
    """What one core does, and what one byte or document takes."""

    html_bytes_per_s: float
    text_share: float
    text_bytes_per_s: float
    alone_s_per_byte: float
    scored_share: float
    kept_share: float
    memory_per_document: float
    text_bytes_per_document: float

    @staticmethod
    def read(data: dict[str, Any], extraction: dict[str, Any]) -> Rates:
        """From the results of the measurements: those of the largest size."""
        whole, pages = data["sizes"][-1], extraction["results"]["lianlu (trafilatura)"]
        return Rates(
            pages["html_mb_per_s"] * 1e6,
            pages["text_share"],
            whole["mb_per_core_s"] * 1e6,
            max(whole["wall_s"] - whole["scoring_wall_s"], 0) / whole["bytes"],
            whole["disk_bytes"]["scored"] / whole["bytes"],
            whole["disk_bytes"]["kept"] / whole["bytes"],
            MEMORY_PER_DOCUMENT,
            whole["bytes"] / whole["documents"],
        )


@dataclass(frozen=True)
class Job:
    """An input: bytes as they lie on disk, whether they are compressed WARC (else text), and the machines' cores."""

    name: str
    num_bytes: float
    is_warc: bool
    cores: int


def reckoned(job: Job, rates: Rates) -> dict[str, str]:
    """The rows of the table for one job."""
    html = job.num_bytes * CRAWL_HTML_BYTES / CRAWL_WARC_BYTES if job.is_warc else 0.0
    text = html * rates.text_share if job.is_warc else job.num_bytes
    documents = job.num_bytes * CRAWL_PAGES / CRAWL_WARC_BYTES if job.is_warc else text / rates.text_bytes_per_document
    extract_s, score_s = html / rates.html_bytes_per_s, text / rates.text_bytes_per_s
    memory, alone_s = documents * rates.memory_per_document, text * rates.alone_s_per_byte
    many_s = (extract_s + score_s) / job.cores
    partitions = max(1, math.ceil(memory / MEMORY_BYTES), math.ceil(alone_s / many_s))
    moved = job.num_bytes + text * (2 * rates.scored_share + rates.kept_share)
    return {
        "documents": f"{documents / 1e6:,.0f} million",
        "text after extraction": size(text),
        "core hours: extraction": f"{extract_s / 3600:,.0f}",
        "core hours: everything else": f"{score_s / 3600:,.0f}",
        "cores": f"{job.cores:,}",
        "hours by the clock": f"{(many_s + alone_s / partitions) / 3600:,.1f}",
        "hours in one process (decide, compare, write), in all": f"{alone_s / 3600:,.1f}",
        "memory of that process, without partitions": size(memory),
        "partitions": f"{partitions:,}",
        "disk: documents and scores": size(text * rates.scored_share),
        "disk: what is kept": size(text * rates.kept_share),
        "read and written, in all": size(moved),
        "read and written, MB/s": f"{moved / (many_s + alone_s / partitions) / 1e6:,.0f}",
        "saturates first": first(memory, alone_s, many_s),
    }


def first(memory: float, alone_s: float, many_s: float) -> str:
    """What stops a single partition from being enough, or what most time goes to."""
    if memory > MEMORY_BYTES and memory / MEMORY_BYTES > alone_s / many_s:
        return "memory of the comparing process"
    return "the one process that compares" if alone_s > many_s else "cores"


def size(num_bytes: float) -> str:
    """Bytes for people."""
    power = min(max(int(math.log10(max(num_bytes, 1)) // 3), 0), 5)
    return f"{num_bytes / 1000**power:,.1f} {['bytes', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}"


def section(data: dict[str, Any], extraction: dict[str, Any]) -> str:
    """The part of the page."""
    rates = Rates.read(data, extraction)
    jobs = [
        Job(f"{size(num_bytes)} of {kind}", num_bytes, kind == "WARC", cores)
        for kind in ("WARC", "text")
        for num_bytes, cores in zip((1e12, 100e12), CORES, strict=True)
    ]
    columns = [reckoned(job, rates) for job in jobs]
    rows = [f"| {name} | " + " | ".join(column[name] for column in columns) + " |" for name in columns[0]]
    documents, alone = size(data["bytes"]), rates.alone_s_per_byte * 1e9
    measured = (
        f"Measured on {data['cores']} cores with {documents} of documents: extraction {rates.html_bytes_per_s / 1e6:.1f} MB of\n"
        f"HTML a second on one core, of which {100 * rates.text_share:.1f} % is text; everything else\n"
        f"{rates.text_bytes_per_s / 1e6:.2f} MB of text a second on one core; in one process alone {alone:.0f} s a GB;\n"
        f"{rates.scored_share:.2f} bytes of documents and scores on disk a byte of text, {rates.kept_share:.2f} kept;\n"
        f"{rates.memory_per_document:.0f} bytes of memory a document at most in the process that compares."
    )
    if data["bytes"] < 1e9:
        measured += f"\n**A trial run of {documents} on a machine in use: not to be relied on.**"
    head = "| | " + " | ".join(job.name for job in jobs) + " |\n|---|" + "---|" * len(jobs)
    return "\n\n".join([BEGIN, measured, "\n".join([head, *rows]), END])


def main() -> None:
    """Write the part anew, and print it."""
    data, extraction = (json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in ("data", "extraction"))
    made, page = section(data, extraction), PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + made + rest.partition(END)[2], encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
