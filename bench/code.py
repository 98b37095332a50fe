"""What the rules for code find in real repositories: imports resolved, order kept, tiers, licences, MB/s of each operator.

Repositories are installed packages with a structure of imports, the folders named on the command line, and, where
LIANLU_TEST_DATA or ../shared/data has it, a repository of Python algorithms. grimp's imports of the packages are the
reference for Python. One process. Prints figures and keeps bench/results/code.json. Run: python bench/code.py [FOLDER ...]
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grimp
import numpy as np

from lianlu.data.code import quality, rules
from lianlu.data.code.graph import Graph, import_graph
from lianlu.data.code.licences import kind_of, of_files
from lianlu.data.code.order import components, dependency_order
from lianlu.data.code.repository import concatenated
from lianlu.data.code.tokens import shingle_tokens
from lianlu.data.dedup.near_dedup import jaccard, shingles
from lianlu.data.read.sources import language_of
from lianlu.data.rules.characters import hashes_of
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Thresholds, shipped
from lianlu.formats.documents import Document, read_documents

PACKAGES = ("rich", "pydantic", "starlette", "jinja2", "networkx")
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "corpora"
RESULTS = Path(__file__).parent / "results" / "code.json"
Files = dict[str, Document]


def folder_files(folder: Path) -> Files:
    found: Files = {}
    for path in sorted(folder.rglob("*")):
        lang, name = language_of(path.name), path.relative_to(folder.parent).as_posix()
        if lang and path.is_file():
            found[name] = Document(name, path.read_text("utf-8", "replace"), folder.name, "code", lang, path=name)
    return found


def corpus_files(path: Path) -> Files:
    rows = [row for row in read_documents(path) if language_of(row.id)]
    return {row.id: Document(row.id, row.text, row.source, "code", language_of(row.id), path=row.id) for row in rows}


def order_figures(files: Files) -> tuple[dict[str, Any], Graph]:
    graph = import_graph({name: file.text for name, file in files.items()}, {name: file.lang for name, file in files.items()})
    every = {name: graph.needs[name] | graph.late[name] for name in files}
    place = {name: number for number, name in enumerate(dependency_order(files, graph.needs, graph.late))}
    groups = components(sorted(files), every)
    cycle = {name: number for number, group in enumerate(groups) for name in group}
    wrong = [(name, target) for name in files for target in every[name] if place[target] > place[name]]
    return {
        "files": len(files),
        "imports": graph.num_imports,
        "resolved": graph.num_resolved,
        "resolved_share_of_own": round(graph.num_resolved / max(graph.num_resolved + len(graph.missing), 1), 4),
        "edges": sum(map(len, every.values())),
        "files_in_cycles": sum(len(group) for group in groups if len(group) > 1),
        "violations_in_cycles": sum(cycle[a] == cycle[b] for a, b in wrong),
        "violations_outside": sum(cycle[a] != cycle[b] for a, b in wrong),
    }, graph


def grimp_recall(package: str, files: Files, graph: Graph) -> float:
    """Share of grimp's imports between modules that are edges here; those to packages are followed further, and left out."""
    path_of = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in files}
    theirs = grimp.build_graph(package, cache_dir=None)
    pairs = {
        (path_of[module], path_of[target])
        for module in theirs.modules & path_of.keys()
        for target in theirs.find_modules_directly_imported_by(module) & path_of.keys()
        if module != target and not path_of[target].endswith("__init__.py")
    }
    return sum(b in graph.needs[a] | graph.late[a] for a, b in pairs) / max(len(pairs), 1)


def quality_figures(files: Files, table: Thresholds) -> dict[str, Any]:
    passed: list[str] = []
    found: list[str] = []
    for name, file in files.items():
        view = TextView(file.text)
        if rules.judge(view, table.of("code", "code", "", file.lang), file.lang, name) is None:
            limits = table.of("code_quality", "code", "", file.lang)
            score = dict(quality.signals(view, limits, file.lang)).get("min_score")
            passed.append(name)
            found += [] if score is None else quality.tiers(np.array([score]), limits).tolist()
    tiers = {tier: round(found.count(tier) / max(len(found), 1), 3) for tier in quality.TIERS}
    return {"passed_rules": round(len(passed) / max(len(files), 1), 3), "tiers": tiers}


def rates(files: Mapping[str, Document], table: Thresholds) -> dict[str, float]:
    """MB/s of each operator on the same files, by processor time: other load on the machine does not count."""
    size = sum(len(file.text.encode()) for file in files.values()) / 1e6

    def rate(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return round(size / (time.process_time() - start), 2)

    items = [(TextView(file.text), table.of("code", "code", "", file.lang), file) for file in files.values()]
    return {
        "rules": rate(lambda: [list(rules.signals(view, limits, file.lang, file.path)) for view, limits, file in items]),
        "quality": rate(lambda: [quality.features(view, file.lang) for view, _, file in items]),
        "tokens": rate(lambda: [shingle_tokens(file.text, file.lang) for *_, file in items]),
        "licences": rate(lambda: of_files({name: file.text for name, file in files.items()})),
        "graph and order": rate(lambda: order_figures(dict(files))),
        "concatenation": rate(lambda: concatenated("all", list(files.values()))),
    }


def reindented(files: Files) -> dict[str, float]:
    """The lowest similarity of a file to itself with two spaces an indent and no blank lines."""
    texts = [file.text for file in files.values() if file.lang == "python" and "    " in file.text][:200]
    again = ["\n".join(line.replace("    ", "  ") for line in text.split("\n") if line.strip()) for text in texts]
    made = [[shingles(hashes_of(shingle_tokens(text, "python"))) for text in own] for own in (texts, again)]
    pairs = list(zip(*made, strict=True))
    return {"files": len(pairs), "lowest_jaccard": min((jaccard(a, b) for a, b in pairs), default=1.0)}


def main() -> None:
    table = Thresholds(shipped())
    repositories: dict[str, Files] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            repositories[package] = folder_files(Path(spec.origin).parent)
    repositories |= {Path(name).name: folder_files(Path(name).resolve()) for name in sys.argv[1:]}
    corpus = SHARED / "code_thealgorithms.jsonl.gz"
    if corpus.is_file():
        repositories["algorithms"] = corpus_files(corpus)
    results: dict[str, Any] = {}
    for name, files in repositories.items():
        figures, graph = order_figures(files)
        if name in PACKAGES:
            figures["grimp_recall"] = round(grimp_recall(name, files, graph), 4)
        figures |= quality_figures(files, table) | {"documents": len(concatenated(name, list(files.values())))}
        kinds = [kind_of(found) for found in of_files({path: file.text for path, file in files.items()}).values()]
        figures["licences"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        results[name] = figures
        print(name, json.dumps(figures))
    everything = {name: file for files in repositories.values() for name, file in files.items()}
    results["mb_per_s"] = rates(everything, table)
    results["reindented"] = reindented(everything)
    print(json.dumps({key: results[key] for key in ("mb_per_s", "reindented")}))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
