"""Every block type against the `gguf` package, and whole models in GGUF against transformers."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from lianlu.core.errors import DataError
from lianlu.formats.gguf import read_gguf
from lianlu.formats.gguf_blocks import BLOCK_TYPES, dequantise
from lianlu.kernels.attention import PackedCausal
from lianlu.model.load import load_model, read_config

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

Types = gguf.GGMLQuantizationType


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=[block.name for block in BLOCK_TYPES.values()])
def test_random_bytes(kind: int) -> None:
    block = BLOCK_TYPES[kind]
    assert (block.num_weights, block.num_bytes) == gguf.GGML_QUANT_SIZES[Types(kind)]
    assert block.name == Types(kind).name
    raw = np.random.default_rng(kind).integers(0, 256, (64, block.num_bytes * 4), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = raw.view(np.float32) if block.name == "F32" else gguf.quants.dequantize(raw, Types(kind))
        found = dequantise(raw.reshape(-1), block)
    assert np.array_equal(found, expected.reshape(-1), equal_nan=True)


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """The row order of llama.cpp's converter for the families whose rotation is interleaved there."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


HEADS, GROUPS, WIDTH, HIDDEN, FFN, VOCAB, LAYERS = 4, 2, 16, 64, 96, 64, 2
QUANTISED = {"attn_q": Types.Q8_0, "ffn_down": Types.Q4_0, "ffn_up": Types.Q4_1, "attn_v": Types.F16, "ffn_gate": Types.BF16}


def head_dim(family: str) -> int:
    """transformers does not read Qwen3's head width from a GGUF and takes 128."""
    return 128 if family == "qwen3" else WIDTH


def write_model(path: Path, family: str, extra: Any = None) -> None:
    """A random model in llama.cpp's names, as its converter would write it."""
    generator = np.random.default_rng(0)
    width = head_dim(family)
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5e4)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_vocab_size(VOCAB)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if extra is not None:
        extra(writer)

    def add(name: str, *shape: int, mean: float = 0.0, heads: int = 0) -> None:
        weight = (generator.normal(size=shape) * 0.1 + mean).astype(np.float32)
        weight = permuted(weight, heads) if heads and family in ("llama", "internlm2") else weight
        kind = QUANTISED.get(name.split(".")[2] if name.startswith("blk") else "", Types.F32)
        if len(shape) == 1 or kind == Types.F32:
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)

    add("token_embd.weight", VOCAB, HIDDEN)
    add("output_norm.weight", HIDDEN, mean=1.0)
    if family != "qwen2":
        add("output.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", HIDDEN, mean=1.0)
        add(f"{block}.ffn_norm.weight", HIDDEN, mean=1.0)
        for name, heads in (("attn_q", HEADS), ("attn_k", GROUPS), ("attn_v", GROUPS)):
            add(f"{block}.{name}.weight", heads * width, HIDDEN, heads=0 if name == "attn_v" else heads)
            if family == "qwen2":
                add(f"{block}.{name}.bias", heads * width)
            if family == "qwen3" and name != "attn_v":
                add(f"{block}.{name}_norm.weight", width, mean=1.0)
        add(f"{block}.attn_output.weight", HIDDEN, HEADS * width)
        add(f"{block}.ffn_gate.weight", FFN, HIDDEN)
        add(f"{block}.ffn_up.weight", FFN, HIDDEN)
        add(f"{block}.ffn_down.weight", HIDDEN, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(path: Path, count: int = 20) -> torch.Tensor:
    ids = torch.arange(count) * 3 % VOCAB
    return load_model(path)(ids, torch.arange(count), PackedCausal([0, count]))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_models_compute_what_transformers_computes(family: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    reference = theirs((torch.arange(20) * 3 % VOCAB)[None]).logits[0]
    torch.testing.assert_close(logits(path), reference, rtol=1e-5, atol=1e-5)
    config = read_config(path)
    assert config.architecture == family
    assert config.tie_word_embeddings == (family == "qwen2")
    assert (config.rope_theta, config.rms_norm_eps, config.eos_token_ids) == (5e4, 1e-5, (2,))


def test_internlm2_in_gguf_is_permuted_as_llama(tmp_path: Path) -> None:
    for family in ("llama", "internlm2"):
        write_model(tmp_path / f"{family}.gguf", family)
    assert torch.equal(logits(tmp_path / "internlm2.gguf"), logits(tmp_path / "llama.gguf"))
    assert read_config(tmp_path / "internlm2.gguf").architecture == "internlm2"


def test_rope_scalings_in_metadata(tmp_path: Path) -> None:
    def linear(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    def yarn(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32)

    found = []
    for number, extra in enumerate((None, linear, yarn)):
        write_model(tmp_path / f"{number}.gguf", "qwen3", extra)
        found.append(read_config(tmp_path / f"{number}.gguf").rope_scaling.model_dump(exclude_defaults=True))
    assert found == [{}, {"factor": 4.0}, {"factor": 4.0, "original_max_position_embeddings": 32}]


def test_llama3_divisors_are_recognised(tmp_path: Path) -> None:
    from lianlu.kernels.rope import frequencies, llama3_frequencies

    divisors = (frequencies(5e4, WIDTH) / llama3_frequencies(5e4, WIDTH, 32.0, 8192, (1.0, 4.0))).numpy()
    write_model(tmp_path / "l.gguf", "llama", lambda writer: writer.add_tensor("rope_freqs.weight", divisors))
    scaling = read_config(tmp_path / "l.gguf").rope_scaling
    assert scaling.kind == "llama3"
    assert scaling.factor == pytest.approx(32.0)
    load_model(tmp_path / "l.gguf")
    write_model(tmp_path / "x.gguf", "llama", lambda writer: writer.add_tensor("rope_freqs.weight", divisors[::-1].copy()))
    with pytest.raises(DataError, match="rope_freqs"):
        read_config(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("family", "extra", "words"),
    [
        ("gemma", None, "gemma"),
        ("llama", lambda writer: writer.add_expert_count(8), "mixture of experts"),
        ("llama", lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "longrope"),
        ("llama", lambda writer: writer.add_tensor("blk.0.extra.weight", np.zeros(4, np.float32)), r"blk\.0\.extra\.weight"),
        ("llama", lambda writer: writer.add_tensor("blk.0.attn_q_norm.weight", np.zeros(16, np.float32)), "attn_k_norm"),
    ],
)
def test_what_is_not_supported_is_said(family: str, extra: Any, words: str, tmp_path: Path) -> None:
    write_model(tmp_path / "odd.gguf", family, extra)
    with pytest.raises(DataError, match=words) as error:
        load_model(tmp_path / "odd.gguf")
    assert "odd.gguf" in error.value.message


def test_real_file(smollm2: Path) -> None:
    ours, theirs = read_gguf(smollm2), gguf.GGUFReader(smollm2)
    assert {name for name in theirs.fields if not name.startswith("GGUF.")} == set(ours.metadata)
    for field in theirs.fields.values():
        if not field.name.startswith("GGUF."):
            assert ours.metadata[field.name] == field.contents()
    for tensor in theirs.tensors[::40]:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours.array(tensor.name), expected.reshape(ours.tensors[tensor.name].shape))
