"""The one door: which client a target gives, and what is wrong with targets that give none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.client.base import Sampling, ScoreRequest
from lianlu.client.openai import OpenAIClient
from lianlu.core import machine
from lianlu.core.errors import ConfigError, DataError, RequestError
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import connect, open_engine, torch_device, torch_dtype
from lianlu.engine.engine import Engine
from lianlu.engine.local import LocalClient
from lianlu.engine.sequence import Event, Request
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import YarnScaling
from lianlu.model.load import load_model
from lianlu.model.quantized import Method, quantize_linears
from lianlu.model.save import save_model


def test_a_url_gives_a_client_for_it() -> None:
    client = connect("http://localhost:1/v1", model="some")
    assert isinstance(client, OpenAIClient)
    assert client.name == "some"
    client.close()


def test_an_adapter_cannot_be_put_on_a_url(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="adapter"):
        connect("https://localhost:1", adapter=tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model") as caught:
        connect(tmp_path / "missing")
    assert "pull" in caught.value.hint


def test_auto_is_bfloat16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_dtype("float32") == torch.float32
    assert torch_dtype("bfloat16") == torch.bfloat16
    for flags, dtype in (({"avx2", "avx512_bf16"}, torch.bfloat16), ({"avx2", "avx512f"}, torch.float32), (set(), torch.float32)):
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: flags)
        assert torch_dtype("auto") == dtype


@pytest.fixture
def folder(tmp_path: Path, lab: Any) -> Path:
    """A whole model on disk: the tiny weights and a byte-level tokenizer without merges."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocab = {letter: index for index, letter in enumerate(sorted(letters))}
    library = Library(models.BPE(vocab, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    save_model(lab.build(vocab_size=len(vocab)), tmp_path / "model")
    library.save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


CONFIG = EngineConfig(max_tokens=256)


def test_a_folder_gives_a_client_in_this_process(folder: Path) -> None:
    client = connect(folder, config=CONFIG)
    assert isinstance(client, LocalClient)
    assert client.name == "model"
    assert client.score([ScoreRequest("ab", "cd")])[0].num_tokens == 2
    client.close()


def test_precision_is_the_dtype_of_weights_and_keys(folder: Path) -> None:
    engine = open_engine(folder, precision="bfloat16")
    assert engine.config.dtype == "bfloat16"
    assert engine.runner.codec.stored == torch.bfloat16
    assert next(engine.model.parameters()).dtype == torch.bfloat16


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    """An adapter that changes what the model in `folder` says."""
    from lianlu.model.lora import LoraSpec, add_lora, save_adapter

    model = load_model(folder)
    add_lora(model, LoraSpec(rank=2, alpha=4), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(model, tmp_path / "adapter", "model")
    return tmp_path / "adapter"


def test_an_adapter_is_merged(folder: Path, adapter: Path) -> None:
    plain, tuned = connect(folder, config=CONFIG), connect(folder, adapter, config=CONFIG)
    requests = [ScoreRequest("ab", "cd")]
    assert plain.score(requests)[0].logprob != pytest.approx(tuned.score(requests)[0].logprob, abs=1e-3)
    assert not any("lora" in name for name, _ in tuned.engine.engine.model.named_parameters())  # type: ignore[attr-defined]
    plain.close()
    tuned.close()


def test_named_adapters_stand_beside_the_merged_one_and_survive_sleep(lab: Any, folder: Path, adapter: Path) -> None:
    ids = (5, 6, 7, 8, 9)
    merged = open_engine(folder, adapter, config=CONFIG)
    engine = open_engine(folder, config=CONFIG, adapters={"tuned": adapter, "again": str(adapter)})
    both = open_engine(folder, adapter, config=CONFIG, adapters={"tuned": adapter})
    assert engine.adapters.names() == ("tuned", "again")

    def numbers(target: Engine, name: str = "") -> list[float]:
        return [item.logprob for item in target.prompt_logprobs(ids, adapter=name) if item]

    assert numbers(engine, "tuned") == pytest.approx(numbers(merged), abs=1e-4)
    assert numbers(engine, "tuned") == numbers(engine, "again") != numbers(engine)
    before = numbers(both), numbers(both, "tuned")
    assert before[0] == numbers(merged) != before[1]
    both.sleep()
    both.wake()
    assert (numbers(both), numbers(both, "tuned")) == before
    engine.sleep()
    engine.wake()
    assert numbers(engine, "again") == numbers(engine, "tuned") != numbers(engine)


def test_a_name_that_no_adapter_can_have(folder: Path, adapter: Path) -> None:
    with pytest.raises(RequestError, match="cannot be the name"):
        open_engine(folder, config=CONFIG, adapters={"a/b": adapter})
    with pytest.raises(DataError, match="adapter_config"):
        open_engine(folder, config=CONFIG, adapters={"a": folder})


def test_a_draft_model_is_opened_and_comes_back_after_sleep(folder: Path) -> None:
    table = {"max_tokens": 256, "speculation": {"kind": "draft", "model": str(folder)}}
    engine = open_engine(folder, config=EngineConfig.model_validate(table))
    first = engine.drafter
    engine.sleep()
    engine.wake()
    assert first is not None
    assert engine.drafter is not None
    assert engine.drafter is not first


def chosen(engine: Engine, new: int = 8, adapter: str = "") -> Event:
    """A reply of the engine with its numbers."""
    engine.submit(Request(tuple(range(1, 40)), Sampling(max_tokens=new, logprobs=2), ignore_eos=True, adapter=adapter))
    news: list[Event] = []
    while not engine.idle:
        news += engine.step()
    return Event.joined(news)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_weights_are_quantised_while_loading(folder: Path, quant: Method, dtype: str) -> None:
    """The numbers are near those of the dequantised model, and the same however the prompt is cut."""
    config = EngineConfig.model_validate({"max_tokens": 256, "quant": quant, "dtype": dtype})
    engine = open_engine(folder, config=config)
    assert next(engine.model.parameters()).dtype == torch_dtype(config.dtype)
    assert not any(isinstance(module, torch.nn.Linear) for module in engine.model.layers.modules())
    found = chosen(engine)
    cut = chosen(open_engine(folder, config=config.model_copy(update={"max_batch_tokens": 7, "max_running": 3})))
    assert (cut.token_ids, cut.logprobs) == (found.token_ids, found.logprobs)
    dense = load_model(folder)
    quantize_linears(dense, quant)
    ids = torch.tensor([*range(1, 40), *found.token_ids])
    with torch.inference_mode():
        logits = dense(ids, torch.arange(len(ids)), PackedCausal([0, len(ids)])).log_softmax(-1)
    own = logits[38:-1].gather(1, ids[39:, None])[:, 0]
    exact = (quant, dtype) == ("int8", "float32")
    assert torch.allclose(own, torch.tensor([item.logprob for item in found.logprobs]), atol=2e-3 if exact else 0.2)


def test_an_adapter_is_merged_before_quantising(folder: Path, adapter: Path) -> None:
    rounded = open_engine(folder, adapter, config=EngineConfig(max_tokens=256, quant="int8"))
    engines = (rounded, open_engine(folder, adapter, config=CONFIG), open_engine(folder, config=CONFIG))
    found = [[item.logprob for item in engine.prompt_logprobs(range(1, 60)) if item] for engine in engines]
    to_merged, to_plain = (sum(abs(one - other) for one, other in zip(found[0], numbers, strict=True)) for numbers in found[1:])
    assert to_merged < 0.1 * to_plain


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_named_adapters_ride_on_quantised_layers(folder: Path, adapter: Path, quant: str) -> None:
    config = EngineConfig.model_validate({"max_tokens": 256, "quant": quant})
    engine = open_engine(folder, config=config, adapters={"tuned": adapter})
    plain, tuned = chosen(engine), chosen(engine, adapter="tuned")
    assert plain.logprobs == chosen(open_engine(folder, config=config)).logprobs != tuned.logprobs
    engine.sleep()
    engine.wake()
    assert (chosen(engine).logprobs, chosen(engine, adapter="tuned").logprobs) == (plain.logprobs, tuned.logprobs)


def test_int8_checkpoints_stay_int8(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(folder)
    quantize_linears(model)
    save_model(model, tmp_path / "int8")
    shutil.copy(folder / "tokenizer.json", tmp_path / "int8")
    found = [chosen(open_engine(tmp_path / "int8", config=EngineConfig(max_tokens=256, quant=q))) for q in ("none", "int8")]
    assert found[0].logprobs == found[1].logprobs
    assert not capsys.readouterr().err
    again = chosen(open_engine(tmp_path / "int8", config=EngineConfig(max_tokens=256, quant="int4")))
    assert again.logprobs == found[0].logprobs
    assert "int8 and stay so" in capsys.readouterr().err


def test_a_shape_that_int4_cannot_hold(folder: Path, tmp_path: Path, lab: Any) -> None:
    save_model(lab.build(vocab_size=256, intermediate_size=80), tmp_path / "odd")
    shutil.copy(folder / "tokenizer.json", tmp_path / "odd")
    with pytest.raises(ConfigError, match="80") as caught:
        open_engine(tmp_path / "odd", config=EngineConfig(quant="int4"))
    assert "int8" in caught.value.hint


YARN = {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def test_rope_and_context_go_to_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = open_engine(folder, config=EngineConfig.model_validate({"rope": YARN}))
    assert engine.max_len == 2048
    assert engine.model.config.rope_scaling == YarnScaling.model_validate(YARN)
    assert chosen(engine, 1).logprobs != chosen(open_engine(folder), 1).logprobs
    assert open_engine(folder, config=EngineConfig.model_validate({"rope": YARN, "context": 600})).max_len == 600
    dynamic = {"context": 200_000, "rope": {"kind": "dynamic", "factor": 2.0}}
    assert open_engine(folder, config=EngineConfig.model_validate(dynamic)).max_len == 200_000
    assert open_engine(folder, config=EngineConfig(context=100)).max_len == 100
    assert not capsys.readouterr().err
    beyond = EngineConfig.model_validate({"context": 3000, "rope": YARN})
    assert open_engine(folder, config=beyond).max_len == 3000
    assert "beyond the 2048 tokens" in capsys.readouterr().err


def test_too_long_a_context_is_known_before_weights_are_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ConfigError, match="context 513 is longer than the 512 tokens") as caught:
        open_engine(folder, config=EngineConfig(context=513))
    assert "rope.kind" in caught.value.hint


def test_a_draft_keeps_its_own_positions(folder: Path) -> None:
    fields = {"max_tokens": 4096, "context": 2048, "rope": YARN, "quant": "int8"}
    plain = chosen(open_engine(folder, config=EngineConfig.model_validate(fields)))
    guessing = {**fields, "speculation": {"kind": "draft", "model": str(folder), "num_tokens": 3}}
    guessed = chosen(open_engine(folder, config=EngineConfig.model_validate(guessing)))
    assert guessed.token_ids == plain.token_ids


def test_devices(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == torch_device("cpu") == torch.device("cpu")
    for name, says in (("cuda", "no GPU"), ("cuda:3", "no GPU"), ("gpu", "no kind"), ("meta", "do not run")):
        with pytest.raises(ConfigError, match=says) as caught:
            open_engine(folder, device=name)
        assert "auto" in caught.value.hint
    assert open_engine(folder, device="cpu").runner.device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto") == torch.device("cuda")
    assert torch_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setattr(machine, "cpu_flags", set)
    assert torch_dtype("auto", "cuda:1") == torch.bfloat16
    assert torch_dtype("auto", "cpu") == torch.float32
