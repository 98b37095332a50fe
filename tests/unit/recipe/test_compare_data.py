"""The recipe that compares two ways of making data, and what is said about its outcome."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

from lianlu.core.config import canonical
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.lineage import build_graph, reachable
from lianlu.core.store import Store
from lianlu.formats.documents import read_documents
from lianlu.recipe.compare_data import Comparison, comparison
from lianlu.recipe.compare_summary import (
    Judged,
    as_markdown,
    difference,
    paired_interval,
    read_judged,
    summarize,
    verdict,
    write_summary,
)
from lianlu.recipe.recipe import build_recipe
from lianlu.recipe.run import run_recipe

TINY = [
    "tokenizer.vocab_size=600",
    "held-out.share=0.1",
    "pretrain.model.hidden_size=32",
    "pretrain.model.intermediate_size=64",
    "pretrain.model.num_hidden_layers=1",
    "pretrain.model.num_attention_heads=2",
    "pretrain.model.num_key_value_heads=2",
    "pretrain.batch_tokens=256",
    "pretrain.sequence_length=64",
    "pretrain.precision=float32",
]
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "tree",
    "house",
    "sees",
    "finds",
    "likes",
    "old",
    "small",
    "river",
    "stone",
    "under",
    "over",
    "bright",
    "evening",
    "morning",
    "bread",
]


def toml(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Sentences, half of the documents followed by noise; one file takes everything, the other what is told as junk."""
    draw = random.Random(0)
    rows = [{"id": f"d{n}", "text": " ".join(draw.choices(WORDS, k=120)) + "."} for n in range(60)]
    rows += [{"id": f"junk{n}", "text": " ".join(f"{draw.getrandbits(40):x}" for _ in range(60))} for n in range(40)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f'source = "{tmp_path / "all.jsonl"}"\n'
    rule = 'rules = ["gopher_quality"]\nthresholds.gopher_quality = { max_mean_word_length = 8 }\n'
    return toml(tmp_path / "raw.toml", source + "rules = []\n"), toml(tmp_path / "clean.toml", source + rule)


def steps(planned: Comparison) -> dict[str, dict[str, Any]]:
    return {step.name: canonical(step.config) for step in planned.recipe.steps}


def test_both_sides_get_the_same_tokens_seeds_shape_tokenizer_and_text(files: tuple[Path, Path]) -> None:
    found = steps(comparison(files, 5000, 2, overrides=TINY))
    assert [name for name in found if "pretrain" in name] == [
        f"{side}-pretrain-{seed}" for seed in (0, 1) for side in ("raw", "clean")
    ]
    for seed in (0, 1):
        first, second = found[f"raw-pretrain-{seed}"], found[f"clean-pretrain-{seed}"]
        assert {key for key in first if first[key] != second[key]} == {"data"}
        assert (first["tokens"], first["seed"], first["held_out"]) == (5000, seed, "@compare-judged")
    assert found["compare-tokenizer"]["data"] == ["@raw-train", "@clean-train"]
    assert found["compare-held-out"]["data"] == ["@raw-clean"]
    assert found["compare-held-out"]["also_in"] == ["@clean-clean"]
    for side in ("raw", "clean"):
        assert found[f"{side}-train"]["items"] == "@compare-held-out"
        assert found[f"{side}-shard"]["data"] == f"@{side}-train"
        assert found[f"{side}-shard"]["tokenizer"] == found["compare-judged"]["tokenizer"] == "@compare-tokenizer"


def test_a_text_of_ones_own_is_held_out_as_it_is(files: tuple[Path, Path]) -> None:
    found = steps(comparison(files, 5000, held_out="book.txt"))
    assert (found["compare-held-out-text"]["source"], found["compare-held-out-text"]["rules"]) == ("book.txt", [])
    assert found["compare-held-out"]["data"] == "@compare-held-out-text"
    assert (found["compare-held-out"]["share"], found["compare-held-out"]["also_in"]) == (1.0, [])


def test_of_a_recipe_the_steps_are_taken_that_make_what_it_shards(tmp_path: Path, files: tuple[Path, Path]) -> None:
    text = """
        [steps.en]
        stage = "clean"
        source = "en"
        [steps.more]
        stage = "enrich"
        seeds = "@en"
        pool = "@pool"
        [steps.pool]
        stage = "clean"
        source = "pool"
        earlier = ["@en", "made/earlier"]
        [steps.unused]
        stage = "clean"
        source = "unused"
        [steps.tokenizer]
        data = "@en"
        [steps.shard]
        data = ["@en", "@more", "made/before"]
        tokenizer = "@tokenizer"
    """
    whole = toml(tmp_path / "my recipe.toml", text)
    planned = comparison((whole, files[0]), 5000, 2)
    found = steps(planned)
    assert planned.sides[0].outputs == ("@my-recipe-en", "@my-recipe-more", "made/before")
    assert found["my-recipe-more"]["seeds"] == "@my-recipe-en"
    assert found["my-recipe-more"]["pool"] == "@my-recipe-pool"
    assert found["my-recipe-pool"]["earlier"] == ["@my-recipe-en", "made/earlier"]
    assert "my-recipe-unused" not in found
    assert "my-recipe-shard" in found
    assert found["my-recipe-shard"]["data"] == "@my-recipe-train"
    short = toml(tmp_path / "short.toml", text[: text.index("[steps.tokenizer]")])
    assert comparison((short, files[0]), 5000, 2).sides[0].outputs == ("@short-more", "@short-unused")


def test_mistakes_are_told(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="one seed has no spread"):
        comparison(files, 5000, 1)
    with pytest.raises(ConfigError, match="train is no stage of a comparison"):
        comparison(files, 5000, overrides=["train.lr=1"])
    with pytest.raises(ConfigError, match=r"unknown field .*hiden_size"):
        comparison(files, 5000, overrides=["pretrain.model.hiden_size=1"])
    none = toml(tmp_path / "none.toml", '[steps.tokenizer]\ndata = "x"\n')
    with pytest.raises(ConfigError, match="makes no documents"):
        comparison((none, files[1]), 5000)
    (tmp_path / "other").mkdir()
    same = toml(tmp_path / "other" / "raw.toml", 'source = "x"\n')
    assert [side.name for side in comparison((files[0], same), 5000).sides] == ["a", "b"]


def test_the_whole_comparison_runs_resumes_and_can_be_traced(files: tuple[Path, Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    planned = comparison(files, 4000, 2, overrides=TINY)
    run_recipe(planned.recipe.only(["raw-pretrain-0"]), store)
    results = run_recipe(planned.recipe, store)
    made = {result.step.name: result.made for result in results}
    assert not made["raw-pretrain-0"]
    assert made["clean-pretrain-0"]
    summary = summarize(planned, results)
    artifacts = {result.step.name: result.artifact for result in results}
    held_out = {document.id: document.text for document in read_documents(artifacts["compare-held-out"].path)}
    assert held_out
    assert not [name for name in held_out if name.startswith("junk")]
    for side, least in (("raw", 80), ("clean", 50)):
        texts = [document.text for document in read_documents(artifacts[f"{side}-train"].path)]
        assert not set(texts) & set(held_out.values())
        assert len(texts) >= least
    raw, clean = summary["sides"]
    assert raw["documents"] > clean["documents"]
    assert raw["train_tokens"] > clean["train_tokens"]
    assert raw["bits_per_byte_start"] == pytest.approx(clean["bits_per_byte_start"])
    figures = artifacts["raw-pretrain-1"].manifest.figures
    assert raw["bits_per_byte"][1] == pytest.approx(figures["bits_per_byte"], rel=1e-5)
    assert figures["held_out_bytes"] == summary["held_out"]["bytes"] == sum(len(text.encode()) for text in held_out.values())
    assert summary["difference"]["mean"] == pytest.approx(clean["mean"] - raw["mean"])
    assert summary["difference"]["mean"] < 0
    nodes = build_graph(store.list())
    above = reachable(nodes, artifacts["clean-pretrain-1"].id, upstream=True)
    assert {artifacts[name].id for name in ("clean-clean", "compare-held-out", "compare-tokenizer", "raw-train")} <= above
    written = write_summary(summary, tmp_path / "found")
    assert json.loads(written[0].read_text())["difference"] == summary["difference"]
    assert written[1].read_text() == as_markdown(summary)
    assert f"| raw | {raw['documents']} |" in as_markdown(summary)
    assert build_recipe(
        "again", {"steps": {s.name: {"stage": s.stage_name, **canonical(s.config)} for s in planned.recipe.steps}}
    )


def judged(bits: np.ndarray, sizes: np.ndarray, sources: tuple[str, ...] = ()) -> Judged:
    return Judged(tuple(map(str, range(len(sizes)))), sources or ("s",) * len(sizes), sizes, bits)


def test_the_interval_over_seeds_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(2, 0.1, 5), rng.normal(1.9, 0.1, 5)
    theirs = ttest_rel(two, one).confidence_interval(0.95)
    assert paired_interval((two - one).tolist()) == pytest.approx((theirs.low, theirs.high))


def test_a_difference_counts_only_where_seeds_and_documents_agree() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(500, 3000, 60).astype(float)
    base = sizes * rng.normal(2, 0.2, 60)
    seeds = np.array([[0.99], [1.0], [1.01]])
    better, noise = sizes * rng.normal(0.1, 0.02, 60), sizes * rng.normal(0, 0.5, 60)
    first = judged(seeds * base, sizes)
    gap = difference(first, judged(seeds * base - better, sizes))
    assert gap["significant"]
    assert gap["mean"] == pytest.approx(-better.sum() / sizes.sum())
    assert gap["over_documents"][0] < gap["mean"] < gap["over_documents"][1] < 0
    # the same for every seed, but a matter of the documents
    assert not difference(first, judged(seeds * base + noise, sizes))["significant"]
    # the same for every document, but a matter of the seed
    swing = np.array([[0.05], [-0.09], [0.01]]) * sizes
    assert not difference(first, judged(seeds * base + swing, sizes))["significant"]


def test_by_source_and_the_verdict() -> None:
    sizes = np.array([10.0, 30.0, 60.0])
    own = judged(np.array([[10.0, 30, 120], [20.0, 30, 120]]), sizes, ("en", "zh", "zh"))
    assert own.by_source() == {"en": 1.5, "zh": 150 / 90}
    assert own.by_seed == [1.6, 1.7]
    assert judged(np.ones((2, 3)), sizes).by_source() == {}
    sides = [{"name": "raw"}, {"name": "clean"}]
    gap = {"mean": -0.05, "relative": -0.02, "significant": True}
    assert verdict({"sides": sides, "difference": gap}) == "clean is better than raw by 0.0500 bits per byte (2.0%)"
    assert verdict({"sides": sides, "difference": {**gap, "significant": False}}).startswith("no difference is shown: clean")


def test_models_judged_on_other_documents_are_not_compared(tmp_path: Path) -> None:
    one = judged(np.ones((2, 3)), np.array([1.0, 2.0, 3.0]))
    with pytest.raises(DataError, match="different documents"):
        difference(one, judged(np.ones((2, 3)), np.array([1.0, 2.0, 4.0])))
    for name, size in (("a", 3), ("b", 4)):
        (tmp_path / name).mkdir()
        row = {"id": "x", "source": "", "bytes": size, "bits": 2.0}
        (tmp_path / name / "judged.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="different documents"):
        read_judged([tmp_path / "a", tmp_path / "b"])
