"""Merging: the written weights answer as the adapter did, and say by how much they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.model.load import load_model
from lianlu.model.lora import load_adapter
from lianlu.quantize.merge import MergeConfig, estimate, probe_logits, run
from lianlu.tokenizer.tokenizer import Tokenizer


def test_merged_weights_answer_as_the_adapter_did(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    out = Output(tmp_path)
    run(MergeConfig(model=str(checkpoint), adapter=str(adapter)), out)
    tokenizer = Tokenizer.load(checkpoint)
    base, adapted = load_model(checkpoint), load_model(checkpoint)
    load_adapter(adapted, adapter)
    wanted = probe_logits(adapted, tokenizer)
    got = probe_logits(load_model(tmp_path), Tokenizer.load(tmp_path))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    assert float((probe_logits(base, tokenizer) - wanted).abs().max()) > 0.1
    assert out.figures["max_logit_difference"] == pytest.approx(float((got - wanted).abs().max()), abs=1e-6)
    assert 0 < out.figures["mean_logit_difference"] < out.figures["max_logit_difference"] < 1e-4
    assert out.figures["top1_agreement"] == 1.0


def test_tokenizer_and_template_come_along(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    run(MergeConfig(model=str(checkpoint), adapter=str(adapter)), Output(tmp_path))
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (checkpoint / name).read_bytes()


def test_rounding_to_bfloat16_is_part_of_the_reported_difference(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    out = Output(tmp_path)
    run(MergeConfig(model=str(checkpoint), adapter=str(adapter), dtype="bfloat16"), out)
    assert load_model(tmp_path, torch.bfloat16).norm.weight.dtype == torch.bfloat16
    assert out.figures["max_logit_difference"] > 1e-3
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * (checkpoint / "model.safetensors").stat().st_size


def test_an_adapter_of_another_model_is_refused(adapter: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(MergeConfig(model=str(checkpoint), adapter=str(checkpoint)), Output(tmp_path))
    assert not (tmp_path / "model.safetensors").exists()


def test_the_forecast_needs_no_inputs(checkpoint: Path) -> None:
    absent = estimate(MergeConfig(model="@pretrain", adapter="@sft"))
    assert absent.seconds > estimate(MergeConfig(model=str(checkpoint), adapter="@sft")).seconds > 0
