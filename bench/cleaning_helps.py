"""Does cleaning help? Models trained on equal tokens of raw and of cleaned text, judged on clean text that neither has seen.

English (Python enhancement proposals, Rust RFCs) and Chinese (technology articles, modern prose) are taken as they are. Junk is
planted among them up to stated shares of the raw bytes (SHARES), from a fixed seed: exact and near duplicates, navigation and
footers around and between the texts, mojibake, and machine-made spam. The raw side takes all of it (`rules = []`), the clean side
is the clean stage as it is shipped, told that these are documents (`domain = "docs"`, as in recipes/pretrain_small.toml). The
held-out documents are originals that were set aside before anything was planted.

The comparison itself is `lianlu data compare`, so it is resumed by the same command and can be traced (LIANLU_HOME is printed).
Prints the table for docs/results and keeps bench/results/cleaning_helps.json. Data: LIANLU_TEST_DATA or ../shared/data.
Run: python bench/cleaning_helps.py [--tokens N] [--seeds N] [--work DIR] [--results FILE] [STAGE.KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lianlu.core.files import write_json, write_text
from lianlu.core.machine import cpu_name, num_cores
from lianlu.core.store import Store
from lianlu.formats.documents import read_documents
from lianlu.recipe.compare_data import comparison
from lianlu.recipe.compare_summary import as_markdown, summarize
from lianlu.recipe.run import run_recipe

ROOT = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", ROOT.parents[1] / "shared" / "data")) / "corpora"
CORPORA = {"en": ("en_peps", "en_rust_rfcs"), "zh": ("zh_lctt", "zh_modern_prose")}
ORIGINAL_BYTES = 2_000_000
HELD_OUT_BYTES = 200_000
HELD_OUT_DOCUMENT = 12_000
"""Bytes of a held-out document at most, so that there are enough of them."""
SHARES = {"exact": 0.07, "near": 0.08, "mojibake": 0.08, "spam": 0.10, "boilerplate": 0.07}
"""Of the bytes of the raw side; the rest is the original text."""
FRAMED = 0.5
"""Share of the originals and their copies that get navigation above and a footer below; these bytes count as boilerplate."""
SEED = 20240601
Row = dict[str, str]

MENU = {
    "en": [
        "Home",
        "Products",
        "About us",
        "Log in",
        "Register",
        "Shopping cart (0)",
        "Search",
        "Site map",
        "Newsletter",
        "Contact",
    ],
    "zh": ["首页", "产品中心", "关于我们", "登录", "免费注册", "购物车(0)", "站内搜索", "网站地图", "订阅", "联系客服"],
}
FOOT = {
    "en": ["Share on Facebook", "Tweet this", "Print this page", "We use cookies to improve your visit. Accept", "Read more »",
           "Copyright 2019 All rights reserved. Powered by SiteBuilder 4.2", "Subscribe to our newsletter for weekly deals!"],
    "zh": ["分享到微博", "分享到微信", "打印本页", "本站使用Cookie以改善您的体验 同意", "阅读全文 >>",
           "版权所有 2019 保留一切权利 技术支持：建站宝4.2", "扫一扫关注公众号，领取新人礼包！"],
}  # fmt: skip
SPAM = {
    "en": (["cheap", "best", "discount", "original", "top-rated", "wholesale"], ["watches", "handbags", "pills", "boots", "loan"],
           ["Boston", "Leeds", "Perth", "Dublin", "Austin", "Ottawa"],
           "Buy {a} {b} online {c} {b} {a} price free shipping {n}% off {c} order {a} {b} now!!! "),
    "zh": (["最低价", "正品", "厂家直销", "高仿", "优惠", "热卖"], ["手表", "包包", "减肥药", "运动鞋", "贷款", "发票"],
           ["北京", "深圳", "成都", "武汉", "杭州", "西安"],
           "【{c}】{a}{b}批发{a}{b}包邮，{c}{b}加微信vx{n}88{n}，{a}下单立减{n}元！！！"),
}  # fmt: skip


def size(text: str) -> int:
    return len(text.encode())


def originals(lang: str, rng: random.Random) -> Iterator[Row]:
    """The documents of a language in random order, both corpora in turn."""
    pools = []
    for name in CORPORA[lang]:
        with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            pools.append([json.loads(line) for line in file])
        rng.shuffle(pools[-1])
    for number in range(max(map(len, pools))):
        for pool in pools:
            if number < len(pool) and len(pool[number]["text"]) > 1000:
                yield {"id": f"original/{pool[number]['id']}", "text": pool[number]["text"], "source": lang}


def taken(rows: Iterator[Row], num_bytes: float) -> list[Row]:
    found, total = list[Row](), 0
    while total < num_bytes:
        found.append(next(rows))
        total += size(found[-1]["text"])
    return found


def framed(row: Row, rng: random.Random) -> Row:
    """A document as a careless scraper has it: with the menu above and the footer below."""
    lang = row["source"]
    top, foot = rng.sample(MENU[lang], 8), rng.sample(FOOT[lang], 5)
    return {**row, "text": "\n".join([" | ".join(top), *top, "", row["text"], "", *foot])}


def near_copy(row: Row, rng: random.Random) -> Row:
    """A copy with one word (Chinese: one character) in sixty left out."""
    parts = list(row["text"]) if row["source"] == "zh" else row["text"].split(" ")
    kept = [part for part in parts if rng.random() > 1 / 60 or part.isspace()]
    return {**row, "text": ("" if row["source"] == "zh" else " ").join(kept)}


def mojibake(row: Row) -> Row:
    """UTF-8 read as windows-1252; English, which would hardly change, is read as UTF-16 in part."""
    text = row["text"]
    if row["source"] == "zh":
        return {**row, "text": text.encode().decode("cp1252", "replace")}
    words = text.split(" ")
    odd = [word.encode().decode("utf-16-le", "replace") if number % 3 == 0 else word for number, word in enumerate(words)]
    return {**row, "text": " ".join(odd).replace("'", "â€™").replace('"', "â€œ")}


def spam(lang: str, rng: random.Random) -> str:
    adjectives, things, places, form = SPAM[lang]
    return "".join(
        form.format(a=rng.choice(adjectives), b=rng.choice(things), c=rng.choice(places), n=rng.randint(11, 89))
        for _ in range(rng.randint(8, 40))
    )


def boilerplate(lang: str, rng: random.Random) -> str:
    """A page of nothing but menus and footers."""
    return "\n".join(line for _ in range(rng.randint(3, 9)) for line in (*rng.sample(MENU[lang], 7), *rng.sample(FOOT[lang], 5)))


def corpus(lang: str, rng: random.Random) -> tuple[list[Row], list[Row], Counter[str]]:
    """Raw rows, held-out rows, and the bytes of each kind among the raw ones."""
    rows = list(originals(lang, rng))
    held_out = taken((row for row in rows if size(row["text"]) <= HELD_OUT_DOCUMENT), HELD_OUT_BYTES)
    pool = (row for row in rows if row not in held_out)
    clean = taken(pool, ORIGINAL_BYTES)
    total = sum(size(row["text"]) for row in clean) / (1 - sum(SHARES.values()))
    planted, kinds = list(clean), Counter({"original": sum(size(row["text"]) for row in clean)})

    def plant(kind: str, make: Callable[[], Row]) -> None:
        while kinds[kind] < SHARES[kind] * total:
            made = make()
            kinds[kind] += size(made["text"])
            planted.append({**made, "source": lang, "id": f"{kind}/{lang}/{len(planted)}"})

    plant("exact", lambda: dict(rng.choice(clean)))
    plant("near", lambda: near_copy(rng.choice(clean), rng))
    plant("mojibake", lambda: mojibake(next(pool)))
    plant("spam", lambda: {"text": spam(lang, rng)})
    for number, row in enumerate(planted):
        copied = row["id"].split("/")[0] in ("original", "exact", "near")
        if copied and kinds["boilerplate"] < SHARES["boilerplate"] * total and rng.random() < FRAMED:
            planted[number] = framed(row, rng)
            kinds["boilerplate"] += size(planted[number]["text"]) - size(row["text"])
    plant("boilerplate", lambda: {"text": boilerplate(lang, rng)})
    return planted, held_out, kinds


def write_corpora(folder: Path) -> dict[str, Any]:
    """raw.jsonl, held_out.jsonl and the two configurations; returns the share of each kind by language."""
    raw, held_out, shares = list[Row](), list[Row](), dict[str, Any]()
    for lang in CORPORA:
        rng = random.Random(f"{SEED} {lang}")
        rows, own, kinds = corpus(lang, rng)
        raw, held_out = raw + rows, held_out + own
        shares[lang] = {kind: count / kinds.total() for kind, count in kinds.items()}
    random.Random(SEED).shuffle(raw)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("raw", raw), ("held_out", held_out)):
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    source = f'source = {json.dumps(str(folder / "raw.jsonl"))}\ndomain = "docs"\n'
    write_text(folder / "raw.toml", source + "rules = []\n")
    write_text(folder / "clean.toml", source)
    return shares


def kept_by_kind(raw: Path, clean: Path) -> dict[str, list[int]]:
    """Documents of each kind before and after cleaning."""
    before, after = (Counter(document.id.split("/")[0] for document in read_documents(path)) for path in (raw, clean))
    return {kind: [before[kind], after[kind]] for kind in sorted(before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("settings", nargs="*", metavar="STAGE.KEY=VALUE", help="as for lianlu data compare")
    parser.add_argument("--tokens", type=int, default=800_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "lianlu" / "cleaning_helps")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "cleaning_helps.json")
    given = parser.parse_args()
    shares = write_corpora(given.work)
    files = given.work / "raw.toml", given.work / "clean.toml"
    planned = comparison(files, given.tokens, given.seeds, str(given.work / "held_out.jsonl"), given.settings)
    results = run_recipe(planned.recipe, Store(given.work / "store"))
    made = {result.step.name: result.artifact.path for result in results}
    summary = summarize(planned, results)
    for side in summary["sides"]:
        side["file"] = Path(side["file"]).name
    summary |= {"planted": shares, "kept": kept_by_kind(made["raw-clean"], made["clean-clean"])}
    summary |= {"machine": {"cpu": cpu_name(), "cores": num_cores()}}
    write_json(given.results, summary)
    print(f"LIANLU_HOME={given.work / 'store'}\n")
    print(
        "| planted | English, of the bytes | Chinese | documents raw | documents cleaned |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for kind, (before, after) in summary["kept"].items():
        print(f"| {kind} | {shares['en'][kind]:.1%} | {shares['zh'][kind]:.1%} | {before:,} | {after:,} |")
    print("\n" + as_markdown(summary))


if __name__ == "__main__":
    main()
