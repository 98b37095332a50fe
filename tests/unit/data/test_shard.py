from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import shard
from lianlu.data.shard import ShardConfig
from lianlu.formats.documents import Document, write_documents
from lianlu.formats.shard_index import document_at, origins, range_of
from lianlu.formats.shards import TokenShard, open_shard
from lianlu.tokenizer.tokenizer import Tokenizer

DOCUMENTS = [Document(f"doc{n}", f"text number {n} 你好 <|endoftext|> " * (n % 5 + 1)) for n in range(200)]


def run(data: Path, tokenizer: Path, target: Path, **config: float) -> Output:
    target.mkdir(exist_ok=True)
    out = Output(target)
    shard.run(ShardConfig(data=str(data), tokenizer=str(tokenizer), **config), out)  # type: ignore[arg-type]
    return out


def texts(opened: TokenShard, tokenizer: Path) -> list[str]:
    loaded = Tokenizer.load(tokenizer)
    return [loaded.decode(opened.document(index).tolist()) for index in range(opened.num_documents)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    write_documents(folder, DOCUMENTS, rows_per_part=70)
    return folder


def test_every_document_is_in_one_shard_with_its_end_and_its_bytes(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    out = run(data, tokenizer_dir, tmp_path / "out", held_out=0.2)
    train, held_out = open_shard(out.path / "train.bin"), open_shard(out.path / "held_out.bin")
    found = texts(train, tokenizer_dir) + texts(held_out, tokenizer_dir)
    assert sorted(found) == sorted(document.text for document in DOCUMENTS)
    assert 20 <= held_out.num_documents <= 60
    for opened in (train, held_out):
        for index in range(opened.num_documents):
            ids = opened.document(index)
            assert ids[-1] == 256
            assert 256 not in ids[:-1]
            assert len(ids) - 1 == opened.text_bytes[index]
    assert out.figures["tokens"] == train.num_tokens + held_out.num_tokens
    assert out.figures["bytes_per_token"] == 1.0
    assert Tokenizer.load(out.path).vocab_size == 257
    assert sorted(path.name for path in out.path.iterdir()) == [
        "held_out.bin",
        "held_out.documents.parquet",
        "tokenizer.json",
        "tokenizer_config.json",
        "train.bin",
        "train.documents.parquet",
    ]


def test_every_token_leads_to_its_document_and_back(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    out = run(data, tokenizer_dir, tmp_path / "out", held_out=0.2)
    found = {}
    for name in ("train.bin", "held_out.bin"):
        opened = open_shard(out.path / name)
        for text, origin in zip(texts(opened, tokenizer_dir), origins(opened), strict=True):
            [place] = range_of(opened, origin.id)
            assert document_at(opened, place.start).origin == document_at(opened, place.stop - 1).origin == origin
            found[origin.id] = text
    assert found == {document.id: document.text for document in DOCUMENTS}


def test_weights_repeat_documents_and_leave_them_out(tokenizer_dir: Path, tmp_path: Path) -> None:
    weights = [0, 0.5, 1, 2, 9, 1.5]
    documents = [Document(f"d{n}", f"text {n}", meta={"weight": weights[n % 6]}) for n in range(600)]
    write_documents(tmp_path / "data", [*documents, Document("plain", "text without a weight")])
    plain = run(tmp_path / "data", tokenizer_dir, tmp_path / "plain", held_out=0.1)
    out = run(tmp_path / "data", tokenizer_dir, tmp_path / "out", held_out=0.1, weighted=True, max_weight=3)
    times = Counter(origin.id for origin in origins(open_shard(out.path / "train.bin")))
    held = Counter(origin.id for origin in origins(open_shard(out.path / "held_out.bin")))
    assert set(held.values()) == {1}
    assert not set(held) & set(times)
    assert {origin.id for origin in origins(open_shard(plain.path / "held_out.bin"))} >= set(held)
    trained = {n: [times[f"d{k}"] for k in range(n, 600, 6) if f"d{k}" not in held] for n in range(6)}
    assert set(trained[0]) == {0}
    assert set(trained[1]) == {0, 1}
    assert set(trained[2]) == {1} == {times["plain"] + held["plain"]}
    assert set(trained[3]) == {2}
    assert set(trained[4]) == {3}
    assert set(trained[5]) == {1, 2}
    assert 30 <= sum(trained[1]) <= 60
    assert out.figures["documents_left_out"] == sum(1 for n in range(600) if not times[f"d{n}"] and not held[f"d{n}"])
    assert len(range_of(open_shard(out.path / "train.bin"), "d4")) == 3


def test_a_weight_that_is_none_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    for number, weight in enumerate([-1, "2", True, float("nan"), float("inf")]):
        folder = tmp_path / str(number)
        write_documents(folder, [Document("a", "text"), Document("b", "text", meta={"weight": weight})])
        run(folder, tokenizer_dir, tmp_path / f"plain{number}")
        with pytest.raises(DataError, match="document b has weight"):
            run(folder, tokenizer_dir, tmp_path / f"out{number}", weighted=True)


def test_tier_and_weight_of_each_document_stand_in_the_index(tokenizer_dir: Path, tmp_path: Path) -> None:
    metas: list[dict[str, object]] = [{"tier": "high", "weight": 2}, {"tier": "low"}, {}, {"weight": "heavy"}, {"tier": None}]
    write_documents(tmp_path / "data", [Document(f"d{n}", f"text {n}", meta=metas[n % 5]) for n in range(50)])
    out = run(tmp_path / "data", tokenizer_dir, tmp_path / "out", held_out=0.2)
    wanted = [("high", 2.0), ("low", 1.0), ("", 1.0), ("", 1.0), ("", 1.0)]
    for name in ("train.bin", "held_out.bin"):
        found = list(origins(open_shard(out.path / name)))
        assert found
        assert all((origin.tier, origin.weight) == wanted[int(origin.id[1:]) % 5] for origin in found)


def test_crop_and_pad_rates_are_told(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    config = ShardConfig(data=str(data), tokenizer=str(tokenizer_dir), sequence_lengths=(64, 4096))
    (tmp_path / "out").mkdir()
    out = Output(tmp_path / "out")
    shard.run(config, out)
    short, long = (out.figures["packing"][length] for length in ("64", "4096"))
    lengths = np.diff(open_shard(out.path / "train.bin").offsets)
    assert short["cropped_documents"] == round(float((lengths > 64).mean()), 6) > 0
    assert long["cropped_tokens"] == 0 < short["cropped_tokens"] < 1
    assert long["num_sequences"] == -(-lengths.sum() // 4096)


def test_several_folders_become_one_set(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    more = [Document(f"more{n}", f"another text {n}") for n in range(40)]
    write_documents(tmp_path / "more", more)
    (tmp_path / "out").mkdir()
    out = Output(tmp_path / "out")
    config = ShardConfig(data=(str(data), str(tmp_path / "more")), tokenizer=str(tokenizer_dir))
    shard.run(config, out)
    found = [text for name in ("train.bin", "held_out.bin") for text in texts(open_shard(out.path / name), tokenizer_dir)]
    assert sorted(found) == sorted(document.text for document in [*DOCUMENTS, *more])
    one = shard.estimate(ShardConfig(data=str(data), tokenizer=str(tokenizer_dir)))
    assert shard.estimate(config).seconds > one.seconds


def test_the_seed_moves_documents_but_not_the_split(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    shards = [run(data, tokenizer_dir, tmp_path / str(n), seed=n).path for n in (0, 1)]
    again = run(data, tokenizer_dir, tmp_path / "again", seed=0).path
    assert (again / "train.bin").read_bytes() == (shards[0] / "train.bin").read_bytes() != (shards[1] / "train.bin").read_bytes()
    held = [sorted(texts(open_shard(path / "held_out.bin"), tokenizer_dir)) for path in shards]
    assert held[0] == held[1]
    order = texts(open_shard(shards[0] / "train.bin"), tokenizer_dir)
    assert order != sorted(order)


def test_the_split_of_a_document_does_not_depend_on_the_others(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    write_documents(more, [*DOCUMENTS, *(Document(f"new{n}", f"another {n}") for n in range(100))])
    before = set(texts(open_shard(run(data, tokenizer_dir, tmp_path / "a").path / "held_out.bin"), tokenizer_dir))
    after = set(texts(open_shard(run(more, tokenizer_dir, tmp_path / "b").path / "held_out.bin"), tokenizer_dir))
    assert before <= after


def test_a_killed_stage_reuses_finished_parts(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib\nfrom lianlu.core.store import Output\nfrom lianlu.data import shard\n"
        "made = shard._arranged\nshard._arranged = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "shard.run(shard.ShardConfig(data=sys.argv[1], tokenizer=sys.argv[2]), Output(pathlib.Path(sys.argv[3])))\n"
    )
    target = tmp_path / "out"
    target.mkdir()
    done = subprocess.run([sys.executable, "-c", program, data, tokenizer_dir, target], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    parts = sorted((target / ".resume").glob("*.bin"))
    assert len(parts) == 3
    for path in parts:
        os.utime(path, (1, 1))
    run(data, tokenizer_dir, target)
    whole = run(data, tokenizer_dir, tmp_path / "whole").path
    assert (target / "train.bin").read_bytes() == (whole / "train.bin").read_bytes()


def test_small_sets_hold_something_out_and_leave_something(tokenizer_dir: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    write_documents(two, DOCUMENTS[:2])
    figures = run(two, tokenizer_dir, tmp_path / "a", held_out=0.01).figures
    assert (figures["train_documents"], figures["held_out_documents"]) == (1, 1)
    assert run(two, tokenizer_dir, tmp_path / "b", held_out=0).figures["held_out_documents"] == 0
    empty = tmp_path / "empty"
    write_documents(empty, [])
    with pytest.raises(DataError, match="none is left for training"):
        run(empty, tokenizer_dir, tmp_path / "c")


def test_a_vocabulary_without_an_end_is_refused(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    backend = Backend(models.BPE({"a": 0}, []))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataError, match="no end-of-text token"):
        run(data, tmp_path, tmp_path / "out")


def test_the_estimate_does_not_need_the_documents(tmp_path: Path, data: Path) -> None:
    assert shard.estimate(ShardConfig(data=str(tmp_path / "absent"), tokenizer="x")).seconds > 0
    assert shard.estimate(ShardConfig(data=str(data), tokenizer="x")).seconds > 0
