"""Merging: the written weights answer as the adapter did, and say by how much they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.model.decoder import build_model
from lianlu.model.load import load_model, read_config
from lianlu.model.lora import LoraSpec, add_lora, load_adapter, save_adapter
from lianlu.model.save import save_model
from lianlu.quantize.merge import MergeConfig, bases, estimate, probe_logits, run
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


@pytest.fixture(scope="module")
def wider(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with layers that have whole blocks of NF4."""
    folder = tmp_path_factory.mktemp("wider") / "wider"
    config = read_config(checkpoint).model_copy(update={"hidden_size": 64, "head_dim": 16})
    save_model(build_model(config, seed=4), folder)
    Tokenizer.load(checkpoint).save(folder)
    return folder


@pytest.fixture(params=["lora", "dora"])
def qlora(wider: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    model = load_model(wider, quant="nf4")
    add_lora(model, LoraSpec(rank=4, dora=request.param == "dora"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    save_adapter(model, tmp_path / "qlora", "wider")
    return tmp_path / "qlora"


@pytest.mark.parametrize(("base", "taken"), [("auto", "nf4"), ("nf4", "nf4"), ("original", "original")])
def test_a_qlora_adapter_goes_into_what_it_was_trained_on(
    wider: Path, qlora: Path, tmp_path: Path, base: str, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Output(tmp_path / "out")
    out.path.mkdir()
    run(MergeConfig(model=str(wider), adapter=str(qlora), base=base), out)
    model = load_model(wider, quant="nf4")
    load_adapter(model, qlora)
    trained = probe_logits(model, Tokenizer.load(wider))
    got = probe_logits(load_model(out.path), Tokenizer.load(out.path))
    figures = out.figures
    assert (figures["trained_on"], figures["base"], figures["nearest"]) == ("nf4", taken, "nf4")
    assert figures["max_logit_difference"] == pytest.approx(float((got - trained).abs().max()), abs=1e-5)
    nf4, original = figures["differences"]["nf4"], figures["differences"]["original"]
    assert nf4["max_logit_difference"] < 1e-3 < original["mean_logit_difference"]
    assert figures["mean_logit_difference"] == figures["differences"][taken]["mean_logit_difference"]
    told = capsys.readouterr().err
    assert "trained on nf4" in told
    assert ('take base = "nf4"' in told) == (base == "original")


def test_an_adapter_that_does_not_say_was_trained_on_what_it_is_merged_into(wider: Path, qlora: Path, tmp_path: Path) -> None:
    """As PEFT writes them, QLoRA or not."""
    (qlora / "lianlu.json").unlink()
    assert bases(MergeConfig(model=str(wider), adapter=str(qlora))) == ("original", "original")
    assert bases(MergeConfig(model=str(wider), adapter=str(qlora), base="nf4")) == ("nf4", "nf4")
    (qlora / "lianlu.json").write_text('{"base": "original"}')
    assert bases(MergeConfig(model=str(wider), adapter=str(qlora), base="nf4")) == ("original", "nf4")
    (qlora / "lianlu.json").write_text('{"base": "fp3"}')
    with pytest.raises(DataError, match="fp3"):
        bases(MergeConfig(model=str(wider), adapter=str(qlora)))


def test_plain_adapters_have_one_difference(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    out = Output(tmp_path)
    run(MergeConfig(model=str(checkpoint), adapter=str(adapter)), out)
    assert not {"differences", "trained_on", "base"} & out.figures.keys()
