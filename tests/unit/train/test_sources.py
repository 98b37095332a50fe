"""Shard folders of a run: what they are called, that they agree, and what is held out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.formats.shards import ShardWriter
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.portions import folder_names
from lianlu.train.sources import open_corpora, vocabulary_difference


def folder(root: Path, name: str, step: object = None) -> str:
    (root / name).mkdir()
    if step is not None:
        (root / name / "manifest.json").write_text(json.dumps({"step": step}))
    return str(root / name)


def changed(shards: Path, target: Path, **tokens: int) -> Path:
    """A copy of a shard folder whose tokenizer has other ids for some tokens."""
    shutil.copytree(shards, target)
    table = json.loads((target / "tokenizer.json").read_text())
    old = {index: token for token, index in table["model"]["vocab"].items()}
    for token, index in tokens.items():
        table["model"]["vocab"][old[index]] = table["model"]["vocab"][token]
        table["model"]["vocab"][token] = index
    (target / "tokenizer.json").write_text(json.dumps(table))
    return target


def test_a_source_is_called_as_the_step_that_made_it(tmp_path: Path) -> None:
    made = [
        folder(tmp_path, "shard-0a1b2c", "shard-en"),
        folder(tmp_path, "shard-3d4e5f", "zh.wiki_shards"),
        folder(tmp_path, "shard-6a7b8c", "shard"),
        folder(tmp_path, "my corpus"),
        folder(tmp_path, "odd", [1]),
        folder(tmp_path, "+"),
    ]
    assert folder_names(made) == ["en", "zh_wiki", "shard", "my_corpus", "1", "source"]


def test_equal_names_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [folder(tmp_path / "a", "text"), folder(tmp_path / "b", "text"), folder(tmp_path, "code")]
    assert folder_names(folders) == ["text_1", "text_2", "code"]


def test_vocabularies_are_compared_id_by_id(shards: Path, tmp_path: Path) -> None:
    own = Tokenizer.load(shards)
    assert vocabulary_difference(own, own) == ""
    same = shutil.copytree(shards, tmp_path / "same")
    table = json.loads((same / "tokenizer_config.json").read_text())
    (same / "tokenizer_config.json").write_text(json.dumps({**table, "chat_template": "{{ messages }}"}))
    assert vocabulary_difference(own, Tokenizer.load(same)) == ""
    other = Tokenizer.load(changed(shards, tmp_path / "other", a=300))
    assert "id" in vocabulary_difference(own, other)
    table = json.loads((same / "tokenizer.json").read_text())
    last = max(table["model"]["vocab"], key=lambda token: table["model"]["vocab"][token])
    del table["model"]["vocab"][last]
    table["model"]["merges"] = [merge for merge in table["model"]["merges"] if "".join(merge) != last]
    (same / "tokenizer.json").write_text(json.dumps(table))
    fewer = Tokenizer.load(same)
    assert "has 316 ids, the other 315" in vocabulary_difference(own, fewer)
    assert vocabulary_difference(fewer, own) == ""


def test_sources_with_different_tokenizers_are_not_mixed(shards: Path, number_shards: Path, tmp_path: Path) -> None:
    first, second = open_corpora([str(shards), str(number_shards)], (), 1000)
    assert second.train.first_document == first.train.shard.num_documents
    other = changed(shards, tmp_path / "other", a=300)
    with pytest.raises(DataError, match=r"numbers and other were made with different tokenizers: id \d+ is"):
        open_corpora([str(number_shards), str(other)], ("numbers", "other"), 1000)
    shutil.copytree(shards, tmp_path / "end")
    with ShardWriter(tmp_path / "end" / "train.bin", 320) as shard:
        shard.add([5, 6, 1], text_bytes=4)
    with pytest.raises(DataError, match="their shards disagree"):
        open_corpora([str(shards), str(tmp_path / "end")], (), 1000)


def test_held_out_text_is_divided_among_the_sources(shards: Path, number_shards: Path) -> None:
    both = open_corpora([str(shards), str(number_shards)], (), 300)
    for corpus in both:
        segments = corpus.held_out.segments(16)
        assert max(segment.num_tokens for segment in segments) <= 16
        tokens = sum(segment.num_tokens for segment in segments)
        lengths = corpus.held_out.shard.offsets[1:] - corpus.held_out.shard.offsets[:-1]
        assert tokens <= max(150, lengths.min())
        assert corpus.held_out.num_bytes == int(corpus.held_out.shard.text_bytes[corpus.held_out.documents].sum())
