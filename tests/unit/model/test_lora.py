import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lianlu.core.errors import ConfigError, DataError
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model, empty_model
from lianlu.model.load import load_model
from lianlu.model.lora import add_lora, load_adapter, merge_adapter, read_adapter, save_adapter, with_magnitudes
from lianlu.model.lora_linear import lora_layers
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.quantized import Method, prepare_quantized, quantize_linears
from lianlu.model.save import save_model

torch.set_num_threads(1)

KINDS: dict[str, dict[str, bool]] = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}
LLAMA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(9) * 5
    return model(tokens, torch.arange(9), PackedCausal([0, 9]))


def nano(**change: object) -> Decoder:
    return build_model(preset("internlm2-nano", initializer_range=0.1, **change), 0)


def stirred(model: Decoder, seed: int = 1) -> Decoder:
    """B matrices that are not zero and magnitudes that are no norms, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
            if "magnitude" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.25, generator=generator))
    return model


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("target", ["all-linear", ("wqkv",), ("w1",), ("q_proj", "v_proj"), ("up_proj", "o_proj")])
def test_fresh_adapter_changes_nothing_and_only_it_is_trained(target: object, dora: bool) -> None:
    model = nano()
    before = logits(model)
    add_lora(model, LoraSpec(rank=3, target=target, dora=dora))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5 if dora else 0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name}
    stirred(model)
    assert not torch.allclose(logits(model), before)
    logits(model).square().sum().backward()
    assert all((parameter.grad is None) != parameter.requires_grad for parameter in model.parameters())


def test_same_seed_same_adapter() -> None:
    first, second, other = nano(), nano(), nano()
    for model, seed in ((first, 4), (second, 4), (other, 5)):
        add_lora(model, LoraSpec(rank=2), seed)
    name = "layers.1.mlp.gate_up.lora_A.w3"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["all-linear", LLAMA_NAMES, ("k_proj", "gate_proj"), ("wqkv", "w2")])
def test_merged_weights_compute_the_same(target: object, kind: str) -> None:
    model = nano()
    add_lora(model, LoraSpec(rank=3, alpha=5, target=target, **KINDS[kind]))
    stirred(model)
    before = logits(model)
    merge_adapter(model)
    assert list(lora_layers(model)) == []
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_an_update_of_one_piece_stays_in_its_rows(dora: bool) -> None:
    model = nano(architecture="llama")
    before = model.layers[0].attention.wqkv.weight.detach().clone().view(2, 4, 16, 64)
    add_lora(model, LoraSpec(rank=2, target=("k_proj",), dora=dora))
    merge_adapter(stirred(model))
    changed = (model.layers[0].attention.wqkv.weight.view(2, 4, 16, 64) != before).flatten(2).any(-1)
    assert changed.tolist() == [[False, False, True, False]] * 2


def test_merging_into_bf16_rounds_once() -> None:
    wide, narrow = nano(), nano().to(torch.bfloat16)
    wide.load_state_dict({name: tensor.float() for name, tensor in narrow.state_dict().items()})
    for model in (wide, narrow):
        add_lora(model, LoraSpec(rank=2))
        merge_adapter(stirred(model))
    weight = "layers.0.mlp.down.weight"
    assert torch.equal(narrow.state_dict()[weight], wide.state_dict()[weight].bfloat16())


def test_a_bf16_model_keeps_its_adapter_in_fp32() -> None:
    model = nano().to(torch.bfloat16)
    add_lora(model, LoraSpec(rank=2))
    assert {parameter.dtype for name, parameter in model.named_parameters() if "lora_" in name} == {torch.float32}
    assert logits(stirred(model)).dtype == torch.bfloat16


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_only_in_training(dora: bool) -> None:
    model = nano()
    add_lora(model, LoraSpec(rank=2, dropout=0.5, dora=dora))
    stirred(model)
    model.train()
    assert not torch.equal(logits(model), logits(model))
    model.eval()
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["all-linear", LLAMA_NAMES, ("q_proj", "down_proj")])
def test_saved_adapters_load_equal(tmp_path: Path, target: object, kind: str) -> None:
    model = nano()
    add_lora(model, LoraSpec(rank=3, alpha=7, dropout=0.1, target=target, **KINDS[kind]))
    stirred(model).eval()
    save_adapter(model, tmp_path, "base")
    other = nano().eval()
    load_adapter(other, tmp_path)
    assert torch.equal(logits(other), logits(model))
    assert next(lora_layers(other))[1].dropout == 0.1
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in other.named_parameters())
    save_adapter(other, tmp_path / "again", "base")
    for name in ("adapter_config.json", "adapter_model.safetensors", "lianlu.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    table = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (table["r"], table["lora_alpha"]) == (3, 7.0)
    assert (table["use_rslora"], table["use_dora"]) == (kind == "rslora", kind == "dora")


@pytest.mark.parametrize("kind", KINDS)
def test_wqkv_adapter_moves_to_the_llama_form(tmp_path: Path, kind: str) -> None:
    """The rows of B and the magnitudes must be dealt out as those of wqkv are."""
    model = nano()
    add_lora(model, LoraSpec(rank=3, **KINDS[kind]))
    stirred(model)
    save_adapter(model, tmp_path / "adapter", "base", layout="llama")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight" in names
    save_model(nano(), tmp_path / "llama", "llama")
    llama = load_model(tmp_path / "llama")
    load_adapter(llama, tmp_path / "adapter")
    torch.testing.assert_close(logits(llama), logits(model), rtol=1e-5, atol=1e-5)
    merged = load_model(tmp_path / "llama", adapter=read_adapter(llama.config, tmp_path / "adapter"))
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-5, atol=1e-5)
    back = nano()
    load_adapter(back, tmp_path / "adapter")
    torch.testing.assert_close(logits(back), logits(model), rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(["internlm2", "llama", "qwen2"]),
    chosen=st.sets(st.integers(0, 6), min_size=1),
    rank=st.integers(1, 5),
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 99),
)
def test_whatever_is_adapted_survives_files_merging_and_loading(
    tmp_path_factory: pytest.TempPathFactory, family: str, chosen: set[int], rank: int, kind: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    model = nano(architecture=family, attention_bias=family == "qwen2")
    target = tuple(LLAMA_NAMES[index] for index in sorted(chosen))
    add_lora(model, LoraSpec(rank=rank, alpha=2 * rank, target=target, **KINDS[kind]), seed)
    stirred(model, seed)
    before = logits(model)
    save_adapter(model, folder, "base")
    loaded = nano(architecture=family, attention_bias=family == "qwen2")
    load_adapter(loaded, folder)
    torch.testing.assert_close(logits(loaded), before, rtol=1e-6, atol=1e-6)
    merge_adapter(loaded)
    torch.testing.assert_close(logits(loaded), before, rtol=1e-4, atol=2e-5)


def test_rslora_multiplies_by_the_root_of_the_rank() -> None:
    plain, rooted = nano(), nano()
    add_lora(plain, LoraSpec(rank=4, alpha=12))
    add_lora(rooted, LoraSpec(rank=4, alpha=6, rslora=True))
    for (_, one), (_, other) in zip(lora_layers(plain), lora_layers(rooted), strict=True):
        assert one.scaling == other.scaling == dict.fromkeys(one.lora_A, 3.0)


@pytest.mark.parametrize("method", [None, "int8", "nf4", "nf4-single"])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_can_be_put_on_a_model_whose_weights_come_later(dora: bool, method: Method | None) -> None:
    """The weights arrive one by one, and magnitudes with them: the model is the same as if it had been there first."""
    whole = nano(intermediate_size=128, architecture="qwen2", attention_bias=True)
    weights = dict(whole.state_dict())
    model = empty_model(whole.config)
    if method:
        prepare_quantized(model, method)
        quantize_linears(whole, method)
        weights = dict(whole.state_dict())
    for made in (whole, model):
        add_lora(made, LoraSpec(rank=2, dora=dora), seed=3)
    state = dict(with_magnitudes(model, weights.items()))
    names = {name.replace(".base.", "."): name for name in model.state_dict()}
    model.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False, assign=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(logits(stirred(model)), logits(stirred(whole)))


def test_a_row_of_zeros_does_not_break_dora() -> None:
    model = nano()
    with torch.no_grad():
        model.layers[0].mlp.down.weight[3].zero_()
    before = logits(model)
    add_lora(model, LoraSpec(rank=2, dora=True))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    logits(model).square().sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(grad.isfinite().all() for grad in grads)
    merge_adapter(stirred(model))
    assert logits(model).isfinite().all()


def test_q_k_v_updates_do_not_fit_into_wqkv(tmp_path: Path) -> None:
    model = nano(architecture="llama")
    add_lora(model, LoraSpec(rank=2))
    with pytest.raises(ConfigError, match="wqkv"):
        save_adapter(model, tmp_path, "base", layout="internlm2")
    with pytest.raises(ConfigError, match="qwen2"):
        save_adapter(model, tmp_path, "base", layout="qwen2")


@pytest.mark.parametrize("target", [("q_prj",), (), ("q_proj", "wqkv"), ("lm_head",)])
def test_unknown_targets_list_the_known(target: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="targets") as error:
        add_lora(nano(), LoraSpec(target=target))
    assert "wqkv" in error.value.hint


def test_one_adapter_at_a_time(tmp_path: Path) -> None:
    model = nano()
    with pytest.raises(ConfigError, match="no adapter"):
        merge_adapter(model)
    with pytest.raises(ConfigError, match="no adapter"):
        save_adapter(model, tmp_path, "base")
    add_lora(model, LoraSpec(rank=2))
    with pytest.raises(ConfigError, match="already"):
        add_lora(model, LoraSpec(rank=2))
    save_adapter(model, tmp_path, "base")
    with pytest.raises(ConfigError, match="already"):
        load_adapter(model, tmp_path)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = nano(architecture="llama")
    add_lora(model, LoraSpec(rank=2))
    save_adapter(stirred(model), tmp_path, "base")
    return tmp_path


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    file = folder / "adapter_model.safetensors"
    held = {**load_file(file), **tensors}
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, file)


PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{PREFIX}.lora_A.weight": None}, "lora_A"),
        ({f"{PREFIX}.lora_A.weight": torch.ones(2, 63)}, "q_proj has shapes"),
        ({f"{PREFIX}.lora_B.weight": torch.ones(64, 3)}, "q_proj has shapes"),
        ({"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(2, 64)}, "layers.9"),
        ({"base_model.model.lm_head.lora_A.weight": torch.ones(2, 64)}, "lm_head"),
        ({f"{PREFIX}.lora_magnitude_vector": torch.ones(64)}, "lora_magnitude_vector"),
        ({f"{PREFIX}.lora_A.weight": torch.full((2, 64), torch.nan)}, "no numbers"),
    ],
)
def test_wrong_weights_are_named(adapter: Path, tensors: dict[str, torch.Tensor | None], words: str) -> None:
    change_weights(adapter, **tensors)
    model = nano(architecture="llama")
    with pytest.raises(DataError, match=words) as error:
        load_adapter(model, adapter)
    assert "adapter_model.safetensors" in error.value.message
    assert list(lora_layers(model)) == []


@pytest.mark.parametrize(
    ("magnitude", "words"),
    [
        (None, "lora_magnitude_vector"),
        (torch.ones(63), "magnitudes of"),
        (torch.ones(64, 1), "magnitudes of"),
        (torch.full((64,), torch.inf), "no numbers"),
    ],
)
def test_wrong_magnitudes_are_named(tmp_path: Path, magnitude: torch.Tensor | None, words: str) -> None:
    model = nano(architecture="llama")
    add_lora(model, LoraSpec(rank=2, dora=True))
    save_adapter(model, tmp_path, "base")
    change_weights(tmp_path, **{f"{PREFIX}.lora_magnitude_vector": magnitude})
    with pytest.raises(DataError, match=words) as error:
        load_adapter(nano(architecture="llama"), tmp_path)
    assert "q_proj" in error.value.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    ],
)
def test_other_kinds_of_adapters_are_refused(adapter: Path, fields: dict[str, object], words: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(DataError, match=words):
        load_adapter(nano(architecture="llama"), adapter)


def test_missing_files_pickles_and_cuts(adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:100])
    with pytest.raises(DataError, match="adapter_model"):
        load_adapter(nano(architecture="llama"), adapter)
    file.rename(adapter / "adapter_model.bin")
    with pytest.raises(DataError, match="pickle"):
        load_adapter(nano(architecture="llama"), adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(DataError, match="adapter_model"):
        load_adapter(nano(architecture="llama"), adapter)
    with pytest.raises(DataError, match="adapter_config"):
        load_adapter(nano(), tmp_path / "nowhere")
