"""The one door: which client a target gives, and what is wrong with targets that give none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.client.base import ScoreRequest
from lianlu.client.openai import OpenAIClient
from lianlu.core import machine
from lianlu.core.errors import DataError, RequestError
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import connect, open_engine, torch_dtype
from lianlu.engine.engine import Engine
from lianlu.engine.local import LocalClient


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

    from lianlu.model.save import save_model

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
    from lianlu.model.load import load_model
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
