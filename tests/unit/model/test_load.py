import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lianlu.core.errors import ConfigError, DataError
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import LinearScaling, preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import is_gguf, load_model, open_model, read_config
from lianlu.model.lora import add_lora, merge_adapter, read_adapter, save_adapter
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.quantized import KINDS, Int8Linear, Method, quantize_linears
from lianlu.model.save import save_model

torch.set_num_threads(1)

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(build_model(preset("internlm2-nano", architecture="llama", intermediate_size=192), 0), tmp_path)
    return tmp_path


def logits(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(9) * 5
    return model(tokens, torch.arange(9), PackedCausal([0, 9]))


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    held = {**load_file(folder / WEIGHTS), **tensors}
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, folder / WEIGHTS)


def change_config(folder: Path, **fields: object) -> None:
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **fields}))


def test_loads_what_was_built(saved: Path) -> None:
    model = build_model(preset("internlm2-nano", architecture="llama", intermediate_size=192), 0)
    loaded = load_model(saved)
    assert loaded.config == model.config == read_config(saved)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_casts_while_loading(saved: Path) -> None:
    model = load_model(saved, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert logits(model).dtype == torch.bfloat16


def test_weights_do_not_lean_on_the_file(saved: Path) -> None:
    model = load_model(saved)
    before = logits(model)
    data = (saved / WEIGHTS).read_bytes()
    with open(saved / WEIGHTS, "r+b") as file:
        file.write(bytes(len(data)))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", KINDS)
def test_quantises_while_loading(saved: Path, method: Method, dtype: torch.dtype) -> None:
    """From the numbers of the file, whatever the rest is cast to."""
    expected = load_model(saved)
    quantize_linears(expected, method)
    loaded = load_model(saved, dtype, quant=method)
    assert expected.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in expected.to(dtype).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(logits(loaded), logits(expected))


def test_a_dtype_for_each_name_and_the_tables_first(saved: Path) -> None:
    """The largest weights come while there is little else; layers are read in order."""
    model, weights = open_model(saved, lambda name: torch.bfloat16 if "mlp" in name else torch.float32, quant="nf4")
    found = {name: tensor.dtype for name, tensor in weights}
    assert list(found)[:3] == ["embed_tokens.weight", "norm.weight", "lm_head.weight"]
    assert found.keys() == model.state_dict().keys()
    assert found["layers.0.mlp_norm.weight"] == torch.bfloat16
    assert found["layers.0.attention_norm.weight"] == found["embed_tokens.weight"] == torch.float32
    assert found["layers.1.mlp.down.weight"] == torch.uint8


def test_int8_checkpoints_stay_as_they_are(saved: Path, tmp_path: Path) -> None:
    model = load_model(saved)
    quantize_linears(model)
    save_model(model, tmp_path / "int8")
    for method in KINDS:
        loaded = load_model(tmp_path / "int8", quant=method)
        assert isinstance(loaded.layers[0].mlp.down, Int8Linear)
        assert torch.equal(logits(loaded), logits(model))


def test_no_more_than_one_layer_is_there_in_full_width(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide: list[weakref.ref[torch.Tensor]] = []
    quantise = Int8Linear.quantise

    def counting(weight: torch.Tensor) -> dict[str, torch.Tensor]:
        assert sum(reference() is not None for reference in wide) == 0
        wide.append(weakref.ref(weight))
        return quantise(weight)

    monkeypatch.setattr(Int8Linear, "quantise", counting)
    load_model(saved, quant="int8")
    assert len(wide) == 8


def test_an_adapter_is_added_before_rounding(saved: Path, tmp_path: Path) -> None:
    model = load_model(saved)
    add_lora(model, LoraSpec(rank=2, alpha=64), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(model, tmp_path / "adapter", "model")
    adapter = read_adapter(model.config, tmp_path / "adapter")
    merge_adapter(model)
    for name, tensor in load_model(saved, adapter=adapter).state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])
    quantize_linears(model)
    rounded = load_model(saved, quant="int8", adapter=adapter)
    torch.testing.assert_close(logits(rounded), logits(model), rtol=1e-3, atol=1e-3)
    save_model(model, tmp_path / "int8")
    with pytest.raises(ConfigError, match="int8"):
        load_model(tmp_path / "int8", adapter=adapter)


def test_other_rotary_positions_on_the_same_weights(saved: Path) -> None:
    config = read_config(saved).model_copy(update={"rope_scaling": LinearScaling(factor=4)})
    loaded = load_model(saved, config=config)
    assert loaded.config.rope_scaling == LinearScaling(factor=4)
    assert not torch.equal(logits(loaded), logits(load_model(saved)))


def test_harmless_extras_are_ignored(saved: Path) -> None:
    change(saved, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load_model(saved)


def test_second_copy_of_a_tied_head_is_ignored(tmp_path: Path) -> None:
    model = build_model(preset("internlm2-nano", architecture="llama", tie_word_embeddings=True), 0)
    save_model(model, tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    change(tmp_path, **{"lm_head.weight": torch.ones(512, 64)})
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


def test_missing_tensors_are_named(saved: Path) -> None:
    change(saved, **{"model.norm.weight": None, "model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(DataError, match=r"2 tensors: model\.layers\.1\.mlp\.up_proj\.weight, model\.norm\.weight"):
        load_model(saved)


def test_unexpected_tensors_are_named(saved: Path) -> None:
    change(saved, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(64)})
    with pytest.raises(DataError, match=r"no place for: model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_model(saved)


def test_many_wrong_names_are_cut_short(saved: Path) -> None:
    change_config(saved, num_hidden_layers=5)
    with pytest.raises(DataError, match=r"lacks 27 tensors: .*, \.\.\."):
        load_model(saved)


def test_wrong_shapes_are_named(saved: Path) -> None:
    change(saved, **{"model.layers.0.self_attn.k_proj.weight": torch.ones(64, 32)})
    with pytest.raises(DataError, match=r"k_proj\.weight has shape \(64, 32\), its config asks for \(32, 64\)"):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "[1]", '{"model_type": "llama"}'])
def test_broken_config_is_named(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    for function in (read_config, load_model):
        with pytest.raises(DataError, match=r"config\.json"):
            function(saved)


def test_cut_weights_are_named(saved: Path) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=WEIGHTS):
        load_model(saved)


def test_pickles_and_nothing(saved: Path, tmp_path: Path) -> None:
    (saved / WEIGHTS).rename(saved / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickle"):
        load_model(saved)
    with pytest.raises(DataError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nowhere\.gguf"):
        read_config(tmp_path / "nowhere.gguf")


def test_foreign_quantisation_is_refused(saved: Path) -> None:
    change_config(saved, quantization_config={"quant_method": "awq"})
    with pytest.raises(DataError, match="awq"):
        load_model(saved)


def test_what_counts_as_gguf(tmp_path: Path, saved: Path) -> None:
    """By name, or by the first bytes of a file of another name; a folder never."""
    (tmp_path / "model").write_bytes(b"GGUF")
    (tmp_path / "folder.gguf").mkdir()
    found = [is_gguf(tmp_path / name) for name in ("absent.gguf", "model", "folder.gguf", "config.json", "absent")]
    assert found == [True, True, False, False, False]
    with pytest.raises(DataError, match="config"):
        load_model(saved / WEIGHTS)
