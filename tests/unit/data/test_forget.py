"""A document is taken out of all that holds it, and nothing else changes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from lianlu.core.errors import ArtifactError
from lianlu.core.store import Artifact, InputRecord, Output, Store, damaged_files, now
from lianlu.data import clean as clean_stage
from lianlu.data import forget as module
from lianlu.data import forgotten
from lianlu.data.forget import forget
from lianlu.data.scores import scored
from lianlu.data.scores.decisions import read_decision
from lianlu.data.scores.scored import SCORED, chunks_in
from lianlu.formats.documents import Document, read_documents, write_documents, write_jsonl
from lianlu.formats.shard_index import index_path, origins
from lianlu.formats.shards import open_shard
from lianlu.recipe.recipe import build_recipe
from lianlu.recipe.run import run_recipe

URL = "https://example.org/page/7"
WORDS = ["river", "stone", "letter", "window", "garden", "paper", "copper", "winter", "bridge", "candle"]


def text(number: int) -> str:
    return " ".join(f"{WORDS[(number * 3 + k) % 10]}{number}" for k in range(60)) + "."


SECRET = text(7)
RULES = ["gopher_quality", "exact_dedup", "near_dedup"]


def documents(*, without: tuple[str, ...] = ()) -> list[Document]:
    made = [Document(f"doc{n}", text(n), url=f"https://example.org/page/{n}") for n in range(40)]
    made.append(Document("again", SECRET, url="https://example.org/copy"))
    made.append(Document("short", "too short", url="https://example.org/short"))
    return [document for document in made if document.id not in without]


def made(root: Path, tokenizer: Path, rows: list[Document]) -> tuple[Store, dict[str, Artifact]]:
    """A store in which these documents have been cleaned and tokenised."""
    root.mkdir()
    write_jsonl(root / "source.jsonl", rows)
    store = Store(root / "store")
    return store, rerun(store, root, tokenizer)


def rerun(store: Store, root: Path, tokenizer: Path) -> dict[str, Artifact]:
    clean = {"stage": "clean", "source": str(root / "source.jsonl"), "rules": RULES, "workers": 1}
    shard = {"stage": "shard", "data": "@clean", "tokenizer": str(tokenizer), "held_out": 0.2}
    results = run_recipe(build_recipe("test", {"steps": {"clean": clean, "shard": shard}}), store)
    return {result.step.name: result.artifact for result in results}


def contents(folder: Path, *suffixes: str) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(suffixes))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def held(store: Store) -> list[str]:
    """Where the words of the document are."""
    found = []
    for artifact in store.list():
        for path in sorted(artifact.path.rglob("*")):
            if path.suffix == ".bin":
                shard = open_shard(path)
                there = any(b"stone7" in bytes_of(shard.document(n)) for n in range(shard.num_documents))
            elif path.suffix == ".parquet" and "documents" not in path.stem.split(".")[1:]:
                import pyarrow.parquet as pq

                there = "stone7" in json.dumps(pq.read_table(path).to_pylist(), default=str)
            elif path.name.endswith(".documents.parquet") and path.parent.name == SCORED:
                there = any("stone7" in document.text for document in read_documents(path))
            else:
                there = path.is_file() and b"stone7" in path.read_bytes()
            if there:
                found.append(f"{artifact.manifest.step}/{path.relative_to(artifact.path)}")
    return found


def bytes_of(ids: Any) -> bytes:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join(alphabet[number] for number in ids.tolist() if number < len(alphabet)).encode()


def test_a_dry_run_lists_what_holds_it_and_changes_nothing(tokenizer_dir: Path, tmp_path: Path) -> None:
    store, steps = made(tmp_path / "a", tokenizer_dir, documents())
    before = contents(store.root, ".parquet", ".bin", ".json", ".jsonl", ".npz", ".npy")
    found = forget(store, URL)
    assert contents(store.root, ".parquet", ".bin", ".json", ".jsonl", ".npz", ".npy") == before
    clean, shard = found.found
    assert (clean.artifact.id, shard.artifact.id) == (steps["clean"].id, steps["shard"].id)
    assert clean.documents == {"part-00000.parquet": [7]}
    assert clean.chunks == clean.decisions == {0: [7]}
    [(path, numbers)] = shard.shards.items()
    assert [list(origins(open_shard(steps["shard"].path / path)))[number].id for number in numbers] == ["doc7"]
    assert shard.num_tokens == len(SECRET.encode()) + 1
    assert found.outside == sorted([str(tmp_path / "a" / "source.jsonl"), str(tokenizer_dir)])
    assert forget(store, "nobody").found == []


@pytest.mark.parametrize("name", [URL, "doc7"])
def test_what_remains_is_what_would_be_without_it(name: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    # an exact copy under another address is another document, and was dropped as a duplicate: only the ledgers know it
    store, before = made(tmp_path / "a", tokenizer_dir, documents(without=("again",)))
    assert held(store)
    forget(store, name, apply=True)
    assert held(store) == []
    _, fresh = made(tmp_path / "b", tokenizer_dir, documents(without=("again", "doc7")))
    clean, shard = (store.get(before[step].id) for step in ("clean", "shard"))
    for mine, theirs in ((clean, fresh["clean"]), (shard, fresh["shard"])):
        assert damaged_files(mine) == []
        assert mine.manifest.digest != before[mine.manifest.step].manifest.digest
        assert mine.manifest.figures["forgotten_documents"] == 1
        assert contents(mine.path, ".parquet", ".bin").keys() == contents(theirs.path, ".parquet", ".bin").keys()
    assert shard.manifest.digest == fresh["shard"].manifest.digest
    assert list(read_documents(clean.path)) == list(read_documents(fresh["clean"].path))
    index = contents(clean.path / "index", "")
    assert index == contents(fresh["clean"].path / "index", "")
    assert index
    assert not any(b"doc7" in content for content in index.values())
    [ours], [wanted] = chunks_in(clean.path / SCORED), chunks_in(fresh["clean"].path / SCORED)
    assert ours.ids() == wanted.ids()
    for array in ("ends", "num_bytes", "exact", "bands"):
        assert np.array_equal(getattr(ours, array), getattr(wanted, array))
    own, other = ours.sets(), wanted.sets()
    assert all(np.array_equal(own(row), other(row)) for row in range(len(ours)))
    record = json.loads((clean.path / "logs" / "forgotten.jsonl").read_text())
    assert record["digest_before"] == before["clean"].manifest.digest
    assert forget(store, name).found == []


def test_the_recipe_does_not_bring_it_back(tokenizer_dir: Path, tmp_path: Path) -> None:
    store, before = made(tmp_path / "a", tokenizer_dir, documents(without=("again",)))
    forget(store, URL, apply=True)
    rewritten = store.get(before["shard"].id)
    after = rerun(store, tmp_path / "a", tokenizer_dir)
    assert after["clean"].id == before["clean"].id
    assert after["shard"].manifest.digest == rewritten.manifest.digest
    assert held(store) == []


def test_what_was_dropped_or_repeated_is_found_in_ledgers_and_scores(tokenizer_dir: Path, tmp_path: Path) -> None:
    store, steps = made(tmp_path / "a", tokenizer_dir, documents())
    [holder] = forget(store, "again", apply=True).found
    assert (holder.num_documents, holder.num_tokens) == (0, 0)
    ledger = (steps["clean"].path / "rejected.jsonl").read_text()
    assert '"again"' not in ledger
    assert '"short"' in ledger
    assert '"id": "again"' not in (steps["clean"].path / "funnel.json").read_text()
    [short] = forget(store, "https://example.org/short", apply=True).found
    assert short.chunks == {0: [40]}
    assert (steps["clean"].path / "rejected.jsonl").read_text() == ""


def test_the_page_of_cleaned_data_shows_it_no_more(tokenizer_dir: Path, tmp_path: Path) -> None:
    store, steps = made(tmp_path / "a", tokenizer_dir, documents())
    page = steps["clean"].path / "logs" / "report.html"
    assert "too short" in page.read_text()
    forget(store, "https://example.org/short", apply=True)
    assert "too short" not in page.read_text()
    assert "gopher_quality" in page.read_text()
    assert damaged_files(store.get(steps["clean"].id)) == []


def test_a_killed_run_is_finished_by_the_same_command(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for death in range(1, 5):
        store, before = made(tmp_path / str(death), tokenizer_dir, documents(without=("again",)))
        calls = []

        def dying(source: Path, target: Path, death: int = death, calls: list[Path] = calls) -> None:
            calls.append(source)
            if len(calls) == death:
                raise KeyboardInterrupt
            os.replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(module.os, "rename", dying)
            with pytest.raises(KeyboardInterrupt):
                forget(store, URL, apply=True)
        forget(store, URL, apply=True)
        assert held(store) == []
        assert [store.get(before[step].id).id for step in before] == [before[step].id for step in before]
        assert not (store.root / "forget").exists()


def published(store: Store, name: str, kind: str, inputs: list[Artifact], rows: list[Document] | None = None) -> Artifact:
    work = store.work(name)
    if rows is not None:
        write_documents(work, rows)
    (work / "note.txt").write_text(name)
    records = [InputRecord(field="data", written="x", digest=one.manifest.digest, artifact=one.id) for one in inputs]
    draft = {"id": name, "kind": kind, "stage": kind, "stage_version": 1, "step": name, "key": name, "config": {}, "lianlu": "0"}
    return store.publish(
        Output(work),
        {**draft, "inputs": records, "git": "", "device": "", "started": now(), "seconds": 0, "peak_memory_bytes": 0},
    )


def test_made_of_it_is_it_and_found_with_it_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = published(
        store, "pages", "documents", [], [Document("a", "one", url=URL), Document("b", "two"), Document("a~2", "one", url="x")]
    )
    joined = Document("whole", "one\ntwo", meta={"parents": ["a", "b"]})
    retrieved = Document("like", "three", meta={"parents": ["a"], "retrieved_by": {"seeds": ["a"]}})
    both = Document("both", "one\nthree", meta={"parents": ["a", "b"], "retrieved_by": {"seeds": ["b"]}})
    second = published(store, "books", "documents", [first], [joined, retrieved, both])
    third = published(store, "more", "documents", [second], [Document("deep", "one", meta={"parents": ["whole"]})])
    other = published(store, "other", "documents", [], [Document("a", "another a", url="https://elsewhere.org")])
    model = published(store, "model", "checkpoint", [third])
    published(store, "stranger", "checkpoint", [other])
    found = forget(store, URL, apply=True)
    left = {one.id: [document.id for document in read_documents(store.get(one.id).path)] for one in (first, second, third, other)}
    assert left == {"pages": ["b", "a~2"], "books": ["like"], "more": [], "other": ["a"]}
    assert [artifact.id for artifact in found.learned] == [model.id]
    assert [holder.artifact.id for holder in forget(store, "a").found] == ["pages", "other"]


def test_decisions_made_anew_from_the_scores_of_another_stay_in_step(tokenizer_dir: Path, tmp_path: Path) -> None:
    store, steps = made(tmp_path / "a", tokenizer_dir, documents())
    anew = {"stage": "clean", "scores": steps["clean"].id, "rules": RULES, "thresholds": {"gopher_quality": {"min_words": 1}}}
    [result] = run_recipe(build_recipe("test", {"steps": {"anew": anew}}), store)
    forget(store, URL, apply=True)
    rows = chunks_in(steps["clean"].path / SCORED)[0].ids()
    for folder in (steps["clean"].path, store.get(result.artifact.id).path):
        assert [read_decision(folder, 0, row).id for row in range(len(rows))] == rows
    assert "doc7" not in [document.id for document in read_documents(result.artifact.path)]


def test_shards_without_an_index_are_named(tokenizer_dir: Path, tmp_path: Path) -> None:
    store, steps = made(tmp_path / "a", tokenizer_dir, documents())
    paths = [steps["shard"].path / name for name in ("held_out.bin", "train.bin")]
    manifest = steps["shard"].path / "manifest.json"
    value = json.loads(manifest.read_text())
    value["files"] = [record for record in value["files"] if not record["path"].endswith(".parquet")]
    manifest.write_text(json.dumps(value))
    for path in paths:
        index_path(path).unlink()
    assert forget(store, URL).unsearched == paths


def test_another_run_on_the_same_source_leaves_it_out_and_says_so_without_naming_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", documents())
    (tmp_path / "in" / "b.md").write_text(f"---\nurl: https://example.org/note\n---\n{text(90)}")
    (tmp_path / "in" / "c.txt").write_text(text(91))
    store = Store(tmp_path / "store")
    for name in (URL, "doc8", "https://example.org/note", "c.txt", "not here yet"):
        forget(store, name, apply=True)
    clean = {"stage": "clean", "source": str(tmp_path / "in"), "rules": RULES, "workers": 1}
    [result] = run_recipe(build_recipe("test", {"steps": {"clean": clean}}), store)
    path = result.artifact.path
    kept = [document.id for document in read_documents(path)]
    # the same text under another address is another document
    assert not {"doc7", "doc8", "b.md", "c.txt"} & set(kept)
    assert {"doc6", "doc9", "again"} <= set(kept)
    records = [json.loads(line) for line in (path / "rejected.jsonl").read_text().splitlines()]
    gone = [record for record in records if record["rule"].endswith(".forgotten")]
    assert sorted(record["rule"] for record in gone) == ["extract.forgotten", *["read.forgotten"] * 3]
    assert all(record["excerpt"] == record["path"] == "" and record["id"].startswith("sha256:") for record in gone)
    for word in (b"doc8", b"stone8 ", b"page/7", b"example.org/note", b"c.txt"):
        assert not any(word in file.read_bytes() for file in path.rglob("*.json*"))
    assert b"doc8" not in (store.root / "forgotten.jsonl").read_bytes()
    assert funnel_adds_up(path)
    lines = (store.root / "forgotten.jsonl").read_text().splitlines()
    assert len(lines) == 5
    forget(store, "doc8", apply=True)
    assert (store.root / "forgotten.jsonl").read_text().splitlines() == lines


def funnel_adds_up(path: Path) -> bool:
    steps = json.loads((path / "funnel.json").read_text())["steps"]
    taken = [sum(rule["documents"] for rule in step["rules"].values()) for step in steps]
    return all(step["documents_in"] - own == step["documents_out"] for step, own in zip(steps, taken, strict=True))


def test_a_line_that_is_taken_off_the_list_lets_it_in_again_and_a_damaged_list_stops_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    forget(store, "doc1", apply=True)
    assert forgotten.read(store.root).verdict(Document("doc1~2", "")) is not None
    listed = store.root / forgotten.LIST
    listed.write_text(
        "".join(line for line in listed.read_text().splitlines(True) if hashlib.sha256(b"doc1").hexdigest() not in line)
    )
    assert forgotten.read(store.root).verdict(Document("doc1", "")) is None
    listed.write_text('{"sha')
    with pytest.raises(ArtifactError, match=r"cannot read .*forgotten\.jsonl"):
        forgotten.forgotten_at(store.root / "work" / "clean-1")


def test_a_killed_clean_stage_makes_what_holds_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Document(f"doc{n}", f"{text(n)} " * 40, url=f"https://example.org/page/{n}") for n in range(100)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    store = Store(tmp_path / "store")
    clean = {"stage": "clean", "source": str(tmp_path / "a.jsonl"), "rules": ["exact_dedup"], "workers": 1}
    recipe = build_recipe("test", {"steps": {"clean": clean}})
    with monkeypatch.context() as patch:
        patch.setattr(scored, "CHUNK_BYTES", 300_000)
        patch.setattr(clean_stage, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, store)
        [work] = store.unfinished()
        assert forget(store, URL).unfinished == {work: [0]}
        forget(store, URL, apply=True)
        assert not (work / "part-00000.parquet").exists()
        assert sorted({path.name[:5] for path in (work / SCORED).iterdir()})[0] == "00001"
        assert (work / ".step").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(scored, "CHUNK_BYTES", 300_000)
        [result] = run_recipe(recipe, store)
    assert [document.id for document in read_documents(result.artifact.path)] == [f"doc{n}" for n in range(100) if n != 7]
    assert forget(store, URL).found == []


def test_a_stage_at_work_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    work = store.work("clean-1", "clean")
    (work / SCORED).mkdir()
    with store.lock("clean-1"):
        assert forget(store, URL).at_work == [work]
    assert forget(store, URL).at_work == []
