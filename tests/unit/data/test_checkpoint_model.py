"""A checkpoint as judge of texts: the same answer whatever else is asked, short contexts, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from lianlu.core.errors import ConfigError, DataError, RequestError
from lianlu.data.filters.checkpoint_model import CheckpointModel
from lianlu.data.filters.perplexity import opened
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.model.likelihood import bits
from lianlu.model.save import save_model

END = "<|endoftext|>"
TEXT = "A paragraph of plain words, 再加上几个汉字。\n" * 30


def config_of(positions: int) -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.4,
    )


def write(folder: Path, positions: int = 512, seed: int = 3, end: str = END) -> Path:
    """A random model whose tokenizer has a token for each byte."""
    save_model(build_model(config_of(positions), seed), folder)
    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Library(models.BPE(alphabet, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([end])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end} if end == END else {}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CheckpointModel:
    return CheckpointModel(write(tmp_path_factory.mktemp("model")), piece_bytes=128, max_pieces=3)


def test_a_text_has_one_value(model: CheckpointModel) -> None:
    first = model.bits_per_byte(TEXT)
    model.bits_per_byte("something else")
    assert model.bits_per_byte(TEXT) == first
    assert 5 < first < 20
    assert np.isnan(model.bits_per_byte(""))
    assert opened.__wrapped__(str(model._tokenizer.name).rsplit("/", 1)[0]).bits_per_byte("abc") == model.bits_per_byte("abc")


def test_likelihoods_obey_the_chain_rule(model: CheckpointModel) -> None:
    ids = np.random.default_rng(0).integers(0, 256, 60).tolist()
    whole, front, back = bits(model._model, [(ids, 1), (ids[:25], 1), (ids, 25)])
    assert whole == pytest.approx(front + back, rel=1e-5)


def test_packing_and_threads_change_nothing(model: CheckpointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    sequences = [(rng.integers(0, 256, size).tolist(), 1) for size in (2, 30, 200, 77, 5)]
    together = bits(model._model, sequences)
    monkeypatch.setattr("lianlu.model.likelihood.PASS_TOKENS", 90)
    threads = torch.get_num_threads()
    assert bits(model._model, sequences) == pytest.approx(together, rel=1e-5)
    assert torch.get_num_threads() == threads


def test_what_no_model_can_answer_is_refused(model: CheckpointModel) -> None:
    with pytest.raises(RequestError, match="first token"):
        bits(model._model, [([1, 2], 0)])
    with pytest.raises(RequestError, match="514 tokens"):
        bits(model._model, [([1] * 515, 1)])


def test_a_context_is_compared_with_none(model: CheckpointModel) -> None:
    context, text = "the context before, ", "and the text after it"
    ids = [256, *model._tokenizer.encode(context), *model._tokenizer.encode_within(text)]
    place = 1 + len(context)
    after, alone = bits(model._model, [(ids, place), ([256, *ids[place:]], 1)])
    assert model.context_cost([(context, text)]) == pytest.approx([(after - alone) / len(text)])
    assert model.context_cost([("", text)]) == [0.0]


def test_of_a_long_context_the_end_counts(model: CheckpointModel) -> None:
    text = "the text"
    assert model.context_cost([("x" * 5000 + TEXT[:504], text)]) == model.context_cost([("yy" + TEXT[:504], text)])


def test_the_digest_is_in_the_settings(model: CheckpointModel, tmp_path: Path) -> None:
    other = CheckpointModel(write(tmp_path, seed=4))
    assert model.fingerprint() != other.fingerprint()
    assert json.loads(json.dumps(other.fingerprint())) == other.fingerprint()
    assert CheckpointModel(tmp_path).fingerprint() == other.fingerprint()


def test_a_short_model_gets_short_pieces(tmp_path: Path) -> None:
    model = CheckpointModel(write(tmp_path, positions=128))
    assert model.piece_bytes == 64
    assert np.isfinite(model.bits_per_byte(TEXT))
    assert np.isfinite(model.context_cost([(TEXT[:64], "汉" * 21)])).all()
    with pytest.raises(DataError, match="more tokens"):
        model.context_cost([("", "x" * 200)])


def test_what_is_no_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model"):
        CheckpointModel(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="96 tokens"):
        CheckpointModel(write(tmp_path / "short", positions=96))
    with pytest.raises(ConfigError, match="begins or ends"):
        CheckpointModel(write(tmp_path / "endless", end="<|other|>"))
