"""The clean stage in megabytes a second on one core, whole and operator by operator, beside datatrove, data-juicer and rensa.

Corpora are multiplied to `--bytes` with planted duplicates (`corpus.py`). Two measurements:

1. The same documents and rules for all tools, in rounds, one after the other, each one process on one thread. The peers are slow,
   so this is a sample of the English documents, even over their lengths. Processor time is counted, without start-up. The tools
   agree in rules and thresholds, not in what a word is; data-juicer has other filters that look at the same things.
   `near_dedup` is a whole run (data-juicer's without reading and writing), `near_dedup operators` lianlu's without reading,
   writing and reporting. `all rules` adds up what a corpus needs; `clean stage` is lianlu's whole stage with these rules, from
   JSONL to Parquet with every record.
2. The whole stage with all of its usual rules on all cores, at a quarter, a half and all of the bytes: time, memory, disk,
   each operator, and which planted duplicates were found.

Prints tables and keeps bench/results/data.json. Run: python bench/data.py [--bytes 1000000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import corpus
import procfs
from asking import OURS, Tool, tools

RESULTS = Path(__file__).parent / "results" / "data.json"
ROUNDS = 3
PEERS = ("datatrove", "data_juicer", "rensa")
SAMPLE_BYTES = 8_000_000
FOUR = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
NEAREST = ("gopher_quality", "gopher_repetition", "line_breaks", "odd_characters")
"""lianlu's families that look at what data-juicer's filters look at."""
SAME_RULES = [*FOUR, "exact_dedup", "near_dedup", "pii"]
MIN_JACCARD = 0.7
Figures = dict[str, Any]


def rounds(sample: Path, folder: Path, count: int) -> tuple[dict[str, dict[str, list[float]]], Figures]:
    """Seconds of every tool for every operator, round by round; and what each lets pass or removes."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    outcome: Figures = {}
    with tools(PEERS, warm=sample) as opened:
        for number in range(count):
            for tool in opened:
                began = time.monotonic()
                for name, spent, found in asked(tool, sample, folder / f"{tool.name}-{number}"):
                    seconds[tool.name][name].append(spent)
                    outcome.setdefault(tool.name, {}).update(found)
                print(f"  round {number + 1}: {tool.name}, {time.monotonic() - began:.0f} s", flush=True)
    return seconds, outcome


def asked(tool: Tool, sample: Path, folder: Path) -> Iterator[tuple[str, float, Figures]]:
    """Every operator of one tool once: name, seconds, and what came of it."""
    if tool.name != "rensa":
        found = tool.ask("filters", documents=sample)
        for name, spent in found["seconds"].items():
            yield name, spent, {"passed": found["passed"]}
        yield "pii", tool.ask("pii", documents=sample)["seconds"]["pii"], {}
    found = tool.ask("near_dedup", documents=sample, folder=folder / "near")
    for name, spent in found["seconds"].items():
        yield name, spent, {"removed": len(found["removed"])}
    if tool.name == OURS:
        yield "clean stage", tool.ask("clean", folder=folder / "all", source=sample, rules=SAME_RULES, workers=1)["cpu_s"], {}


def beside(seconds: dict[str, dict[str, list[float]]], num_bytes: int) -> Figures:
    """MB/s by operator and tool, and ratios; the median over rounds of what belongs together."""

    def rate(tool: str, names: Sequence[str]) -> float | None:
        own = seconds.get(tool, {})
        if not names or any(name not in own for name in names):
            return None
        return num_bytes / statistics.median(sum(spent) for spent in zip(*(own[name] for name in names), strict=True)) / 1e6

    own_of_juicer = tuple(name for name in seconds.get("data_juicer", {}) if name not in ("pii", "near_dedup"))
    more = ("pii", "near_dedup")
    questions: dict[str, dict[str, tuple[str, ...]]] = {
        **{name: {"datatrove": (name,)} for name in FOUR},
        "four papers' filters": {OURS: FOUR, "datatrove": FOUR},
        "data-juicer's filters": {OURS: NEAREST, "data_juicer": own_of_juicer},
        "pii": {"datatrove": ("pii",), "data_juicer": ("pii",)},
        "near_dedup": dict.fromkeys(PEERS, ("near_dedup",)),
        "near_dedup operators": dict.fromkeys(PEERS, ("near_dedup",)),
        "all rules, datatrove's": {OURS: (*FOUR, *more), "datatrove": (*FOUR, *more)},
        "all rules, data-juicer's": {OURS: (*NEAREST, *more), "data_juicer": (*own_of_juicer, *more)},
        "all rules, clean stage": {OURS: ("clean stage",), "datatrove": (*FOUR, *more)},
    }
    table = {}
    for name, wanted in questions.items():
        rates = {tool: rate(tool, names) for tool, names in {OURS: (name,), **wanted}.items()}
        ours = rates[OURS]
        ratios = {tool: ours / theirs for tool, theirs in rates.items() if ours and theirs and tool != OURS}
        table[name] = {"mb_per_core_s": rates, "ratio": ratios}
    return table


class Watch:
    """The peaks of a process and of those it starts, looked at five times a second: memory of their own, no mapped files."""

    def __init__(self, pid: int) -> None:
        self.main_bytes = self.workers_bytes = 0
        self._pid, self._end = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.2):
            self.main_bytes = max(self.main_bytes, _own(self._pid))
            self.workers_bytes = max(self.workers_bytes, sum(map(_own, procfs.children(self._pid))))


def _own(pid: int) -> int:
    try:
        return procfs.own_bytes(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def whole(files: Sequence[Path], folder: Path) -> Figures:
    """The clean stage with its usual rules on these files, by a process of its own."""
    source, out = folder / "source", folder / "out"
    source.mkdir(parents=True)
    for file in files:
        (source / file.name).hardlink_to(file)
    tool = Tool(OURS, folder / "log")
    with Watch(tool.pid) as watch:
        found = tool.ask("clean", folder=out, source=source)
    tool.close()
    sizes = {part: sum(f.stat().st_size for f in out.rglob("*") if f.is_file() and _part(f, out) == part) for part in DISK}
    rows = [row for file in files for row in corpus.read(file)]
    num_bytes, count = sum(len(row["text"].encode()) for row in rows), len(rows)
    return {
        "bytes": num_bytes,
        "documents": count,
        "kept_documents": found["figures"]["documents"],
        "wall_s": found["wall_s"],
        "cpu_s": found["cpu_s"],
        "mb_per_core_s": num_bytes / found["cpu_s"] / 1e6,
        "scoring_wall_s": num_bytes / found["figures"]["megabytes_per_s"] / 1e6,
        "main_peak_bytes": watch.main_bytes,
        "workers_peak_bytes": watch.workers_bytes,
        "disk_bytes": sizes,
        "operators": operators(found["costs"]),
    }


DISK = ("scored", "kept", "index, decisions, logs")


def _part(file: Path, out: Path) -> str:
    if file.parent.name == "scored":
        return "scored"
    return "kept" if file.parent == out and file.suffix == ".parquet" else "index, decisions, logs"


def operators(costs: dict[str, dict[str, float]]) -> Figures:
    """Seconds (by the clock, of all workers) and MB/s of each operator of the stage, the costliest first."""
    ordered = sorted(costs.items(), key=lambda item: -item[1]["seconds"])
    return {
        name: {"seconds": own["seconds"], "mb_per_core_s": own["bytes"] / max(own["seconds"], 1e-9) / 1e6 or None}
        for name, own in ordered
    }


def recalled(planted: Sequence[corpus.Planted], files: Sequence[Path], out: Path) -> Figures:
    """Of the planted pairs that no rule for single documents took: how many were found, and how many should not have been."""
    present = {row["id"] for file in files for row in corpus.read(file)}
    records = {row["id"]: row for row in corpus.read(out / "rejected.jsonl")}
    found: Figures = {}
    for pair in planted:
        own = [records.get(name, {"step": ""}) for name in (pair.id, pair.of)]
        if not {pair.id, pair.of} <= present or any(row["step"] not in ("", *REPEATS, "line_dedup") for row in own):
            continue
        group = "exact" if pair.jaccard == 1 else f"near, at least {MIN_JACCARD}" if pair.jaccard >= MIN_JACCARD else "near, less"
        count = found.setdefault(group, {"pairs": 0, "found": 0})
        count["pairs"] += 1
        count["found"] += any(row["step"] in REPEATS for row in own)
    return found


REPEATS = ("exact_dedup", "near_dedup")


def sizes(files: Sequence[Path], planted: Sequence[corpus.Planted], folder: Path) -> tuple[list[Figures], Figures]:
    """The whole stage at a quarter, a half and all of the files; and the planted duplicates found in the last."""
    made = []
    for number in (len(files) // 4, len(files) // 2, len(files)):
        place = folder / f"{number}"
        made.append(whole(files[:number], place))
        row = made[-1]
        print(f"  {row['bytes'] / 1e6:.0f} MB: {row['wall_s']:.0f} s, {row['mb_per_core_s']:.2f} MB/s per core", flush=True)
    return made, recalled(planted, files, place / "out")


def growth(made: Sequence[Figures]) -> Figures:
    """How time grows with the input. Memory is in the sizes; what a document adds to it is too little to be seen there."""
    first, last = made[0], made[-1]
    return {"cpu_exponent": math.log(last["cpu_s"] / first["cpu_s"]) / math.log(last["bytes"] / first["bytes"])}


def show(result: Figures) -> None:
    """Print what was found."""
    print(f"\nsample of {result['sample']['documents']} documents, {result['sample']['bytes'] / 1e6:.2f} MB, MB/s on one core")
    names = [OURS, *PEERS]
    print(f"{'':26}" + "".join(f"{name:>13}" for name in names) + "   ratios")
    for name, row in result["beside"].items():
        cells = "".join(f"{rate:13.2f}" if (rate := row["mb_per_core_s"].get(tool)) else f"{'-':>13}" for tool in names)
        print(f"{name:26}{cells}   " + ", ".join(f"{ratio:.1f}x {tool}" for tool, ratio in row["ratio"].items()))
    print(f"\n{'whole stage':>12}{'documents':>11}{'MB/s core':>11}{'wall s':>9}{'main MB':>9}{'workers MB':>12}{'disk MB':>9}")
    for row in result["sizes"]:
        print(f"{row['bytes'] / 1e6:9.0f} MB{row['documents']:11}{row['mb_per_core_s']:11.2f}{row['wall_s']:9.1f}"
              f"{row['main_peak_bytes'] / 1e6:9.0f}{row['workers_peak_bytes'] / 1e6:12.0f}"
              f"{sum(row['disk_bytes'].values()) / 1e6:9.0f}")  # fmt: skip
    print(f"time ~ bytes^{result['growth']['cpu_exponent']:.2f}")
    print("operators, MB/s: " + ", ".join(f"{name} {own['mb_per_core_s']:.1f}" for name, own in
          result["sizes"][-1]["operators"].items() if own["mb_per_core_s"]))  # fmt: skip
    for name, count in result["planted"].items():
        print(f"planted, {name}: {count['found']} of {count['pairs']} removed")


def main() -> None:
    """Make the corpus, measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    num_bytes = options.bytes
    with tempfile.TemporaryDirectory(prefix="lianlu-bench-") as name:
        folder = Path(name)
        files, planted = corpus.write(folder, num_bytes)
        print(f"{num_bytes / 1e6:.0f} MB of documents written, {len(planted)} planted duplicates", flush=True)
        chosen = corpus.sample(files, min(SAMPLE_BYTES, num_bytes // 20), planted, corpus.ENGLISH)
        sample_bytes = sum(len(row["text"].encode()) for row in chosen)
        seconds, outcome = rounds(corpus.save(folder / "sample.jsonl", chosen), folder, options.rounds)
        made, found = sizes(files, planted, folder / "sizes")
    result = {
        "machine": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "bytes": num_bytes,
        "rounds": options.rounds,
        "sample": {"bytes": sample_bytes, "documents": len(chosen)},
        "beside": beside(seconds, sample_bytes),
        "seconds": seconds,
        "outcome": outcome,
        "sizes": made,
        "growth": growth(made),
        "planted": found,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
