"""Two processes against one: different data, divided weights, divided matrices, divided tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.distributed.tensor import DTensor

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, EngineError
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model, empty_model, new_weights
from lianlu.model.lora import add_lora, with_magnitudes
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.quantized import KINDS, prepare_quantized
from lianlu.train.audit import audit_step
from lianlu.train.checkpoint.state import trainable
from lianlu.train.config import TrainConfig
from lianlu.train.generate import generate
from lianlu.train.held_out import held_out_nats
from lianlu.train.packing import pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.parallel.vocab import last_logits, summed_loss

FAMILIES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one query a group": {"num_key_value_heads": 4},
    "six queries a group": {"num_attention_heads": 12, "head_dim": 8},
    "qwen3, tied": {"architecture": "qwen3", "qk_norm": True, "tie_word_embeddings": True},
    "qwen2": {"architecture": "qwen2", "attention_bias": True, "tie_word_embeddings": True},
    "internlm2 with biases, normalised head": {"attention_bias": True, "norm_head": True},
}


def alone(world: Any, config: ModelConfig, lengths: tuple[int, ...] = tiny.LENGTHS) -> tuple[float, dict[str, torch.Tensor]]:
    with world.alone():
        layout = tiny.layout_of()
        return tiny.gradients(layout, randomised(tiny.make(layout, config)), tiny.segments(0, lengths))


def randomised(model: Decoder) -> Decoder:
    """Vectors that are ones or zeros in a new model get values that can go wrong."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                values = 1 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                local, whole = (parameter.to_local(), parameter) if isinstance(parameter, DTensor) else (parameter, None)
                local.copy_(values if whole is None else part_of(values, parameter))
    return model


def part_of(values: torch.Tensor, like: DTensor) -> torch.Tensor:
    from lianlu.train.parallel.place import _part

    part = _part(values, like, torch.device("cpu"))
    assert isinstance(part, DTensor)
    return part.to_local()


def case_every_sharding_takes_the_steps_of_one_process(world: Any) -> None:
    config = ModelConfig(**tiny.SHAPE)
    with world.alone():
        layout = tiny.layout_of()
        model = tiny.make(layout, config)
        tiny.same(tiny.whole_state(model), dict(build_model(config, 3).state_dict()), 0.0)
        wanted = tiny.train(layout, model)
    for sharding in ("none", "gradient", "full"):
        layout = tiny.layout_of(sharding)
        assert (layout.num_data, layout.data_rank) == (2, world.rank)
        divided = tiny.make(layout, config)
        tiny.same(tiny.whole_state(divided), dict(build_model(config, 3).state_dict()), 0.0)
        np.testing.assert_allclose(tiny.train(layout, divided), wanted, rtol=1e-6)
        tiny.same(tiny.whole_state(divided), tiny.whole_state(model), 1e-6)


def case_each_process_holds_half_of_the_weights(world: Any) -> None:
    model = tiny.make(tiny.layout_of("full"), ModelConfig(**tiny.SHAPE))
    held = sum(parameter.to_local().numel() for parameter in model.parameters())
    assert held == sum(parameter.numel() for parameter in model.parameters()) // 2
    gate_up = model.layers[0].mlp.gate_up.weight
    assert gate_up.shape == (2, 48, 32)
    assert gate_up.to_local().shape == (2, 24, 32)


def case_the_norm_counts_each_element_once_with_frozen_ones(world: Any) -> None:
    config = ModelConfig(**tiny.SHAPE)
    values = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(9)) for name, p in tiny_shapes(config).items()}
    wanted = torch.linalg.vector_norm(torch.cat([value.flatten() for value in values.values()]))
    for table in ({"sharding": "none"}, {"sharding": "full"}, {"tensor": 2}, {"sequence": 2}):
        layout = tiny.layout_of(**table)
        model = tiny.make(layout, config)
        model.embed_tokens.weight.requires_grad_(False)
        tensors = dict(model.named_parameters())
        parts = [part_of(value, tensors[name]) for name, value in values.items()]
        spread = [
            DTensor.from_local(part, tensors[name].device_mesh, tensors[name].placements, run_check=False)
            for part, name in zip(parts, values, strict=True)
        ]
        assert layout.norm(spread) == pytest.approx(float(wanted), rel=1e-6)
        assert layout.norm([torch.ones(4)]) == pytest.approx(2.0)
        assert layout.norm([]) == 0.0


def tiny_shapes(config: ModelConfig) -> dict[str, torch.Tensor]:
    return dict(empty_model(config).named_parameters())


def case_divided_matrices_give_logits_loss_and_gradients(world: Any) -> None:
    for name, changes in FAMILIES.items():
        config = ModelConfig(**{**tiny.SHAPE, **changes})
        wanted_loss, wanted = alone(world, config)
        layout = tiny.layout_of(tensor=2)
        assert (layout.num_data, layout.data_rank) == (1, 0)
        model = randomised(tiny.make(layout, config))
        batch = pack(tiny.segments(0))
        with torch.no_grad():
            logits = last_logits(model, model.hidden(batch.input_ids, batch.positions, batch.attend))
            with world.alone():
                one = randomised(tiny.make(tiny.layout_of(), config))
                expected = one(batch.input_ids, batch.positions, batch.attend)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5, msg=name)
        loss, got = tiny.gradients(layout, model, tiny.segments(0))
        assert loss == pytest.approx(wanted_loss, rel=1e-6), name
        tiny.same(got, wanted, 1e-4)


def case_vocabulary_parallel_cross_entropy_is_that_of_one_process(world: Any) -> None:
    config = ModelConfig(**{**tiny.SHAPE, "vocab_size": 1000})
    model = tiny.make(tiny.layout_of(tensor=2), config)
    with world.alone():
        one = tiny.make(tiny.layout_of(), config)
    torch.manual_seed(0)
    hidden_TD = (5 * torch.randn(700, 32)).requires_grad_()
    for share in (0.7, 0.0):
        targets_T = torch.where(torch.rand(700) < share, torch.randint(0, 1000, (700,)), -100)
        found = []
        for each in (model, one):
            loss = summed_loss(each, hidden_TD, targets_T)
            weight = each.lm_head.weight
            found.append([loss, *torch.autograd.grad(2 * loss, [hidden_TD, weight], allow_unused=True)])
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[0][2].full_tensor(), found[1][2], rtol=1e-4, atol=1e-3)


def case_divided_tokens_give_loss_and_gradients(world: Any) -> None:
    shapes = {**FAMILIES, "one key-value head": {"num_key_value_heads": 1}}
    for name, changes in shapes.items():
        config = ModelConfig(**{**tiny.SHAPE, **changes})
        for lengths in (tiny.LENGTHS, (31,)) if changes else (tiny.LENGTHS, (1,), (31,), (2, 1)):
            wanted_loss, wanted = alone(world, config, lengths)
            layout = tiny.layout_of(sequence=2)
            model = randomised(tiny.make(layout, config))
            loss, got = tiny.gradients(layout, model, tiny.segments(0, lengths))
            assert loss == pytest.approx(wanted_loss, rel=1e-5), name
            tiny.same(got, wanted, 1e-5)


def case_three_key_value_heads_are_repeated_for_two_processes(world: Any) -> None:
    from lianlu.train.parallel.ulysses import share

    batch = pack(tiny.segments(0, (5, 9, 3)))
    generator = torch.Generator().manual_seed(0)
    q_THK, k_TGK, v_TGK = (torch.randn(batch.num_tokens, heads, 4, generator=generator) for heads in (6, 3, 3))
    wanted = PackedCausal(batch.attend.boundaries)(0, q_THK, k_TGK, v_TGK)
    own = share(batch, tiny.layout_of(sequence=2).meshes.sequence)
    assert 2 * own.num_tokens == batch.num_tokens == 32
    got = own.attend(0, *(x.chunk(2)[world.rank] for x in (q_THK, k_TGK, v_TGK)))
    torch.testing.assert_close(got, wanted.chunk(2)[world.rank])


def case_the_partition_does_not_show(world: Any) -> None:
    config = ModelConfig(**tiny.SHAPE)
    source = np.random.default_rng(5)
    model = tiny.make(tiny.layout_of("full"), config)
    by_tokens = tiny.make(tiny.layout_of(sequence=2), config)
    for _ in range(8):
        lengths = tuple(int(length) for length in source.integers(1, 30, source.integers(1, 9)))
        examples = tiny.segments(int(source.integers(1000)), lengths)
        with world.alone():
            layout = tiny.layout_of()
            wanted_loss, wanted = tiny.gradients(layout, tiny.make(layout, config), examples, 10_000)
        for layout, each in ((tiny.layout_of("full"), model), (tiny.layout_of(sequence=2), by_tokens)):
            loss, got = tiny.gradients(layout, each, examples, int(source.integers(1, 64)))
            each.zero_grad(set_to_none=True)
            assert loss == pytest.approx(wanted_loss, rel=1e-6)
            apart = sum(float((got[name] - value).square().sum()) for name, value in wanted.items()) ** 0.5
            assert apart <= 1e-6 * sum(float(value.square().sum()) for value in wanted.values()) ** 0.5 + 1e-12


class Task:
    """What an audit needs; `wrong` breaks packing."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.wrong = wrong

    def collate(self, examples: Any) -> Any:
        return pack(examples)

    def loss(self, model: Decoder, batch: Any) -> torch.Tensor:
        return packed_loss(model, batch) * (1 + self.wrong * batch.num_tokens)


class Step:
    def __init__(self, layout: Layout) -> None:
        examples = tiny.segments(0)
        from lianlu.train.share import deal

        shares = deal([example.num_tokens for example in examples], layout.num_data, 24)
        self.own = [[examples[index] for index in part] for part in shares[layout.data_rank]]
        self.most_examples = max(sum(len(part) for part in share) for share in shares)
        self.batches = [pack(part) for part in self.own]


def case_an_audit_runs_on_both(world: Any) -> None:
    for table in ({}, {"sequence": 2}, {"tensor": 2}):
        layout = tiny.layout_of(**table)
        model = tiny.make(layout, ModelConfig(**tiny.SHAPE))
        audit_step(model, Task(), Step(layout), layout)
        assert all(parameter.grad is None for parameter in model.parameters())
        with pytest.raises(EngineError, match="audit"):
            audit_step(model, Task(0.01), Step(layout), layout)


def case_held_out_loss_and_samples_are_those_of_one_process(world: Any) -> None:
    config = ModelConfig(**{**tiny.SHAPE, "norm_head": True})
    examples = tiny.segments(1)
    with world.alone():
        layout = tiny.layout_of()
        model = tiny.make(layout, config)
        with torch.no_grad():
            wanted = held_out_nats(model, examples, 16, layout), generate(model, [1, 2, 3], 8, temperature=0.7, seed=4)
    for table in ({}, {"sharding": "none"}, {"sharding": "gradient"}, {"sequence": 2}, {"tensor": 2}):
        layout = tiny.layout_of(**table)
        model = tiny.make(layout, config)
        with torch.no_grad():
            (nats, count), text = (
                held_out_nats(model, examples, 16, layout),
                generate(model, [1, 2, 3], 8, temperature=0.7, seed=4),
            )
        layout.settle(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        assert nats == pytest.approx(wanted[0][0], rel=1e-6)
        assert (count, text) == (wanted[0][1], wanted[1])


def case_adapters_train_on_divided_weights(world: Any) -> None:
    config = ModelConfig(**tiny.SHAPE)

    def make(layout: Layout) -> Decoder:
        model = empty_model(config)
        add_lora(model, LoraSpec(rank=4), seed=2)
        layout.distribute(model, new_weights(config, seed=3))
        with torch.no_grad():
            for number, (name, parameter) in enumerate(trainable(model).items()):
                if "lora_B" in name:
                    values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                    local.copy_(part_of(values, parameter) if isinstance(parameter, DTensor) else values)
        return model

    def found(layout: Layout) -> tuple[float, float, dict[str, torch.Tensor]]:
        model = make(layout)
        examples = tiny.segments(0)
        loss = layout.accumulate(model, tiny.own_batches(layout, examples, 24), packed_loss)
        grads = {name: parameter.grad for name, parameter in trainable(model).items()}
        norm = layout.norm(list(grads.values()))
        return loss, norm, {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in grads.items()}

    with world.alone():
        wanted = found(tiny.layout_of())
    for table in ({}, {"sharding": "gradient"}, {"sharding": "none"}, {"sequence": 2}):
        got = found(tiny.layout_of(**table))
        assert got[:2] == pytest.approx(wanted[:2], rel=1e-6)
        tiny.same(got[2], wanted[2], 1e-5)
    with pytest.raises(ConfigError, match="plain weights"):
        make(tiny.layout_of(tensor=2))


def case_codes_of_four_bits_are_divided_by_rows(world: Any) -> None:
    config = ModelConfig(**{**tiny.SHAPE, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 1})

    def found(layout: Layout) -> tuple[float, float]:
        model = empty_model(config)
        prepare_quantized(model, "nf4")
        add_lora(model, LoraSpec(rank=4, dora=True), seed=2)
        layout.distribute(model, with_magnitudes(model, in_nf4(config)))
        examples = tiny.segments(0)
        loss = layout.accumulate(model, tiny.own_batches(layout, examples, 24), packed_loss)
        codes = model.layers[0].mlp.down.base.weight
        if isinstance(codes, DTensor) and layout.meshes.weights.shape[-1] > 1:
            assert codes.dtype == torch.uint8
            assert codes.to_local().shape == (32, 96)
        return loss, layout.norm([p.grad for p in trainable(model).values()])

    with world.alone():
        wanted = found(tiny.layout_of())
    for table in ({}, {"sharding": "gradient"}, {"sharding": "none"}, {"sequence": 2}):
        assert found(tiny.layout_of(**table)) == pytest.approx(wanted, rel=1e-5)


def in_nf4(config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in new_weights(config, seed=3):
        module = name.removesuffix(".weight")
        if not name.startswith("layers") or "norm" in name:
            yield name, tensor
        else:
            yield from ((f"{module}.{part}", value) for part, value in KINDS["nf4"].quantise(tensor).items())


def case_shards_may_be_uneven_and_micro_batches_empty(world: Any) -> None:
    config = ModelConfig(**{**tiny.SHAPE, "hidden_size": 33, "head_dim": 6, "intermediate_size": 37, "vocab_size": 61})
    examples = tiny.segments(0, (5, 9), 61)
    with world.alone():
        layout = tiny.layout_of()
        wanted_loss, wanted = tiny.gradients(layout, tiny.make(layout, config), examples)
    layout = tiny.layout_of()
    model = tiny.make(layout, config)
    assert model.layers[0].mlp.gate_up.weight.to_local().shape == (1, 37, 33)
    tiny.same(tiny.whole_state(model), dict(build_model(config, 3).state_dict()), 0.0)
    for max_tokens in (1, 24):
        loss, got = tiny.gradients(layout, model, examples, max_tokens)
        model.zero_grad(set_to_none=True)
        assert loss == pytest.approx(wanted_loss, rel=1e-6)
        tiny.same(got, wanted, 1e-5)
    none = [pack([]), pack([])]
    assert layout.accumulate(model, none, packed_loss) == 0.0
    assert layout.norm([parameter.grad for parameter in model.parameters()]) == 0.0


def case_sizes_that_do_not_fit_are_refused_with_those_that_do(world: Any) -> None:
    with pytest.raises(ConfigError, match="groups of 3") as caught:
        tiny.layout_of(tensor=3)
    assert "multiple of 3" in caught.value.hint
    with pytest.raises(ConfigError, match="does not divide the 2 data-parallel") as caught:
        tiny.layout_of(shard_size=4)
    assert "1, 2" in caught.value.hint
    for changes, table, hint in (
        ({"num_key_value_heads": 1}, {"tensor": 2}, "one of 1"),
        ({"vocab_size": 63}, {"tensor": 2}, "one of 1"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8}, {"sequence": 2}, "1, 3"),
    ):
        with pytest.raises(ConfigError, match="does not divide") as caught:
            tiny.make(tiny.layout_of(**table), ModelConfig(**{**tiny.SHAPE, **changes}))
        assert hint in caught.value.hint


def case_checkpointing_and_compiled_blocks_compose(world: Any) -> None:
    config = ModelConfig(**tiny.SHAPE)
    wanted_loss, wanted = alone(world, config)
    for kind, parallel in itertools.product(("selective", "full"), ({}, {"tensor": 2}, {"sequence": 2})):
        table = {"precision": "float32", "checkpointing": kind, "parallel": parallel}
        layout = Layout(validate(TrainConfig, table))
        loss, got = tiny.gradients(layout, randomised(tiny.make(layout, config)), tiny.segments(0))
        assert loss == pytest.approx(wanted_loss, rel=1e-6)
        tiny.same(got, wanted, 1e-5)


def case_bfloat16_products_stay_close(world: Any) -> None:
    config = ModelConfig(**tiny.SHAPE)
    wanted_loss, wanted = alone(world, config)
    for parallel in ({}, {"tensor": 2}, {"sequence": 2}):
        layout = Layout(validate(TrainConfig, {"precision": "bfloat16", "parallel": parallel}))
        loss, got = tiny.gradients(layout, randomised(tiny.make(layout, config)), tiny.segments(0))
        assert loss == pytest.approx(wanted_loss, rel=2e-2)
        apart = sum(float((got[name] - value).square().sum()) for name, value in wanted.items()) ** 0.5
        assert apart <= 5e-2 * sum(float(value.square().sum()) for value in wanted.values()) ** 0.5
