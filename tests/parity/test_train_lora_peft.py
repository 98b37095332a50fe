"""LoRA, rsLoRA, DoRA and QLoRA against transformers and peft: training steps on packed conversations, and the merged weights.

The reference of QLoRA is peft on the dequantised weights, and on those that bitsandbytes quantised.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lianlu.core.store import Output
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.lora import LoraSpec, add_lora, merge_adapter, save_adapter
from lianlu.model.quantized import Method, dequantize_linears
from lianlu.model.save import save_model
from lianlu.train.config import AdamW, TrainConfig
from lianlu.train.loop import Loop
from lianlu.train.packing import Packed, Segment, answer_segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")

KINDS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}
NUM_STEPS = 12
LR = 1e-2


def rows(step: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and loss masks of the conversations of a step."""
    rng = np.random.default_rng(step)
    made = []
    for length in (14, 25, 9):
        mask = np.zeros(length, dtype=bool)
        mask[length // 2 : length - 1] = True
        made.append((rng.integers(0, 20, length), mask))
    return made


class Conversations:
    num_steps = NUM_STEPS

    def prepare(self, model: Decoder, step: int) -> None:
        pass

    def rate(self, step: int) -> float:
        return 1.0

    def examples(self, step: int) -> list[Segment]:
        return [answer_segment(ids.tolist(), mask.tolist()) for ids, mask in rows(step)]

    def collate(self, examples: Sequence[Segment]) -> Packed:
        return pack(examples)

    def loss(self, model: Decoder, batch: Packed) -> Tensor:
        return packed_loss(model, batch)

    def describe(self, example: Segment) -> str:
        return "random"

    def evaluate(self, model: Decoder) -> dict[str, float]:
        return {}

    def samples(self, model: Decoder, step: int) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def base(tmp_path: Path) -> Path:
    config = ModelConfig(
        architecture="llama",
        vocab_size=97,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    save_model(build_model(config, seed=3), tmp_path / "base")
    return tmp_path / "base"


def peft_model(base: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(plain, adapter, is_trainable=True)


def reference_losses(model: Any) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, betas=(0.9, 0.999), weight_decay=0.0)
    losses = []
    for step in range(NUM_STEPS):
        ids = [torch.from_numpy(ids) for ids, _ in rows(step)]
        labels = [torch.where(torch.from_numpy(mask), torch.from_numpy(ids), -100) for ids, mask in rows(step)]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        wanted = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        attended = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        loss = model(input_ids=padded, attention_mask=attended, labels=wanted).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def trained(model: Decoder, out: Output) -> list[float]:
    """Our losses over the steps."""
    config = TrainConfig(optim=AdamW(lr=LR, betas=(0.9, 0.999), weight_decay=0, clip=0), precision="float32")
    out.path.mkdir()
    Loop(model, Conversations(), config, out, Layout(config)).run("parity")
    lines = (out.path / "losses.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_merged_weights_are_those_of_peft(base: Path, tmp_path: Path, kind: str) -> None:
    model = load_model(base)
    add_lora(model, LoraSpec(rank=4, alpha=8, **KINDS[kind]), seed=5)
    save_adapter(model, tmp_path / "start", "base")
    theirs = peft_model(base, tmp_path / "start")
    wanted = reference_losses(theirs)
    losses = trained(model, Output(tmp_path / "run"))
    assert losses == pytest.approx(wanted, abs=1e-5)
    assert losses[-1] < losses[0]

    merge_adapter(model)
    save_model(model, tmp_path / "merged")
    theirs.merge_and_unload().save_pretrained(tmp_path / "reference")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "reference" / "model.safetensors").items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("method", ["nf4", "nf4-single"])
def test_qlora_steps_are_those_of_peft_on_the_dequantised_weights(base: Path, tmp_path: Path, kind: str, method: Method) -> None:
    plain = load_model(base, quant=method)
    dequantize_linears(plain)
    save_model(plain, tmp_path / "dequantised")
    model = load_model(base, quant=method)
    add_lora(model, LoraSpec(rank=4, alpha=8, **KINDS[kind]), seed=5)
    save_adapter(model, tmp_path / "start", "base")
    theirs = peft_model(tmp_path / "dequantised", tmp_path / "start")
    wanted = reference_losses(theirs)
    losses = trained(model, Output(tmp_path / "run"))
    assert losses == pytest.approx(wanted, abs=1e-5)
    assert losses[-1] < losses[0]
    save_adapter(model, tmp_path / "adapter", "base")
    again = peft_model(tmp_path / "dequantised", tmp_path / "adapter")
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=0, atol=1e-4)


def test_a_qlora_adapter_loads_on_a_base_that_bitsandbytes_quantised(base: Path, tmp_path: Path) -> None:
    """They quantise q, k and v apart, we the fused matrix: the second quantisation of the steps differs a little."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = load_model(base, quant="nf4")
    add_lora(model, LoraSpec(rank=4, alpha=8), seed=5)
    trained(model, Output(tmp_path / "run"))
    save_adapter(model, tmp_path / "adapter", "base")
    kind = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    kind.bnb_4bit_compute_dtype = torch.float32
    quantised = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=kind, device_map="cpu")
    assert type(quantised.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    theirs = PeftModel.from_pretrained(quantised, tmp_path / "adapter").eval()
    ids = torch.arange(20)
    with torch.no_grad():
        reference = theirs(ids[None]).logits[0]
        found = model.eval()(ids, torch.arange(20), PackedCausal([0, 20]))
        plain = peft_model(base, tmp_path / "adapter").eval()(ids[None]).logits[0]
    apart = (found - reference).norm() / reference.norm()
    assert apart < 0.02
    assert (plain - reference).norm() / reference.norm() > 5 * apart
