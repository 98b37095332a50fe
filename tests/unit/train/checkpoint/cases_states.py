"""States that two processes write and one reads, and the other way round; run by `test_processes.py`."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from lianlu.core.config import validate
from lianlu.core.errors import ArtifactError
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, empty_model, new_weights
from lianlu.model.lora import add_lora
from lianlu.model.lora_spec import LoraSpec
from lianlu.train.checkpoint import folder as states
from lianlu.train.checkpoint import storage
from lianlu.train.checkpoint.folder import read_state, steps
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.checkpoint.state import trainable
from lianlu.train.config import CheckpointConfig, TrainConfig
from lianlu.train.optim.build import build_optimizer, init_state
from lianlu.train.parallel.layout import Layout

# tied and with biases; a rank of 3 below makes parts of unequal size
SHAPE = ModelConfig(
    vocab_size=98,
    hidden_size=48,
    intermediate_size=90,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    attention_bias=True,
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "full": {"sharding": "full"},
    "gradient": {"sharding": "gradient"},
    "none": {"sharding": "none"},
    "replicas": {"shard_size": 1},
    "tensor": {"tensor": 2},
}
Run = tuple[Layout, Decoder, torch.optim.Optimizer]


def made(world: Any, name: str, kind: str = "adamw", seed: int = 0, lora: bool = False) -> Run:
    """A model in a layout, its optimiser without states; several calls with the same seed make the same."""
    if name == "one":
        with world.alone():
            return _made({}, kind, seed, lora)
    return _made(LAYOUTS[name], kind, seed, lora)


def _made(parallel: dict[str, Any], kind: str, seed: int, lora: bool) -> Run:
    config = validate(TrainConfig, {"precision": "float32", "parallel": parallel, "optim": {"kind": kind, "lr": 0.01}})
    layout, model = Layout(config), empty_model(SHAPE)
    if lora:
        add_lora(model, LoraSpec(rank=3), seed)
        for path, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.is_meta:
                real = torch.nn.Parameter(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
                owner, _, leaf = path.rpartition(".")
                model.get_submodule(owner)[leaf] = real
    model = layout.distribute(model, new_weights(SHAPE, seed))
    return layout, model, build_optimizer(model, config.optim)


def trained(run: Run, seed: int = 7) -> Run:
    """States that look like those after a step, the same in every layout: made whole, then divided."""
    _, model, optimizer = run
    init_state(optimizer)
    for name, parameter in trainable(model).items():
        for key, value in optimizer.state[parameter].items():
            generator = torch.Generator().manual_seed(seed + sum(map(ord, name + key)))
            whole = torch.randint(0, 256, value.shape, generator=generator)
            fill(value, whole.to(value.dtype) if value.dtype == torch.uint8 else whole / 255)
    return run


def fill(target: torch.Tensor, whole: torch.Tensor) -> None:
    if not isinstance(target, DTensor):
        target.copy_(whole)
        return
    from lianlu.train.parallel.place import _part

    part = _part(whole, target, torch.device("cpu"))
    assert isinstance(part, DTensor)
    target.to_local().copy_(part.to_local())


def wholes(run: Run) -> dict[str, torch.Tensor]:
    """Everything that is state, whole, in the shapes of one process."""
    _, model, optimizer = run
    found = {}
    for name, parameter in trainable(model).items():
        for key, value in {"": parameter.detach(), **optimizer.state.get(parameter, {})}.items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            found[f"{key}.{name}"] = whole.flatten(0, 1) if name.endswith("gate_up.weight") and whole.ndim == 3 else whole
    return found


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def checkpoints(world: Any, layout: Layout, folder: Path, logs: tuple[Path, ...] = (), **fields: Any) -> Checkpoints:
    return Checkpoints(folder, validate(CheckpointConfig, fields), layout, logs)


def moved(world: Any, folder: Path, writer: Run, reader: Run, **fields: Any) -> None:
    """What one layout wrote, another reads. A layout of one process is played by both, in folders of their own."""
    wanted = wholes(writer)
    own = folder if writer[0].num_ranks > 1 else folder / str(world.rank)
    saving = checkpoints(world, writer[0], own, **fields)
    saving.save(writer[1], writer[2], 5, None)
    saving.close()
    dist.barrier()
    if writer[0].num_ranks == 1 and reader[0].num_ranks > 1:
        own = folder / "0"
    if reader[0].num_ranks == 1 and writer[0].num_ranks > 1:
        shutil.copytree(own, folder / f"copy-{world.rank}")
        own = folder / f"copy-{world.rank}"
    assert checkpoints(world, reader[0], own).restore(reader[1], reader[2]) == 5
    equal(wholes(reader), wanted)
    dist.barrier()


def case_every_layout_reads_what_every_other_wrote(world: Any) -> None:
    short = ["one", "full", "tensor", "one"]
    chains = {"adamw": [*short, "gradient", "replicas", "none", "tensor", "full", "one"], "adamw8": short, "muon": short}
    for kind, chain in chains.items():
        first = before = trained(made(world, chain[0], kind))
        for number, after in enumerate(chain[1:]):
            target = made(world, after, kind, seed=number + 1)
            moved(world, world.folder / f"{kind}-{number}", before, target, asynchronous=number % 2 == 1)
            equal(wholes(target), wholes(first))
            before = target


def case_an_adapter_moves_between_layouts(world: Any) -> None:
    one = trained(made(world, "one", lora=True))
    assert all("lora_" in name for name in trainable(one[1]))
    full = made(world, "full", seed=1, lora=True)
    moved(world, world.folder / "adapter-a", one, full)
    back = made(world, "one", seed=2, lora=True)
    moved(world, world.folder / "adapter-b", full, back)
    equal(wholes(back), wholes(one))


def case_nothing_is_written_twice(world: Any) -> None:
    """What all hold is written by one of them; what is divided, by each its part."""
    sizes = {}
    for name in ("full", "none", "tensor"):
        layout, model, optimizer = trained(made(world, name))
        checkpoints(world, layout, world.folder / f"once-{name}").save(model, optimizer, 1, None)
        record = read_state(world.folder / f"once-{name}", 1).record
        assert set(record.files) == {"rank-00000.safetensors", "rank-00001.safetensors"}
        sizes[name] = sum(record.files.values())
        assert max(record.files.values()) < 0.6 * sizes[name], "the work is divided"
    assert max(sizes.values()) < 1.1 * min(sizes.values())


def case_the_main_process_decides_for_all(world: Any) -> None:
    layout = made(world, "full")[0]
    own = checkpoints(world, layout, world.folder / "clock", seconds=1e-9 if layout.is_main else 1e9)
    assert own.due(1)
    own = checkpoints(world, layout, world.folder / "clock", seconds=1e9 if layout.is_main else 1e-9)
    assert not own.due(1)
    own = checkpoints(world, layout, world.folder / "clock", every=2)
    assert [own.due(step) for step in (1, 2)] == [False, True]


def case_logs_are_the_main_process_s(world: Any) -> None:
    log = world.folder / "main.jsonl"
    run = trained(made(world, "full"))
    if world.rank == 0:
        log.write_text("one\n")
    dist.barrier()
    checkpoints(world, run[0], world.folder / "logs", (log,)).save(run[1], run[2], 1, 0.5)
    if world.rank == 0:
        log.write_text("one\ntwo\n")
    dist.barrier()
    assert checkpoints(world, run[0], world.folder / "logs", (log,)).restore(run[1], run[2]) == 1
    dist.barrier()
    assert log.read_text() == "one\n"


def case_if_one_disk_is_full_none_goes_on(world: Any) -> None:
    """All processes learn of it; the state before is the newest, and nothing is left of the other."""
    folder = world.folder / "disk"
    real = storage.write_safetensors

    def refuse(*_: Any) -> None:
        raise ArtifactError(f"cannot write: {errno.errorcode[errno.ENOSPC]}", hint="free some space")

    for asynchronous in (False, True):
        for broken in (0, 1):
            run = trained(made(world, "full"))
            own = checkpoints(world, run[0], folder, asynchronous=asynchronous)
            own.save(run[1], run[2], 1, None)
            own._settle(last=True)
            storage.write_safetensors = refuse if world.rank == broken else real
            caught = None
            try:
                own.save(run[1], run[2], 2, None)
                own.close()
            except ArtifactError as error:
                caught = error
            finally:
                storage.write_safetensors = real
            assert caught is not None
            assert "ENOSPC" in caught.message
            assert caught.hint == "free some space"
            dist.barrier()
            assert sorted(path.name for path in folder.iterdir()) == ["step-00000001"]
            own = checkpoints(world, run[0], folder)
            assert own.restore(run[1], run[2]) == 1


def case_a_state_damaged_for_one_is_passed_over_by_all(world: Any) -> None:
    """Its size is right, so only the process that reads the broken file notices."""
    folder = world.folder / "damage"
    run = trained(made(world, "full"))
    own = checkpoints(world, run[0], folder, keep_last=2)
    own.save(run[1], run[2], 1, None)
    own.save(run[1], run[2], 2, None)
    file = states.state_folder(folder, 2) / "rank-00001.safetensors"
    if world.rank == 0:
        file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    dist.barrier()
    wanted, other = wholes(run), made(world, "full", seed=9)
    again = checkpoints(world, other[0], folder, keep_last=2)
    assert again.restore(other[1], other[2]) == 1
    equal(wholes(other), wanted)
    again.save(other[1], other[2], 2, None)
    assert steps(folder) == [1, 2]
    assert checkpoints(world, run[0], folder).restore(run[1], run[2]) == 2


def case_nothing_usable_is_said_by_all(world: Any) -> None:
    folder = world.folder / "unusable"
    run = trained(made(world, "full"))
    checkpoints(world, run[0], folder).save(run[1], run[2], 1, None)
    dist.barrier()
    if world.rank == 0:
        (states.state_folder(folder, 1) / states.RECORD).write_text(json.dumps({"step": "x"}))
    dist.barrier()
    caught = None
    try:
        checkpoints(world, run[0], folder).restore(run[1], run[2])
    except ArtifactError as error:
        caught = error
    assert caught is not None
    assert "step-00000001" in caught.message
    assert caught.hint


def case_a_state_of_another_model_is_refused_by_all(world: Any) -> None:
    folder = world.folder / "other"
    run = trained(made(world, "full"))
    checkpoints(world, run[0], folder).save(run[1], run[2], 1, None)
    other = made(world, "full", kind="muon")
    caught = None
    try:
        checkpoints(world, other[0], folder).restore(other[1], other[2])
    except ArtifactError as error:
        caught = error
    assert caught is not None
    assert "momentum_buffer" in caught.message
