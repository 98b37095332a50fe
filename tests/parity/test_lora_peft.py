"""Our adapters against PEFT on the same model: forward, gradients, merged weights, and files in both directions."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.lora import add_lora, load_adapter, merge_adapter, read_adapter, save_adapter
from lianlu.model.lora_linear import lora_layers
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.save import save_model

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama"},
    "qwen2": {"architecture": "qwen2", "attention_bias": True, "tie_word_embeddings": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_dim": 24},
}
KINDS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True, "rslora": True}}
# logits reach 4 here; the base alone differs by 2e-6 between the libraries
CLOSE = 5e-6
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = torch.randint(0, 512, (24,), generator=torch.Generator().manual_seed(0))


def base(folder: Path, family: str) -> Decoder:
    model = build_model(preset("internlm2-nano", initializer_range=0.1, **FAMILIES[family]), 0)
    save_model(model, folder)
    return model


def theirs_from(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def logits(model: Decoder) -> torch.Tensor:
    return model(IDS, torch.arange(len(IDS)), PackedCausal([0, len(IDS)]))


def stir(model: torch.nn.Module) -> None:
    """As after training: updates that are not zero, magnitudes that are not the norms."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
            if "magnitude" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.25, generator=generator))


def gradients(model: Decoder) -> dict[str, torch.Tensor]:
    found = {}
    for path, layer in lora_layers(model):
        part = "self_attn" if "attention" in path else "mlp"
        for piece in layer.lora_A:
            name = f"base_model.model.model.layers.{path.split('.')[1]}.{part}.{piece}"
            found[f"{name}.lora_A.default.weight"] = layer.lora_A[piece].grad
            found[f"{name}.lora_B.default.weight"] = layer.lora_B[piece].grad
            if piece in layer.lora_magnitude_vector:
                found[f"{name}.lora_magnitude_vector.default.weight"] = layer.lora_magnitude_vector[piece].grad
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["all-linear", ("q_proj", "v_proj"), ("k_proj", "up_proj", "down_proj")])
def test_ours_in_peft(family: str, target: Any, kind: str, tmp_path: Path) -> None:
    ours = base(tmp_path / "base", family)
    add_lora(ours, LoraSpec(rank=4, alpha=6, target=target, **KINDS[kind]))
    stir(ours)
    save_adapter(ours, tmp_path / "adapter", str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(theirs_from(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    mine, reference = logits(ours), theirs(IDS[None]).logits[0]
    torch.testing.assert_close(mine, reference, rtol=1e-6, atol=CLOSE)
    for result in (mine, reference):
        torch.nn.functional.cross_entropy(result, IDS.roll(-1)).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    found = gradients(ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() / gradient.norm() < 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights(family: str, kind: str, tmp_path: Path) -> None:
    ours = base(tmp_path / "base", family)
    add_lora(ours, LoraSpec(rank=4, alpha=6, **KINDS[kind]))
    stir(ours)
    save_adapter(ours, tmp_path / "adapter", "base")
    merge_adapter(ours)
    save_model(ours, tmp_path / "merged")
    theirs = peft.PeftModel.from_pretrained(theirs_from(tmp_path / "base"), tmp_path / "adapter").merge_and_unload()
    written = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in theirs.state_dict().items():
        if name in written:
            torch.testing.assert_close(written[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "o_proj"], "use_rslora": True},
        {"target_modules": list(EVERY), "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"k_proj": 3, "up_proj": 16}},
        {"target_modules": r".*layers\.1\..*(v_proj|gate_proj)"},
        {"target_modules": ["down_proj"], "layers_to_transform": [0]},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["k_proj", "gate_proj"], "use_dora": True, "rank_pattern": {"k_proj": 2}, "use_rslora": True},
    ],
)
def test_peft_in_ours(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    ours = base(tmp_path / "base", family)
    config = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **fields)
    theirs = peft.get_peft_model(theirs_from(tmp_path / "base"), config)
    stir(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    load_adapter(ours, tmp_path / "theirs")
    reference = theirs(IDS[None]).logits[0]
    torch.testing.assert_close(logits(ours), reference, rtol=1e-6, atol=CLOSE)
    save_adapter(ours, tmp_path / "again", "base")
    again = peft.PeftModel.from_pretrained(theirs_from(tmp_path / "base"), tmp_path / "again")
    torch.testing.assert_close(again(IDS[None]).logits[0], reference, rtol=1e-6, atol=1e-6)
    assert again.peft_config["default"].use_dora == theirs.peft_config["default"].use_dora
    assert again.peft_config["default"].use_rslora == theirs.peft_config["default"].use_rslora


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_dropout_drops_what_peft_drops(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under DoRA the inputs of what the magnitude adds are dropped too. One mask for every layer of a width stands for chance."""

    def dropped(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        kept = torch.rand(x.shape[-2:], generator=torch.Generator().manual_seed(x.shape[-1])) >= p
        return x * kept / (1 - p) if training and p else x

    ours = base(tmp_path / "base", "qwen2")
    add_lora(ours, LoraSpec(rank=4, alpha=6, dropout=0.25, **KINDS[kind]))
    stir(ours)
    save_adapter(ours, tmp_path / "adapter", str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(theirs_from(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    whole = logits(ours)
    monkeypatch.setattr(torch.nn.functional, "dropout", dropped)
    mine, reference = logits(ours.train()), theirs.train()(IDS[None]).logits[0]
    assert not torch.allclose(mine, whole, atol=0.1)
    torch.testing.assert_close(mine, reference, rtol=1e-6, atol=CLOSE)
    for result in (mine, reference):
        torch.nn.functional.cross_entropy(result, IDS.roll(-1)).backward()
    found = gradients(ours)
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            assert (found[name] - parameter.grad).norm() / parameter.grad.norm() < 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
def test_internlm2_adapter_in_peft_on_the_llama_form(kind: str, tmp_path: Path) -> None:
    """One trained on the fused wqkv, which the deal of its rows and magnitudes must follow."""
    ours = build_model(preset("internlm2-nano", initializer_range=0.1), 0)
    save_model(ours, tmp_path / "llama", "llama")
    add_lora(ours, LoraSpec(rank=4, alpha=6, **KINDS[kind]))
    stir(ours)
    save_adapter(ours, tmp_path / "adapter", "base", layout="llama")
    theirs = peft.PeftModel.from_pretrained(theirs_from(tmp_path / "llama"), tmp_path / "adapter")
    torch.testing.assert_close(logits(ours), theirs(IDS[None]).logits[0], rtol=1e-6, atol=CLOSE)
    served = load_model(tmp_path / "llama", adapter=read_adapter(ours.config, tmp_path / "adapter"))
    torch.testing.assert_close(logits(served), logits(ours), rtol=1e-6, atol=CLOSE)
    merge_adapter(ours)
    save_model(ours, tmp_path / "merged", "llama")
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        torch.testing.assert_close(tensor, merged[name], rtol=0, atol=1e-6)


def test_a_step_of_adamw_leads_to_the_same_place(tmp_path: Path) -> None:
    ours = base(tmp_path / "base", "llama")
    add_lora(ours, LoraSpec(rank=4, alpha=6))
    save_adapter(ours, tmp_path / "adapter", "base")
    theirs = peft.PeftModel.from_pretrained(theirs_from(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    losses: list[list[float]] = []
    for run in (lambda: logits(ours), lambda: theirs(IDS[None]).logits[0]):
        model = ours if not losses else theirs
        optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
        losses.append([])
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(run(), IDS.roll(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0] - 0.1
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_base_on_disk_is_untouched(tmp_path: Path) -> None:
    base(tmp_path / "base", "llama")
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    model = load_model(tmp_path / "base")
    add_lora(model, LoraSpec(rank=2))
    stir(model)
    merge_adapter(model)
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
