"""The int8 stage: what it writes loads, and its card tells the truth about it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.formats.documents import Document, write_documents
from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder
from lianlu.model.load import load_model
from lianlu.model.quantized import is_quantized
from lianlu.quantize.int8 import QuantizeConfig, estimate, run
from lianlu.quantize.sequences import judged_sequences
from lianlu.tokenizer.tokenizer import Tokenizer


def logits_of(model: Decoder, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)])).double()


def test_the_card_holds_what_an_independent_count_gives(checkpoint: Path, conversations: Path, tmp_path: Path) -> None:
    out = Output(tmp_path)
    run(QuantizeConfig(model=str(checkpoint), data=str(conversations)), out)
    before, after = load_model(checkpoint), load_model(tmp_path)
    assert is_quantized(after)
    old, new, wanted = [], [], []
    for sequence in judged_sequences(conversations, Tokenizer.load(checkpoint), 1024, 8192):
        marked = torch.tensor(sequence.mask[1:])
        old.append(logits_of(before, sequence.ids)[:-1][marked].log_softmax(1))
        new.append(logits_of(after, sequence.ids)[:-1][marked].log_softmax(1))
        wanted.append(torch.tensor(sequence.ids[1:])[marked])
    old_NV, new_NV, targets_N = torch.cat(old), torch.cat(new), torch.cat(wanted)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["judged_tokens"] == len(targets_N)
    for name, log in (("perplexity_before", old_NV), ("perplexity", new_NV)):
        assert card[name] == pytest.approx(math.exp(-float(log.gather(1, targets_N[:, None]).mean())), rel=1e-4)
    assert card["top1_agreement"] == pytest.approx(float((old_NV.argmax(1) == new_NV.argmax(1)).double().mean()))
    divergence = (old_NV.exp() * (old_NV - new_NV)).sum(1)
    assert card["kl_nats"] == pytest.approx(float(divergence.mean()), rel=1e-2)
    assert card["max_kl_nats"] == pytest.approx(float(divergence.max()), rel=1e-2)
    assert {key: card[key] for key in out.figures} == out.figures


def test_it_is_smaller_and_close_to_the_original(checkpoint: Path, conversations: Path, tmp_path: Path) -> None:
    out = Output(tmp_path)
    run(QuantizeConfig(model=str(checkpoint), data=str(conversations)), out)
    assert out.figures["size_ratio"] < 0.5
    assert out.figures["kl_nats"] < 0.01
    assert out.figures["perplexity"] == pytest.approx(out.figures["perplexity_before"], rel=0.05)
    assert (tmp_path / "tokenizer.json").is_file()
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    assert out.figures["bytes"] <= on_disk < 1.2 * out.figures["bytes"] + 10_000


def test_two_runs_write_the_same_bytes(checkpoint: Path, conversations: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(QuantizeConfig(model=str(checkpoint), data=str(conversations), rest="float32"), Output(tmp_path / name))
    for name in ("model.safetensors", "card.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_documents_are_judged_on_every_token(checkpoint: Path, tmp_path: Path) -> None:
    folder, tokenizer = tmp_path / "documents", Tokenizer.load(checkpoint)
    write_documents(folder, [Document(id="1", text="the cat sees"), Document(id="2", text="a dog")])
    sequences = judged_sequences(folder, tokenizer, 1024, 8192)
    assert [tokenizer.decode(s.ids) for s in sequences] == ["the cat sees", "a dog"]
    out = Output(tmp_path / "out")
    run(QuantizeConfig(model=str(checkpoint), data=str(folder)), out)
    assert out.figures["judged_tokens"] == sum(len(s.ids) - 1 for s in sequences)


def test_the_amount_judged_is_limited(checkpoint: Path, conversations: Path) -> None:
    tokenizer = Tokenizer.load(checkpoint)
    everything = judged_sequences(conversations, tokenizer, 1024, 10**6)
    assert len(judged_sequences(conversations, tokenizer, 1024, 1)) == 1 < len(everything)
    assert all(len(s.ids) <= 30 for s in judged_sequences(conversations, tokenizer, 30, 10**6))
    with pytest.raises(DataError, match="nothing to measure"):
        judged_sequences(conversations, tokenizer, 2, 10**6)


def test_a_quantised_model_is_not_quantised_again(checkpoint: Path, conversations: Path, tmp_path: Path) -> None:
    run(QuantizeConfig(model=str(checkpoint), data=str(conversations)), Output(tmp_path / "a"))
    with pytest.raises(ConfigError, match="quantised already"):
        run(QuantizeConfig(model=str(tmp_path / "a"), data=str(conversations)), Output(tmp_path / "b"))


def test_the_forecast_needs_no_inputs(checkpoint: Path) -> None:
    assert estimate(QuantizeConfig(model="@merge", data="@chat")).seconds > 0
