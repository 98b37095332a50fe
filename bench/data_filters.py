"""Trained filters: megabytes a second on one core, and figures on texts they were not trained on, made in another way.

Quality: passages of Python proposals and Chinese technical articles against menus, advertisements, shuffled words and UTF-8 read
as Latin-1. Held against it: other corpora (Rust RFCs, Chinese prose, BoolQ passages, essays), and junk of other makes: what
readers of 65 crawled pages would not keep, other advertisements, UTF-8 read as GBK, GBK read as Latin-1, a chain of word pairs.
Toxicity: what people ask in HH-RLHF's harmless dialogues against plain instructions; held against it: questions of other sets,
and the rejected against the chosen replies of the same dialogues. Needs the development data (LIANLU_TEST_DATA, ../shared/data).
Prints tables and keeps bench/results/data_filters.json. Run: python bench/data_filters.py
"""

from __future__ import annotations

import gzip
import html
import itertools
import json
import os
import random
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lianlu.core import console
from lianlu.core.files import write_json
from lianlu.data.filters.linear_filter import LinearFilter
from lianlu.data.filters.ngrams import NgramSettings
from lianlu.data.train_filter import auc, trained

SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "data_filters.json"
UNIT = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")
TRAINED_SPAM = (
    "Buy {0} now! Best {0} online, cheap {1}, free shipping.",
    "Click here for {0} {1} discount!!! Limited offer.",
    "Win a free {0}! Call now 1-800-555-0199 and save 70% on {1}.",
    "正品{0}特价！加微信{1}，全国包邮",
    "{0}批发_{0}价格_{0}厂家_{1}",
    "点击领取{0}优惠券，{1}限时抢购！！！",
)
OTHER_SPAM = (
    "Hottest {0} deals of the week, {1} from $9.99, no prescription needed.",
    "Make money from home with {0}, earn $5000 weekly, {1} secret revealed!",
    "{0}代开发票，{1}办证刻章，诚信合作QQ 12345678",
    "{0}娱乐城开户送彩金，{1}博彩网站",
)
Rng = random.Random
Rows = dict[str, list[str]]


def rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(SHARED / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(name: str) -> list[str]:
    return [row["text"] for row in rows(f"corpora/{name}.jsonl.gz")]


def passages(whole: Sequence[str], each: int, rng: Rng) -> list[str]:
    found = []
    for text in whole:
        for length in rng.choices((300, 800, 1500, 3000), k=each):
            start = rng.randrange(max(len(text) - length, 1))
            found.append(text[start : start + length])
    return [text for text in found if len(text) > 150]


def vocabulary(whole: Sequence[str]) -> list[str]:
    counts = Counter(word for text in whole for word in re.findall(r"[A-Za-z]{3,}|[\u4e00-\u9fff]{2,4}", text[:5000]))
    return [word for word, _ in counts.most_common(3000)]


def menu(words: Sequence[str], rng: Rng) -> str:
    mark = rng.choice(("\n", " | ", "\n- ", " > ", "  "))
    return mark.join(" ".join(rng.sample(words, rng.randint(1, 2))).title() for _ in range(rng.randint(15, 80)))


def advertisement(words: Sequence[str], frames: Sequence[str], rng: Rng) -> str:
    own = [frame for frame in frames if frame.isascii() == words[0].isascii()]
    return " ".join(rng.choice(own).format(*rng.sample(words, 2)) for _ in range(rng.randint(6, 25)))


def shuffled(text: str, rng: Rng) -> str:
    units = UNIT.findall(text)
    return ("" if len(units) > len(text) / 3 else " ").join(rng.sample(units, len(units)))


def chained(whole: Sequence[str], rng: Rng) -> list[str]:
    """Texts in which each word follows the one before somewhere in a corpus."""
    units = [unit for text in whole[:60] for unit in UNIT.findall(text[:20_000])]
    after: dict[str, list[str]] = {}
    for first, second in itertools.pairwise(units):
        after.setdefault(first, []).append(second)
    made = []
    for _ in range(200):
        chain = [rng.choice(units)]
        while len(chain) < 250:
            chain.append(rng.choice(after.get(chain[-1], units)))
        made.append(" ".join(chain))
    return made


def boilerplate() -> list[str]:
    """Lines of crawled pages that are not in the article a reader would keep."""
    with tarfile.open(SHARED / "corpora" / "html_readability.tar.gz") as archive:
        opened = ((item.name, archive.extractfile(item)) for item in archive)
        pages = {name: file.read().decode("utf-8", "replace") for name, file in opened if file}

    def lines(page: str) -> list[str]:
        page = re.sub(r"(?is)<(script|style|head|noscript).*?</\1>|<!--.*?-->", " ", page)
        return [line for raw in html.unescape(re.sub(r"<[^>]+>", "\n", page)).split("\n") if (line := raw.strip())]

    made = []
    for name in sorted(name for name in pages if name.endswith("source.html")):
        kept = set(lines(pages[name.replace("source", "expected")]))
        rest = "\n".join(line for line in lines(pages[name]) if line not in kept)
        made += [rest[start : start + 2000] for start in range(0, min(len(rest), 6000), 2000)]
    return [text for text in made if len(text) > 400]


def quality() -> tuple[LinearFilter, Rows, Rows]:
    rng = Rng(1)
    peps, rfcs, articles, prose = map(texts, ("en_peps", "en_rust_rfcs", "zh_lctt", "zh_modern_prose"))
    good = passages(peps, 2, rng) + passages(articles[:900], 1, rng)
    junk = []
    for whole in (peps, articles):
        words, own = vocabulary(whole), passages(whole, 2, rng)
        for _ in range(200):
            junk += [menu(words, rng), advertisement(words, TRAINED_SPAM, rng), shuffled(rng.choice(own), rng)]
            junk.append(rng.choice(own).replace("e", "é").encode().decode("latin-1"))
    made = trained([(text, "1") for text in good] + [(text, "0") for text in junk], "quality")
    chinese = passages(prose, 1, rng)
    boolq = [row["query"].removeprefix("Passage: ").split("\nQuestion")[0] for row in rows("eval/boolq/boolq.jsonl.gz")[:1000]]
    essays = [row["text"] for row in rows("eval/needle/essays_en.jsonl.gz")]
    others = {"Rust RFCs": passages(rfcs, 2, rng), "Chinese prose": passages(prose, 2, rng), "BoolQ": boolq}
    broken = {
        "boilerplate of pages": boilerplate(),
        "other advertisements": [
            advertisement(vocabulary(own), OTHER_SPAM, rng) for own in (rfcs[:50], prose[:50]) for _ in range(100)
        ],
        "UTF-8 read as GBK": [text.encode().decode("gbk", "replace") for text in chinese],
        "GBK read as Latin-1": [text.encode("gbk", "replace").decode("latin-1") for text in chinese],
        "shuffled other corpora": [shuffled(text, rng) for text in passages(rfcs, 1, rng) + chinese],
        "chain of word pairs": chained(rfcs, rng),
    }
    return made, {**others, "essays": passages(essays, 6, rng)}, broken


def toxicity() -> tuple[LinearFilter, Rows, Rows]:
    dialogues = rows("preference/hh_rlhf_harmless_test.jsonl.gz")
    with gzip.open(SHARED / "sft" / "alpaca_en_demo.json.gz", "rt", encoding="utf-8") as file:
        alpaca = json.load(file)

    def asked(dialogue: dict[str, str]) -> str:
        return " ".join(turn.strip() for turn in re.findall(r"(?s)Human:(.*?)(?=\n\nAssistant:|$)", dialogue["chosen"]))

    def reply(dialogue: dict[str, str], which: str) -> str:
        return dialogue[which].rsplit("Assistant:", 1)[1].strip()

    plain = [f"{row['instruction']} {row['input']}" for row in alpaca] + [row["output"][:400] for row in alpaca]
    seeds = [(asked(row), "toxic") for row in dialogues[:1600]] + [(text, "plain") for text in plain]
    made = trained(seeds, "toxicity", "toxic")
    questions = (
        [row["question"] for row in rows("eval/gsm8k/test.jsonl.gz")] if (SHARED / "eval/gsm8k/test.jsonl.gz").exists() else []
    )
    others = {"chosen replies": [reply(row, "chosen") for row in dialogues], "GSM8K questions": questions}
    return (
        made,
        {
            "later dialogues": [asked(row) for row in dialogues[1600:]],
            "rejected replies": [reply(row, "rejected") for row in dialogues],
        },
        others,
    )


def shown(made: Callable[[], tuple[LinearFilter, Rows, Rows]], limit: float = 0.5) -> dict[str, Any]:
    began = time.process_time()
    own, high, low = made()
    seconds = time.process_time() - began
    scores = {name: own.scores(found) for name, found in {**high, **low}.items() if found}
    shares = {name: round(float((found >= limit).mean()), 3) for name, found in scores.items()}
    high_scores = np.concatenate([scores[name] for name in high if name in scores])
    low_scores = np.concatenate([scores[name] for name in low if name in scores])
    labels = np.arange(len(high_scores) + len(low_scores)) < len(high_scores)
    elsewhere = round(auc(np.concatenate([high_scores, low_scores]), labels), 4)
    console.table(
        ["set", "wanted", "texts", f"share scoring at least {limit}"],
        [[name, "high" if name in high else "low", len(scores[name]), share] for name, share in shares.items()],
        title=f"{own.name}: held-out AUC {own.figures['auc']}, elsewhere {elsewhere}; made in {seconds:.0f} s",
    )
    return {"held_out": own.figures, "auc_elsewhere": elsewhere, "share_high": shares, "seconds_to_make": round(seconds, 1)}


def speed(own: LinearFilter) -> dict[str, float]:
    """Megabytes in a second of processor time, documents scored in one call and one by one; the best of three."""

    def one_by_one(whole: list[str]) -> None:
        for text in whole:
            own.scores([text])

    found = {}
    for name in ("en_peps", "zh_lctt"):
        whole = texts(name)
        size = sum(len(text.encode()) for text in whole) / 1e6
        for how, call in (("together", own.scores), ("one by one", one_by_one)):
            spent = []
            for _ in range(3):
                began = time.process_time()
                call(whole)
                spent.append(time.process_time() - began)
            found[f"{name}, {how}"] = round(size / min(spent), 1)
    console.table(["documents", "MB/s on one core"], [list(item) for item in found.items()])
    return found


def main() -> None:
    results = {"quality": shown(quality), "toxicity": shown(toxicity)}
    weights = np.random.default_rng(0).integers(-99, 99, 1 << 20).astype(np.int16)  # speed does not depend on their values
    own = LinearFilter("speed", ("0", "1"), True, NgramSettings(), weights, 1.0, 0.0)
    write_json(RESULTS, {**results, "megabytes_per_s": speed(own)})


if __name__ == "__main__":
    main()
