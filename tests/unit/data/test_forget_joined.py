"""A file that was joined with others to a document is nowhere any more, and the others still are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from lianlu.core.store import Artifact, Store, damaged_files
from lianlu.data import forget as module
from lianlu.data.forget import forget
from lianlu.data.scores.scored import SCORED, chunks_in
from lianlu.formats.documents import Document, read_documents, write_documents
from lianlu.formats.shards import open_shard
from lianlu.recipe.recipe import build_recipe
from lianlu.recipe.run import run_recipe

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
URL = "https://example.org/ship/keel.py"
TOPICS = {"ship": ("keel", "mast", "sail"), "barn": ("hay", "cart", "keeldoor")}
SECRET, OTHER = "secretkeel", "plainmast"


def code(topic: str) -> str:
    word = SECRET if topic == "keel" else f"plain{topic}"
    return "\n".join(
        f"def {word}_{name}(first, second):\n    return first + second * {len(name)}\n" for name in ("a", "bb", "ccc")
    )


def files() -> list[dict[str, Any]]:
    return [
        {"id": f"{repo}/{topic}.py", "path": f"{topic}.py", "url": f"https://example.org/{repo}/{topic}.py", "text": code(topic)}
        | {"repo": repo, "domain": "code", "lang": "python"}
        for repo, topics in TOPICS.items()
        for topic in topics
    ]


def steps(root: Path) -> dict[str, dict[str, Any]]:
    return {
        "code": {"stage": "clean", "source": str(root / "rows.jsonl"), "rules": [], "workers": 1},
        "join": {"stage": "repositories", "data": "@code"},
        "found": {"stage": "enrich", "seeds": str(root / "seeds"), "pool": "@join", "method": "bm25", "min_score": 0.001},
        "clear": {"stage": "decontaminate", "data": "@join", "items": str(root / "items")},
        "again": {"stage": "clean", "source": "@join", "rules": ["near_dedup"], "workers": 1},
        "shard": {"stage": "shard", "data": "@clear", "tokenizer": str(root / "tokenizer"), "held_out": 0.0},
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources and a store, where a file is in one joined document, and that in all that is made of it."""
    root = tmp_path_factory.mktemp("made")
    for folder in ("seeds", "items", "tokenizer"):
        (root / folder).mkdir(parents=True)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in files()))
    write_documents(root / "seeds", [Document("seed", code("mast") + code("hay"))])
    text = "a question of twelve words or more that nobody would ever write into a program of theirs at all"
    write_documents(root / "items", [Document("t/1/question", text, meta={"task": "t", "item": "1", "part": "question"})])
    backend = Backend(models.BPE({symbol: number for number, symbol in enumerate(ALPHABET)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.save(str(root / "tokenizer" / "tokenizer.json"))
    (root / "tokenizer" / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    rerun(Store(root / "store"), root)
    return root


def copied(once: Path, root: Path) -> tuple[Store, dict[str, Artifact]]:
    """A copy of that, and its artifacts by step."""
    shutil.copytree(once, root, dirs_exist_ok=True)
    store = Store(root / "store")
    return store, {artifact.manifest.step: artifact for artifact in store.list()}


def rerun(store: Store, root: Path) -> dict[str, Artifact]:
    return {result.step.name: result.artifact for result in run_recipe(build_recipe("test", {"steps": steps(root)}), store)}


def words(path: Path) -> str:
    """What a file says, whatever it is."""
    if path.suffix == ".bin":
        shard = open_shard(path)
        ids = (number for place in range(shard.num_documents) for number in shard.document(place).tolist())
        return "".join(ALPHABET[number] for number in ids if number < len(ALPHABET))
    if path.suffix == ".parquet":
        return json.dumps(pq.read_table(path).to_pylist(), default=str)
    return path.read_bytes().decode("utf-8", "replace")


def holding(store: Store, word: str) -> Iterator[str]:
    """The files of the store that say a word; records of what was forgotten may name it."""
    for folder in ("artifacts", "work", "forget"):
        for path in (store.root / folder).rglob("*"):
            if path.is_file() and path.name not in ("forgotten.jsonl", "manifest.json") and word in words(path):
                yield f"{path.relative_to(store.root / folder)}".partition("-")[0] + "/" + path.name


@pytest.mark.parametrize("name", [URL, "ship/keel.py"])
def test_one_file_of_a_joined_document_is_nowhere_any_more(name: str, once: Path, tmp_path: Path) -> None:
    store, before = copied(once, tmp_path)
    assert {name.partition("/")[0] for name in holding(store, SECRET)} == {
        *("clean", "repositories", "enrich", "decontaminate", "shard")
    }
    told = {holder.artifact.manifest.step for holder in forget(store, name).found}
    assert told == set(before)
    forget(store, name, apply=True)
    assert list(holding(store, SECRET)) == []
    assert forget(store, name).found == []
    after = {step: store.get(artifact.id) for step, artifact in before.items()}
    assert all(damaged_files(artifact) == [] for artifact in after.values())
    for step in ("join", "found", "clear"):  # the other files of the document are where they were
        ship = {document.id: document for document in read_documents(after[step].path)}["ship"]
        assert ship.meta["parents"][:2] == ["ship/mast.py", "ship/sail.py"]
        assert ship.text == f"# ship\n\n{block('mast')}\n{block('sail')}"
        figures = after[step].manifest.figures
        assert (figures["forgotten_documents"], figures["shortened_documents"]) == (0, 1)
    # shards and scores lose the whole document, and nothing but it
    assert [document.id for document in read_documents(after["again"].path)] == ["barn"]
    assert [chunk.ids() for chunk in chunks_in(after["again"].path / SCORED)] == [["barn"]]
    assert OTHER not in words(after["shard"].path / "train.bin")
    assert "keeldoor" in words(after["shard"].path / "train.bin")


def block(topic: str) -> str:
    return f"## {topic}.py\n\n```python\n{code(topic)}```\n"


def test_the_next_run_joins_the_files_that_are_left(once: Path, tmp_path: Path) -> None:
    store, _ = copied(once, tmp_path)
    forget(store, URL, apply=True)
    after = rerun(store, tmp_path)
    assert list(holding(store, SECRET)) == []
    for step in ("join", "again"):
        assert {document.id for document in read_documents(after[step].path)} == {"ship", "barn"}
    assert OTHER in words(after["shard"].path / "train.bin")


@pytest.mark.parametrize("death", [0, 1, 6, 11])
def test_a_run_that_is_killed_between_artifacts_is_finished_by_the_same_command(
    death: int, once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = copied(once, tmp_path)
    plain, calls = module.os.rename, []

    def dying(source: Path, target: Path) -> None:
        if len(calls) == death:
            raise KeyboardInterrupt
        calls.append(source)
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            forget(store, URL, apply=True)
    forget(store, URL, apply=True)
    assert list(holding(store, SECRET)) == []
    assert {artifact.id for artifact in store.list()} == {artifact.id for artifact in before.values()}
    assert not (store.root / "forget").exists()


@pytest.mark.parametrize("death", [1, 4, 6])
def test_a_run_that_is_killed_while_it_makes_copies_has_changed_nothing(
    death: int, once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = copied(once, tmp_path)
    plain, calls = module._write_manifest, []

    def dying(*given: Any) -> None:
        calls.append(given)
        if len(calls) == death:
            raise KeyboardInterrupt
        plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_manifest", dying)
        with pytest.raises(KeyboardInterrupt):
            forget(store, URL, apply=True)
    assert {artifact.id: artifact.manifest.digest for artifact in store.list()} == {
        artifact.id: artifact.manifest.digest for artifact in before.values()
    }
    forget(store, URL, apply=True)
    assert list(holding(store, SECRET)) == []


def test_a_part_that_cannot_be_told_for_sure_takes_the_document_with_it(tmp_path: Path) -> None:
    rows = files()
    rows[1]["text"] = f'"""\n## keel.py\n\n{SECRET}?"""\n' + rows[1]["text"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(tmp_path / "store")
    own = {step: config for step, config in steps(tmp_path).items() if step in ("code", "join")}
    results = run_recipe(build_recipe("test", {"steps": own}), store)
    forget(store, URL, apply=True)
    join = store.get(results[1].artifact.id)
    assert [document.id for document in read_documents(join.path)] == ["barn"]
    assert join.manifest.figures["forgotten_documents"] == 1


def test_other_stages_that_were_killed_with_it_start_again(once: Path, tmp_path: Path) -> None:
    store, before = copied(once, tmp_path)
    joined, sharded = store.work("repositories-000000000001", "join"), store.work("shard-000000000001", "shard")
    write_documents(joined, list(read_documents(before["join"].path)))
    (joined / ".part-00001.parquet.0123456789ab.tmp").write_text(SECRET)
    (sharded / ".resume").mkdir()
    (sharded / ".resume" / "00000.json").write_text(json.dumps([["ship", "", "", "", 1]]))
    (sharded / ".resume" / "00000.bin").write_bytes((before["shard"].path / "train.bin").read_bytes())
    other = store.work("shard-000000000002", "shard")
    (other / ".resume").mkdir()
    (other / ".resume" / "00000.json").write_text(json.dumps([["barn", "", "", "", 1]]))
    assert set(forget(store, URL).begun) == {joined, sharded}
    with store.lock(joined.name):
        assert forget(store, URL).at_work == [joined]
    forget(store, URL, apply=True)
    assert list(holding(store, SECRET)) == []
    assert [path.name for folder in (joined, sharded) for path in folder.rglob("*")] == [".step", ".step"]
    assert (other / ".resume" / "00000.json").exists()
