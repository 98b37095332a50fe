"""Several adapters in one batch of the engine against PEFT with each of them, on the same small random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from lianlu.client.base import Sampling
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Event, Request
from lianlu.model.config import preset
from lianlu.model.decoder import build_model
from lianlu.model.load import load_model
from lianlu.model.lora import LoraSpec, add_lora, save_adapter
from lianlu.model.packed import pack_linears
from lianlu.model.save import save_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama"},
    "qwen2": {"architecture": "qwen2", "attention_bias": True, "tie_word_embeddings": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_dim": 24},
}
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "target_modules": "all-linear"},
    "rslora": {"r": 8, "target_modules": ["q_proj", "o_proj"], "use_rslora": True},
    "patterns": {"r": 4, "target_modules": list(EVERY), "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"up_proj": 16}},
    "one layer": {"r": 16, "target_modules": ["down_proj", "v_proj"], "layers_to_transform": [1]},
}
NEW = 6


class NoText:
    """Ids only."""

    eos_ids = ()
    bos_id = None

    def decode(self, ids: Any, skip_specials: bool = True) -> str:
        return ""

    def stream(self) -> NoText:
        return self

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def stir(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)


def engine_on(folder: Path, adapters: dict[str, Path]) -> Engine:
    model = load_model(folder)
    pack_linears(model)
    engine = Engine(model, NoText(), EngineConfig(max_tokens=2048, max_batch_tokens=48))  # type: ignore[arg-type]
    for name, path in adapters.items():
        engine.adapters.load(name, path)
    return engine


def prompts(count: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(3)
    return [tuple(torch.randint(1, 512, (5 + 9 * number,), generator=generator).tolist()) for number in range(count)]


def generate(engine: Engine, wanted: list[tuple[tuple[int, ...], str]]) -> list[Event]:
    sampling = Sampling(max_tokens=NEW, logprobs=0)
    news: dict[int, list[Event]] = {
        engine.submit(Request(prompt, sampling, ignore_eos=True, adapter=name)): [] for prompt, name in wanted
    }
    while not engine.idle:
        for event in engine.step():
            news[event.request_id].append(event)
    return [Event.joined(events) for events in news.values()]


def compare(event: Event, prompt: tuple[int, ...], theirs: Any) -> None:
    """Greedy tokens and their log-probabilities, every place."""
    ids = torch.tensor([[*prompt, *event.token_ids]])
    with torch.inference_mode():
        logprobs = theirs(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert logprobs.argmax(-1).tolist() == list(event.token_ids)
    expected = logprobs[torch.arange(NEW), list(event.token_ids)].tolist()
    assert [item.logprob for item in event.logprobs] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_request_of_a_batch_is_peft_s_with_its_adapter(family: str, tmp_path: Path) -> None:
    save_model(build_model(preset("internlm2-nano", initializer_range=0.1, **FAMILIES[family]), 0), tmp_path / "base")
    theirs: Any = None
    for seed, (name, fields) in enumerate(ADAPTERS.items()):
        config = peft.LoraConfig(lora_alpha=6, task_type="CAUSAL_LM", **fields)
        if theirs is None:
            base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
            theirs = peft.get_peft_model(base, config, adapter_name=name)
        else:
            theirs.add_adapter(name, config)
        stir(theirs, seed)
    theirs.save_pretrained(tmp_path / "adapters")
    theirs.eval()
    wanted = [(prompt, name) for prompt, name in zip(prompts(10), ["", *ADAPTERS, *reversed(ADAPTERS), ""], strict=True)]
    engine = engine_on(tmp_path / "base", {name.replace(" ", "-"): tmp_path / "adapters" / name for name in ADAPTERS})
    found = generate(engine, [(prompt, name.replace(" ", "-")) for prompt, name in wanted])
    for (prompt, name), event in zip(wanted, found, strict=True):
        if name:
            theirs.set_adapter(name)
            compare(event, prompt, theirs)
        else:
            with theirs.disable_adapter():
                compare(event, prompt, theirs)


def test_an_internlm2_adapter_on_the_fused_wqkv(tmp_path: Path) -> None:
    """Served under its own names, and compared with PEFT on the model's Llama form."""
    ours = build_model(preset("internlm2-nano", initializer_range=0.1), 0)
    save_model(ours, tmp_path / "own")
    save_model(ours, tmp_path / "llama", "llama")
    add_lora(ours, LoraSpec(rank=4, alpha=6, target=("wqkv", "w2")))
    stir(ours, 1)
    save_adapter(ours, tmp_path / "adapter", "own")
    save_adapter(ours, tmp_path / "as-llama", "llama", layout="llama")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "as-llama").eval()
    engine = engine_on(tmp_path / "own", {"own": tmp_path / "adapter", "dealt": tmp_path / "as-llama"})
    wanted = [(prompt, name) for prompt in prompts(3) for name in ("own", "dealt", "")]
    for (prompt, name), event in zip(wanted, generate(engine, wanted), strict=True):
        if name:
            compare(event, prompt, theirs)
        else:
            with theirs.disable_adapter():
                compare(event, prompt, theirs)
