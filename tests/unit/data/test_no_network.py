"""Every default of the data stage works without a network: sockets are blocked in the process and in all it starts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lianlu.formats.documents import Document, read_documents, write_jsonl

BLOCKED = Path(__file__).parent / "no_network"
CHINESE = "渡船中午离开了码头，送行的人没有一个招手。他们知道，船要到明年春天才会回来，那时候孩子们已经长大了。"


def story(number: int, sentences: int = 12) -> str:
    rng = random.Random(number)

    def word() -> str:
        return "".join(rng.choices(["ba", "ko", "li", "mer", "tan", "dor", "sil", "ven", "gar", "pel"], k=rng.randint(2, 4)))

    frame = "The {} of {} and {} have {} to be with that {} in the {}."
    return "\n".join(frame.format(*(word() for _ in range(6))) for _ in range(sentences))


def lianlu(environment: dict[str, str], *words: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "lianlu", *words], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    paths = [str(BLOCKED), *filter(None, [os.environ.get("PYTHONPATH"), *map(str, {Path(entry) for entry in sys.path if entry})])]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_NETWORK_LOG": str(tmp_path / "log"),
        "LIANLU_HOME": str(tmp_path / "store"),
    }  # fmt: skip


def test_the_block_blocks(environment: dict[str, str], tmp_path: Path) -> None:
    code = "import urllib.request as u; u.urlopen('http://127.0.0.1:9')"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "there is no network" in ran.stderr
    assert "asked for" in (tmp_path / "log").read_text()


def test_clean_decontaminate_enrich_filters_and_export(environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines = [json.dumps({"id": f"en{n}", "text": story(n, 250)}) for n in range(140)]
    lines += [json.dumps({"id": f"zh{n}", "text": "\n".join(f"{n}年{k}月，{CHINESE}" for k in range(6))}) for n in range(20)]
    (source / "a.jsonl").write_text("\n".join(lines))
    page = "".join(f"<p>{line}</p>" for line in story(9000).splitlines())
    (source / "b.html").write_text(f"<html><body><article>{page}</article></body></html>")
    (source / "c.py").write_text("".join(f"def name_{n}(value):\n    return value * {n}\n\n" for n in range(12)))
    items = tmp_path / "items.jsonl"
    question = "What has the old ferry near the harbour seen in that winter, and which letter told of it?"
    write_jsonl(items, [Document("t/1/question", question, meta={"task": "t", "item": "1", "part": "question"})])
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"""[steps.clean]
source = "{source}"
workers = 2
[steps.clear]
stage = "decontaminate"
data = "@clean"
items = "{items}"
[steps.more]
stage = "enrich"
seeds = "@clean"
pool = "@clear"
""")
    lianlu(environment, "run", str(recipe))
    seeds = [
        {"text": story(n) if n % 2 else f"Buy {n} now! Click {n} here, only {n} dollars " * 8, "label": str(n % 2)}
        for n in range(120)
    ]
    (tmp_path / "seeds.jsonl").write_text("\n".join(map(json.dumps, seeds)))
    lianlu(environment, "data", "train-filter", str(tmp_path / "seeds.jsonl"), "--out", str(tmp_path / "quality.safetensors"))
    for name in ("wanjuan.jsonl.zst", "all.parquet"):
        lianlu(environment, "data", "export", "@clear", str(tmp_path / name))
    assert sum(1 for _ in read_documents(tmp_path / "all.parquet")) > 10
    log = (tmp_path / "log").read_text().splitlines()
    assert [line for line in log if "asked for" in line] == []
    assert len(log) > 7  # more processes than commands: workers and the reader of pages were blocked as well
