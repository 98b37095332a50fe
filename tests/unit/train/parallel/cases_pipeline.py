"""Two stages of a pipeline against one process that holds all layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, empty_model, new_weights
from lianlu.model.load import load_model
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.train.audit import audit_step
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.checkpoint.state import trainable
from lianlu.train.config import CheckpointConfig, TrainConfig
from lianlu.train.held_out import held_out_nats
from lianlu.train.optim.build import build_optimizer, scale_gradients
from lianlu.train.packing import pack, packed_loss
from lianlu.train.parallel.gather import gathered, save_whole
from lianlu.train.parallel.layout import Layout

CONFIG = ModelConfig(**{**tiny.SHAPE, "num_hidden_layers": 5, "norm_head": True})
LENGTHS = ((7, 13, 3), (1,), (21, 9), (4, 1, 2), (17,))
STEPS = 3


def layout(pipeline: int = 2, **table: Any) -> Layout:
    return Layout(validate(TrainConfig, {"precision": "float32", "parallel": {"pipeline": pipeline}, **table}))


def batches(seed: int, lengths: tuple[tuple[int, ...], ...] = LENGTHS) -> list[Any]:
    return [pack(tiny.segments(seed + number, row)) for number, row in enumerate(lengths)]


def found(at: Layout, model: Decoder, of: list[Any]) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss, gradient norm, and this process's gradients, in the shapes of the decoder."""
    loss = at.accumulate(model, of, packed_loss)
    grads = {name: parameter.grad for name, parameter in trainable(model).items()}
    norm = at.norm([grad for grad in grads.values() if grad is not None])
    model.zero_grad(set_to_none=True)
    return loss, norm, {name: grad.flatten(0, 1) if grad.ndim == 3 else grad for name, grad in grads.items()}


def assert_close(got: Any, wanted: Any, relative: float = 1e-6) -> None:
    assert got[:2] == pytest.approx(wanted[:2], rel=relative)
    assert set(got[2]) < set(wanted[2])
    for name, grad in got[2].items():
        assert float((grad - wanted[2][name]).norm()) <= relative * float(wanted[2][name].norm()), name


def trained(at: Layout, model: Decoder) -> list[tuple[float, float]]:
    """A few AdamW steps, clipped; loss and norm of each."""
    optimizer = build_optimizer(model, validate(TrainConfig, {"optim": {"lr": 1e-3, "clip": 0.5}}).optim, part=True)
    figures = []
    for step in range(STEPS):
        of = batches(10 * step)
        loss = at.accumulate(model, of, packed_loss)
        norm = at.norm([p.grad for p in trainable(model).values() if p.grad is not None])
        num_targets = sum(int((batch.targets >= 0).sum()) for batch in of)
        figures.append((loss, scale_gradients(trainable(model).values(), norm, num_targets, 0.5)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return figures


def case_loss_gradients_and_norm_are_those_of_one_process(world: Any) -> None:
    few = [LENGTHS, LENGTHS[:1], LENGTHS[1:2], ((), (5, 2)), LENGTHS * 3]
    with world.alone():
        at = layout()
        wanted = [found(at, tiny.make(at, CONFIG), batches(0, lengths)) for lengths in few]
    for checkpointing in ("none", "selective", "full"):
        at = layout(checkpointing=checkpointing)
        model = tiny.make(at, CONFIG)
        assert not any("layers.4" in name for name in model.state_dict()) or world.rank == 1
        for lengths, expected in zip(few, wanted, strict=True):
            assert_close(found(at, model, batches(0, lengths)), expected)
    assert at.accumulate(model, [], packed_loss) == 0.0


def case_clipped_steps_lead_to_the_same_weights_which_come_back_by_name(world: Any) -> None:
    with world.alone():
        at = layout()
        model = tiny.make(at, CONFIG)
        wanted, weights = trained(at, model), dict(gathered(model))
    at = layout()
    model = tiny.make(at, CONFIG)
    got = trained(at, model)
    assert [pair[0] for pair in got] == pytest.approx([pair[0] for pair in wanted], rel=1e-6)
    assert [pair[1] for pair in got] == pytest.approx([pair[1] for pair in wanted], rel=1e-6)
    back = dict(gathered(model))
    assert list(back) == list(weights)
    tiny.same(back, weights, 1e-6)
    save_whole(model, world.folder / "saved", at.is_main)
    at.wait()
    saved = load_model(world.folder / "saved")
    # what is written under norm_head is the normalised output layer
    tiny.same(saved.state_dict(), {**back, "lm_head.weight": saved.head_weight().detach()}, 1e-6)


def case_bfloat16_products_are_those_of_one_process(world: Any) -> None:
    with world.alone():
        at = layout(precision="bfloat16")
        wanted = found(at, tiny.make(at, CONFIG), batches(0))
    at = layout(precision="bfloat16")
    assert_close(found(at, tiny.make(at, CONFIG), batches(0)), wanted)


def case_held_out_loss_needs_no_gradients(world: Any) -> None:
    examples = tiny.segments(1, (7, 13, 3, 1, 21, 9))
    with world.alone():
        at = layout()
        wanted = held_out_nats(tiny.make(at, CONFIG), examples, 16, at)
    at = layout()
    model = tiny.make(at, CONFIG)
    nats, count = held_out_nats(model, examples, 16, at)
    assert nats == pytest.approx(wanted[0], rel=1e-6)
    assert count == wanted[1]
    assert all(parameter.grad is None for parameter in model.parameters())


def case_an_audit_finds_nothing(world: Any) -> None:
    at = layout()
    model = tiny.make(at, CONFIG)
    own = [tiny.segments(0, (7, 13)), tiny.segments(1, (3, 4, 2))]
    task = SimpleNamespace(collate=pack, loss=packed_loss)
    step = SimpleNamespace(own=own, most_examples=5, batches=[pack(part) for part in own])
    audit_step(model, task, step, at)


def case_a_state_goes_on_under_another_layout(world: Any) -> None:
    def made(pipeline: int) -> tuple[Layout, Decoder, torch.optim.Optimizer]:
        at = layout(pipeline)
        model = tiny.make(at, CONFIG)
        return at, model, build_optimizer(model, TrainConfig().optim, part=True)

    def step(at: Layout, model: Decoder, optimizer: torch.optim.Optimizer, number: int) -> None:
        examples = [pack([segment]) for segment in tiny.segments(number, (9, 5, 11, 2))]
        at.accumulate(model, examples[at.data_rank :: at.num_data], packed_loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    staged, other = made(2), made(1)
    step(*staged, 0)
    Checkpoints(world.folder / "states", CheckpointConfig(), staged[0], []).save(staged[1], staged[2], 1, None)
    assert Checkpoints(world.folder / "states", CheckpointConfig(), other[0], []).restore(other[1], other[2]) == 1
    tiny.same(dict(gathered(other[1])), dict(gathered(staged[1])), 0.0)
    step(*staged, 1)
    step(*other, 1)
    Checkpoints(world.folder / "states", CheckpointConfig(), other[0], []).save(other[1], other[2], 2, None)
    again = made(2)
    assert Checkpoints(world.folder / "states", CheckpointConfig(), again[0], []).restore(again[1], again[2]) == 2
    step(*staged, 2)
    step(*again, 2)
    tiny.same(dict(gathered(again[1])), dict(gathered(staged[1])), 1e-5)


def case_what_cannot_be_divided_is_refused(world: Any) -> None:
    at = layout()
    with pytest.raises(ConfigError, match="output layer is the embedding"):
        tiny.make(at, CONFIG.model_copy(update={"tie_word_embeddings": True}))
    with pytest.raises(ConfigError, match="2 is more than the model's 1 layers"):
        tiny.make(at, CONFIG.model_copy(update={"num_hidden_layers": 1}))
    model = empty_model(CONFIG)
    add_lora(model, LoraSpec(rank=2), seed=1)
    with pytest.raises(ConfigError, match="adapters"):
        at.distribute(model, new_weights(CONFIG, seed=3))
