"""How good the clean stage's judgements are where the truth is known: near duplicates, languages of paragraphs, personal data.

Near duplicates: pairs at Jaccard 0.5 to 0.95 (`planted.py`), what share is found, beside 1 - (1 - s^8)^16, which banding
promises; documents on one template and chains of similar documents, of which nothing may go unless a kept document is at
least 0.7 like it. datatrove, data-juicer and rensa do the same on the same documents, with as many bands and rows; they do not
verify, so what they remove below 0.7 is their way and counted as wrong here.
Languages: paragraphs of English, Chinese and code, alone and mixed (`mixed_language.py`), beside plain py3langid.
Personal data: `pii_cases.py`, beside datatrove and data-juicer, which look for e-mail and IP addresses only.
Articles of web pages are scored by bench/extraction.py. Prints tables and keeps bench/results/data_quality.json.
Run: python bench/data_quality.py [--pairs 100]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import corpus
import mixed_language
import pii_cases
import planted
from asking import OURS, Tool, tools

from lianlu.data.rules import paragraph_language, pii
from lianlu.data.rules.language import identify
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Thresholds, shipped

RESULTS = Path(__file__).parent / "results" / "data_quality.json"
PEERS = ("datatrove", "data_juicer", "rensa")
MIN_JACCARD, ANY_JACCARD = 0.7, 0.05
TEMPLATE_SHARES = (0.5, 0.65, 0.75)
CHAIN_LENGTH, CHAIN_JACCARD = 6, 0.8
PEER_KINDS = ("email", "ipv4", "ipv6", "address in a header")
Figures = dict[str, Any]


def promised(similarity: float) -> float:
    """The chance that a pair of this similarity shares one of 16 bands of 8 rows."""
    return 1 - (1 - similarity**8) ** 16


def removed(tool: Tool, rows: Sequence[Figures], folder: Path, **more: Any) -> set[str]:
    """The ids that a tool removes from these documents."""
    folder.mkdir(parents=True)
    path = corpus.save(folder / "documents.jsonl", rows)
    return set(tool.ask("near_dedup", documents=path, folder=folder / "out", **more)["removed"])


def of_pairs(gone: set[str], partner: dict[str, tuple[str, float]]) -> Figures:
    """Recall by level; and how many removals have no kept partner that is similar enough."""
    found: dict[str, list[bool]] = defaultdict(list)
    for name, (other, _) in partner.items():
        if name.endswith("a"):
            found[name.split("/")[0]].append(name in gone or other in gone)
    wrong = sum(partner[name][1] < MIN_JACCARD or partner[name][0] in gone for name in gone)
    recall = {level: sum(own) / len(own) for level, own in found.items()}
    return {"recall": recall, "removed": len(gone), "wrong": wrong, "precision": 1 - wrong / max(len(gone), 1)}


def justified(gone: set[str], rows: Sequence[Figures]) -> Figures:
    """How many removals have no kept document that is similar enough."""
    grams = {row["id"]: corpus.grams(row["text"]) for row in rows}
    kept = [own for name, own in grams.items() if name not in gone]
    wrong = sum(all(len(grams[name] & own) < MIN_JACCARD * len(grams[name] | own) for own in kept) for name in gone)
    return {"documents": len(rows), "removed": len(gone), "wrong": wrong}


def near_duplicates(opened: Sequence[Tool], folder: Path, count: int) -> Figures:
    """Pairs, templates and chains, by every tool."""
    result: Figures = {"pairs_per_level": count}
    for lang in ("en", "zh"):
        rows, partner = planted.pairs(count, lang)
        levels: dict[str, list[float]] = defaultdict(list)
        for name, (_, similarity) in partner.items():
            levels[name.split("/")[0]].append(similarity)
        result[lang] = {
            "promised": {level: statistics.mean(map(promised, own)) for level, own in levels.items()},
            "similarity": {level: [min(own), max(own)] for level, own in levels.items()},
        }
        for tool in opened if lang == "en" else opened[:1]:
            result[lang][tool.name] = of_pairs(removed(tool, rows, folder / f"pairs-{lang}-{tool.name}"), partner)
        own = removed(opened[0], rows, folder / f"bands-{lang}", max_jaccard=ANY_JACCARD)
        result[lang]["lianlu, not verified"] = of_pairs(own, partner)
    result["templates"], result["chains"] = {}, {}
    chains = planted.chains(count // 2, CHAIN_LENGTH, CHAIN_JACCARD)
    for share in TEMPLATE_SHARES:
        pages = planted.templates(count * 5, share)
        own = result["templates"][share] = {"jaccard": corpus.jaccard(pages[0]["text"], pages[1]["text"])}
        for tool in opened:
            own[tool.name] = justified(removed(tool, pages, folder / f"pages-{share}-{tool.name}"), pages)
    for tool in opened:
        result["chains"][tool.name] = justified(removed(tool, chains, folder / f"chains-{tool.name}"), chains)
    return result


def languages(count: int) -> Figures:
    """Accuracy by language and length, ours and plain py3langid; and errors of shares in mixed documents."""
    labelled = mixed_language.paragraphs()
    limits = Thresholds(shipped()).of("paragraph_language")
    ways: dict[str, Callable[[str], str]] = {
        OURS: lambda text: paragraph_language.language_of(text)[0],
        "py3langid": lambda text: identify(text)[0],
    }
    result: Figures = {"paragraphs": Counter(label for label, _ in labelled), "accuracy": {}, "wrong_as": {}}
    for way, tell in ways.items():
        right: dict[str, list[bool]] = defaultdict(list)
        wrong: dict[str, Counter[str]] = defaultdict(Counter)
        for label, text in labelled:
            told = tell(text)
            accepted = (label, mixed_language.CODE) if label == mixed_language.TERMINAL else (label,)
            for group in (label, f"{label}, {'below' if len(text) < 100 else 'from'} 100 characters"):
                right[group].append(told in accepted)
            if told not in accepted:
                wrong[label][told] += 1
        result["accuracy"][way] = {group: sum(own) / len(own) for group, own in sorted(right.items())}
        result["wrong_as"][way] = {label: dict(own.most_common(4)) for label, own in wrong.items()}
    result["share_error"] = share_errors(labelled, count, limits["paragraph_probability"])
    return result


def share_errors(labelled: list[mixed_language.Labelled], count: int, min_probability: float) -> Figures:
    """Mean absolute error of the share of characters of a language in documents that mix three."""
    errors: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for parts in mixed_language.documents(labelled, count):
        text = "\n\n".join(part for _, part in parts)
        total = sum(len(part) for _, part in parts)
        whole = identify(text)[0]
        told = {OURS: paragraph_language.shares(TextView(text), min_probability), "py3langid, whole document": {whole: 1.0}}
        for label in (mixed_language.ENGLISH, mixed_language.CHINESE, mixed_language.CODE):
            truth = sum(len(part) for own, part in parts if own == label) / total
            for way, shares in told.items():
                errors[way][label].append(abs(shares.get(label, 0.0) - truth))
    return {way: {label: statistics.mean(own) for label, own in found.items()} for way, found in errors.items()}


def personal(opened: Sequence[Tool], folder: Path, count: int) -> Figures:
    """Recall by kind, and false alarms by kind, of every tool; what is left of a text decides."""
    result: Figures = {}
    for name, cases in (("generated", pii_cases.generated(count)), ("real", pii_cases.real())):
        rows = [{"id": f"{number}", "text": case.text} for number, case in enumerate(cases)]
        path = corpus.save(folder / f"{name}.jsonl", rows)
        result[name] = {"cases": Counter(case.kind for case in cases)}
        for tool in opened:
            if tool.name != "rensa":
                result[name][tool.name] = judged(cases, tool.ask("pii", documents=path, keep=True)["texts"])
    return result


def judged(cases: Sequence[pii_cases.Case], texts: Sequence[str]) -> Figures:
    """Recall of what is personal, false alarms on what is not, and precision over both."""
    found: dict[str, list[bool]] = defaultdict(list)
    for case, text in zip(cases, texts, strict=True):
        found[case.kind].append(case.gold not in text if case.gold else text != case.text)
    personal_kinds = {case.kind for case in cases if case.gold}
    right = sum(sum(own) for kind, own in found.items() if kind in personal_kinds)
    wrong = sum(sum(own) for kind, own in found.items() if kind not in personal_kinds)
    return {
        "recall": {kind: sum(own) / len(own) for kind, own in found.items() if kind in personal_kinds},
        "false_alarms": {kind: sum(own) / len(own) for kind, own in found.items() if kind not in personal_kinds},
        "precision": right / max(right + wrong, 1),
    }


def findings() -> dict[str, dict[str, int]]:
    """What is found in the corpora, by kind; prints some of it, so that it can be judged by eye."""
    counts: dict[str, Counter[str]] = {}
    for name in corpus.CORPORA:
        counts[name] = Counter()
        shown: dict[str, list[str]] = defaultdict(list)
        for row in corpus.texts(name):
            for edit in pii.find(row["text"]):
                counts[name][edit.kind] += 1
                shown[edit.kind].append(row["text"][edit.start : edit.end])
        for kind, texts in shown.items():
            few = list(dict.fromkeys(texts))
            print(f"  {name}, {kind}: {', '.join(few[:: max(1, len(few) // 5)][:5])}")
    return {name: dict(own) for name, own in counts.items()}


def show(result: Figures) -> None:
    """Print what was found."""
    near = result["near_duplicates"]
    for lang in ("en", "zh"):
        own = near[lang]
        names = [name for name in own if name not in ("promised", "similarity")]
        print(f"\nnear duplicates found, {lang}\n{'Jaccard':>8}{'bands promise':>15}" + "".join(f"{name:>22}" for name in names))
        for level, chance in own["promised"].items():
            print(f"{level:>8}{chance:15.3f}" + "".join(f"{own[name]['recall'][level]:22.3f}" for name in names))
        print(f"{'precision':>23}" + "".join(f"{own[name]['precision']:22.3f}" for name in names))
    groups = {f"chains of {CHAIN_LENGTH}": near["chains"]}
    for share, row in near["templates"].items():
        groups[f"template of {float(share):.0%} (Jaccard {row.pop('jaccard'):.2f})"] = row
    for group, row in groups.items():
        print(f"{group}, documents removed (without a kept one that is similar), of {row[OURS]['documents']}: "
              + ", ".join(f"{name} {own['removed']} ({own['wrong']})" for name, own in row.items()))  # fmt: skip
    print("\nlanguage of paragraphs, accuracy")
    accuracy = result["languages"]["accuracy"]
    for group in accuracy[OURS]:
        print(f"{group:34}" + "".join(f"{way} {own[group]:.3f}   " for way, own in accuracy.items()))
    print(f"error of shares in mixed documents: {result['languages']['share_error']}")
    for name in ("generated", "real"):
        own = result["personal"][name]
        for way, row in ((way, row) for way, row in own.items() if way != "cases"):
            recall = {kind: value for kind, value in row["recall"].items() if way == OURS or kind in PEER_KINDS}
            print(f"\npersonal data, {name}, {way}: precision {row['precision']:.4f}")
            print("  recall: " + ", ".join(f"{kind} {value:.3f}" for kind, value in recall.items()))
            print("  false alarms: " + ", ".join(f"{kind} {value:.3f}" for kind, value in row["false_alarms"].items()))


def main() -> None:
    """Judge everything, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100)
    count = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="lianlu-bench-") as name:
        folder = Path(name)
        warm = corpus.save(folder / "warm.jsonl", planted.pairs(2, "en")[0])
        with tools(PEERS, warm=warm) as opened:
            near = near_duplicates(opened, folder, count)
            print("near duplicates done", flush=True)
            found = personal(opened, folder, count)
    print("personal data in the corpora, for the eye:")
    result = {"near_duplicates": near, "languages": languages(count * 5), "personal": found | {"in_corpora": findings()}}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    show(json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
