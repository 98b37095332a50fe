"""A document is taken out of all that holds it, and nothing else changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from lianlu.core.store import Artifact, InputRecord, Output, Store, damaged_files, now
from lianlu.data import forget as module
from lianlu.data.forget import forget
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


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({symbol: number for number, symbol in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return folder


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
    [ours], [wanted] = chunks_in(clean.path / SCORED), chunks_in(fresh["clean"].path / SCORED)
    assert ours.ids() == wanted.ids()
    for array in ("ends", "num_bytes", "exact", "bands"):
        assert np.array_equal(getattr(ours, array), getattr(wanted, array))
    assert all(np.array_equal(ours.shingles(row), wanted.shingles(row)) for row in range(len(ours)))
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
