"""More documents like the seeds: BM25 against another implementation, topics, gaps, and what is taken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import enrich
from lianlu.data.enrich import EnrichConfig
from lianlu.data.retrieval.bm25 import K1, QUERY_TERMS, B, Bm25, Vocabulary, terms_of
from lianlu.data.retrieval.topics import clusters, unit
from lianlu.formats.documents import Document, read_documents, write_documents

COOKING = ["onion", "garlic", "butter", "pan", "simmer", "broth", "pepper", "saucepan", "stir", "dough", "oven", "bake"]
SAILING = ["mast", "rudder", "keel", "anchor", "harbour", "tide", "sail", "rope", "wind", "deck", "hull", "starboard"]
CHINESE = "春天的河水慢慢流过古老的石桥，岸边的柳树在风里轻轻摇动，孩子们在桥上放风筝。"
TEXTS = st.lists(st.sampled_from(["apple", "pear", "plum fig", "你好世界", "fig", "zz"]), max_size=8).map(" ".join)


def test_terms_are_words_and_pairs_of_characters() -> None:
    assert list(terms_of("The x-ray's 2 Pens: 学习机器, 好 snake_case")) == [
        *("the", "ray", "pens", "学习", "习机", "机器", "好", "snake", "case"),
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.lists(TEXTS, min_size=1, max_size=4))
def test_scores_are_those_of_the_formula(pool: list[str], seeds: list[str]) -> None:
    vocabulary = Vocabulary()
    own = vocabulary.counts([Document(str(n), text) for n, text in enumerate(seeds)], grow=True)
    theirs = vocabulary.counts([Document(str(n), text) for n, text in enumerate(pool)])
    bm25 = Bm25([own, theirs], len(vocabulary.numbers))
    scores = bm25.scores(theirs, bm25.queries(own))
    everything = [Counter(terms_of(text)) for text in [*seeds, *pool]]
    mean = max(sum(one.total() for one in everything) / len(everything), 1)

    def weight(term: str, counts: Counter[str]) -> float:
        holding = sum(term in one for one in everything)
        idf = np.log1p((len(everything) - holding + 0.5) / (holding + 0.5))
        return float(idf * counts[term] / (counts[term] + K1 * (1 - B + B * counts.total() / mean)))

    for column, seed in enumerate(everything[: len(seeds)]):
        assert len(seed) <= QUERY_TERMS
        full = sum(weight(term, seed) for term in seed)
        for row, one in enumerate(everything[len(seeds) :]):
            wanted = sum(weight(term, one) for term in seed) / full if full else 0
            assert scores[row, column] == pytest.approx(wanted)


def test_scores_are_those_of_another_library(shared_data: Path) -> None:
    bm25s = pytest.importorskip("bm25s")
    documents = [
        document for document, _ in zip(read_documents(shared_data / "corpora/zh_lctt.jsonl.gz"), range(60), strict=False)
    ]
    vocabulary = Vocabulary()
    counts = vocabulary.counts(documents, grow=True)
    bm25 = Bm25([counts], len(vocabulary.numbers))
    queries = bm25.queries(counts)
    other = bm25s.BM25(k1=K1, b=B, method="lucene")
    other.index([list(terms_of(document.text)) for document in documents], show_progress=False)
    terms, scores = list(vocabulary.numbers), bm25.scores(counts, queries)
    for seed in (0, 17, 59):
        asked = [
            term
            for number, term in enumerate(terms)
            if seed in queries.queries[queries.starts[number] : queries.starts[number + 1]]
        ]
        assert len(asked) == QUERY_TERMS
        theirs = other.get_scores(asked)
        assert scores[:, seed] * queries.own[seed] == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@given(st.integers(1, 6), st.integers(0, 100))
def test_clusters_are_numbered_without_a_gap_and_settled(count: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(20, 3)))
    labels = clusters(vectors, count)
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))
    assert labels.max() < count
    assert np.array_equal(labels, clusters(vectors, count))
    assert len(set(clusters(np.repeat(vectors[:2], 5, axis=0), 4).tolist())) == 2


def about(words: list[str], number: int, count: int = 40) -> str:
    draw = np.random.default_rng(number)
    return " ".join(draw.choice(words, count)) + f" number{number}"


def run(tmp_path: Path, name: str = "out", **config: object) -> Output:
    seeds = [Document(f"cook{n}", about(COOKING, n)) for n in range(5)] + [
        Document(f"sail{n}", about(SAILING, n)) for n in range(4)
    ]
    pool = [Document(f"pool-cook{n}", about(COOKING, 100 + n)) for n in range(8)]
    pool += [Document(f"pool-sail{n}", about(SAILING, 200 + n), meta={"kept": n, "parents": ["page"]}) for n in range(3)]
    pool += [Document("seed again", "\n" + about(COOKING, 2) + "  "), Document("twice", pool[0].text + " ")]
    pool += [Document("far", "entirely different words stand in this sentence"), Document("zh", CHINESE), Document("none", "")]
    for folder, rows in (("seeds", seeds), ("pool", pool)):
        write_documents(tmp_path / folder, rows)
    (tmp_path / name).mkdir()
    out = Output(tmp_path / name)
    given = {"seeds": str(tmp_path / "seeds"), "pool": str(tmp_path / "pool"), "topics": 2, **config}
    enrich.run(EnrichConfig.model_validate(given), out)
    return out


@pytest.mark.parametrize("method", ["bm25", "hybrid"])
def test_every_topic_is_filled_to_its_quota_and_gaps_are_told(tmp_path: Path, method: str) -> None:
    out = run(tmp_path, method=method, documents_per_topic=9)
    topics = json.loads((out.path / "gaps.json").read_text())["topics"]
    cooking, sailing = sorted(topics, key=lambda topic: -topic["seeds"])
    assert set(cooking.pop("topic").split()) < {*COOKING}
    assert set(sailing.pop("topic").split()) < {*SAILING}
    assert cooking == {"seeds": 5, "wanted": 9, "corpus": 5, "offered": 8, "taken": 4, "missing": 0}
    assert sailing == {"seeds": 4, "wanted": 9, "corpus": 4, "offered": 3, "taken": 3, "missing": 2}
    found = list(read_documents(out.path))
    assert [document.id for document in found if "sail" in document.id] == [f"pool-sail{n}" for n in range(3)]
    assert sum("cook" in document.id for document in found) == 4
    assert len(found) == 7 == out.figures["documents"]
    for document in found:
        kind = "cook" if "cook" in document.id else "sail"
        seeds = document.meta["retrieved_by"]["seeds"]
        assert 1 <= len(seeds) <= 3
        assert all(seed.startswith(kind) for seed in seeds)
        assert document.meta["parents"] == (["page", *seeds] if kind == "sail" else seeds)
        assert document.meta["retrieved_by"]["method"] == method
        assert document.meta["retrieved_by"]["score"] >= 0.12
    assert [document.meta["kept"] for document in found if "sail" in document.id] == [0, 1, 2]


def test_the_best_of_a_topic_are_taken_and_the_same_each_time(tmp_path: Path) -> None:
    everything = {d.id: d.meta["retrieved_by"]["score"] for d in read_documents(run(tmp_path, "all").path)}
    first, again = (run(tmp_path, name, documents_per_topic=7).path for name in ("first", "again"))
    some = [document.id for document in read_documents(first) if "cook" in document.id]
    best = sorted((name for name in everything if "cook" in name), key=lambda name: -everything[name])[:2]
    assert sorted(some) == sorted(best)
    for name in ("part-00000.parquet", "gaps.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_what_the_corpus_has_is_counted_and_not_taken_again(tmp_path: Path) -> None:
    corpus = [Document(f"have{n}", about(SAILING, 200 + n)) for n in range(2)]
    write_documents(tmp_path / "corpus", corpus)
    out = run(tmp_path, corpus=str(tmp_path / "corpus"), documents_per_topic=10)
    found = [document.id for document in read_documents(out.path)]
    assert [name for name in found if "sail" in name] == ["pool-sail2"]
    topics = {topic["seeds"]: topic for topic in json.loads((out.path / "gaps.json").read_text())["topics"]}
    assert (topics[4]["corpus"], topics[4]["taken"], topics[4]["missing"]) == (2, 1, 7)
    assert (topics[5]["corpus"], "seed again" in found) == (0, False)


def test_empty_seeds_or_pool_are_errors(tmp_path: Path) -> None:
    write_documents(tmp_path / "empty", [Document("x", " ")])
    with pytest.raises(DataError, match=r"the seeds in .* have no words"):
        run(tmp_path, "a", seeds=str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"the pool in .* have no words"):
        run(tmp_path, "b", pool=str(tmp_path / "empty"))
    assert enrich.estimate(EnrichConfig(seeds="x", pool=str(tmp_path / "nowhere"))).seconds > 0
