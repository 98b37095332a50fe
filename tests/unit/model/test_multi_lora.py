"""Rows of a batch under different adapters: each as if it were alone, those without adapter as if there were none."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lianlu.core.errors import ConfigError
from lianlu.kernels.attention import PackedCausal
from lianlu.kernels.paged_attention import ROWS
from lianlu.model.config import preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.lora import add_lora, load_adapter, merge_adapter, read_adapter, save_adapter
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.multi_lora import MultiLora, MultiLoraLinear
from lianlu.model.packed import pack_linears
from lianlu.model.quantized import quantize_linears

torch.set_num_threads(1)

SPECS = {
    "a": LoraSpec(rank=4, alpha=6),
    "b": LoraSpec(rank=1, alpha=2, target=("q_proj", "v_proj")),
    "c": LoraSpec(rank=9, alpha=3, target=("wqkv", "w2")),
}
NAMES = ("", *SPECS)


def base(dtype: torch.dtype = torch.float32) -> Decoder:
    return build_model(preset("internlm2-nano", initializer_range=0.1), 0).to(dtype).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for number, (name, spec) in enumerate(SPECS.items()):
        model = base()
        add_lora(model, spec, seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.1, generator=generator)
        made[name] = tmp_path_factory.mktemp(name)
        save_adapter(model, made[name], "base")
    return made


def plain(kind: str) -> Decoder:
    model = base(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    if kind in ("int8", "int4"):
        quantize_linears(model, kind)
    if kind != "plain":
        pack_linears(model)
    return model


def with_adapters(kind: str, folders: dict[str, Path]) -> MultiLora:
    lora = MultiLora(plain(kind))
    for name, folder in folders.items():
        lora.add(name, read_adapter(lora.model.config, folder))
    return lora


KINDS = ("plain", "packed", "int8", "int4", "bfloat16")


@pytest.fixture(scope="module")
def stands(folders: dict[str, Path]) -> dict[str, tuple[Decoder, MultiLora]]:
    return {kind: (plain(kind), with_adapters(kind, folders)) for kind in KINDS}


def logits(model: Decoder, prompts: Sequence[Tensor]) -> list[Tensor]:
    """Of prompts in one batch, with the padding that the engine gives it."""
    sizes = [len(prompt) for prompt in prompts]
    fill = -sum(sizes) % ROWS
    ids = torch.cat([*prompts, torch.zeros(fill, dtype=torch.int64)])
    positions = torch.cat([torch.arange(size) for size in (*sizes, fill)])
    bounds = torch.tensor([0, *sizes, fill]).cumsum(0).tolist()
    with torch.inference_mode():
        found = model(ids, positions, PackedCausal(bounds if fill else bounds[:-1]))
    return list(found[: sum(sizes)].split(sizes))


def prompt(size: int, seed: int) -> Tensor:
    return torch.randint(0, 512, (size,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    spans=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([1, 1, 1, 2, 3, 4, 7, 16, 37])), min_size=1, max_size=9),
)
def test_layers_give_each_row_what_it_gets_alone(
    stands: dict[str, tuple[Decoder, MultiLora]], kind: str, spans: list[tuple[str, int]]
) -> None:
    """Attention aside, whose own tests say this of it: the wrapped layers, to the bit."""
    bare, lora = stands[kind]
    total = sum(count for _, count in spans)
    fill = -total % ROWS
    generator = torch.Generator().manual_seed(total)
    for path in ("layers.0.attention.wqkv", "layers.1.mlp.gate_up", "layers.1.mlp.down", "layers.0.attention.wo"):
        layer = lora.model.get_submodule(path)
        width = _width(lora.model, path)
        x = torch.randn(total + fill, width, generator=generator).to(lora.model.embed_tokens.weight.dtype)
        with torch.inference_mode():
            with lora.over(spans):
                together = layer(x)[:total]
            untouched = bare.get_submodule(path)(x)[:total]
            begin = 0
            for name, count in spans:
                rows = slice(begin, begin + count)
                if not name:
                    assert torch.equal(together[rows], untouched[rows])
                own = torch.cat((x[rows], x.new_zeros(-count % ROWS, width)))
                with lora.over([(name, count)]):
                    assert torch.equal(layer(own)[:count], together[rows])
                begin += count


def _width(model: Decoder, path: str) -> int:
    config = model.config
    return {"wo": config.num_attention_heads * config.head_dim, "down": config.intermediate_size}.get(
        path.rpartition(".")[2], config.hidden_size
    )


@pytest.mark.parametrize("name", SPECS)
def test_agrees_with_the_merged_model(folders: dict[str, Path], stands: dict[str, tuple[Decoder, MultiLora]], name: str) -> None:
    merged = base()
    load_adapter(merged, folders[name])
    merge_adapter(merged)
    pack_linears(merged)
    lora = stands["packed"][1]
    prompts = [prompt(11, 1), prompt(5, 2), prompt(8, 3)]
    with lora.over([("", 11), (name, 5), (name, 8)]):
        found = logits(lora.model, prompts)
    expected = [logits(model, prompts)[index] for index, model in enumerate((stands["packed"][0], merged, merged))]
    assert torch.equal(found[0], expected[0])
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.log_softmax(-1), reference.log_softmax(-1), rtol=0, atol=1e-4)
    assert not torch.allclose(found[1], logits(stands["packed"][0], prompts)[1], atol=1e-2)


def test_everywhere_is_the_same_as_over_all_rows(stands: dict[str, tuple[Decoder, MultiLora]]) -> None:
    lora = stands["packed"][1]
    some = [prompt(9, 4)]
    with lora.everywhere("c"):
        first = logits(lora.model, some)
    with lora.over([("c", 9)]):
        second = logits(lora.model, some)
    with lora.everywhere(""):
        third = logits(lora.model, some)
    assert torch.equal(first[0], second[0])
    assert torch.equal(third[0], logits(stands["packed"][0], some)[0])


def test_only_changed_layers_are_wrapped_and_all_is_undone(folders: dict[str, Path]) -> None:
    model = plain("packed")
    kinds = {name: type(module) for name, module in model.named_modules()}
    lora = MultiLora(model)
    for name in "bc":
        lora.add(name, read_adapter(model.config, folders[name]))
    wrapped = {path for path, module in model.named_modules() if isinstance(module, MultiLoraLinear)}
    layers = range(model.config.num_hidden_layers)
    assert wrapped == {f"layers.{n}.{module}" for n in layers for module in ("attention.wqkv", "mlp.down")}
    gone = weakref.ref(model.get_submodule("layers.1.mlp.down").updates["c"])
    lora.remove("c")
    assert gone() is None
    assert {path for path, module in model.named_modules() if isinstance(module, MultiLoraLinear)} == {
        f"layers.{n}.attention.wqkv" for n in layers
    }
    lora.remove("b")
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert lora.paths == {}


def test_an_error_in_a_batch_leaves_no_adapter_behind(stands: dict[str, tuple[Decoder, MultiLora]]) -> None:
    bare, lora = stands["packed"]
    with pytest.raises(RuntimeError, match="in the middle"), lora.over([("a", 4)]):
        raise RuntimeError("in the middle")
    assert torch.equal(logits(lora.model, [prompt(6, 5)])[0], logits(bare, [prompt(6, 5)])[0])


def test_a_row_under_an_unknown_adapter_is_no_row_without_one(stands: dict[str, tuple[Decoder, MultiLora]]) -> None:
    with pytest.raises(AssertionError, match="not loaded"), stands["packed"][1].over([("", 3), ("x", 1)]):
        pass


def test_two_engines_cannot_share_a_wrapped_model(folders: dict[str, Path]) -> None:
    first = with_adapters("packed", folders)
    with pytest.raises(AssertionError, match="another engine"):
        MultiLora(first.model).add("x", read_adapter(first.model.config, folders["a"]))


def test_a_dora_adapter_is_merged_or_refused(tmp_path: Path) -> None:
    """It would need the norms of weights that a packed layer no longer has; nothing is touched by the refusal."""
    model = base()
    add_lora(model, LoraSpec(rank=2, dora=True))
    save_adapter(model, tmp_path, "base")
    served = base()
    adapters = MultiLora(served)
    with pytest.raises(ConfigError, match="DoRA") as caught:
        adapters.add("d", read_adapter(served.config, tmp_path))
    assert "lianlu merge" in caught.value.hint
    assert not adapters.paths
    assert not any(isinstance(module, MultiLoraLinear) for module in served.modules())
