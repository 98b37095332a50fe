"""What the processes of one run are to each other: who sees which tokens, who holds which weights, how sums are formed.

The loop talks to a `Layout` and to nothing else about parallelism; model files know nothing of it. One process alone has
the trivial layout. Of several, each has its place on the axes of `mesh.Sizes`; a model goes through `distribute` in the order
tensor parallel, activation checkpointing, compilation, FSDP, and only then is there memory for its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lianlu.core import console, processes
from lianlu.model.decoder import Decoder
from lianlu.train.config import TrainConfig
from lianlu.train.packing import Packed
from lianlu.train.parallel.fsdp import set_last, settle, shard_weights
from lianlu.train.parallel.launch import join
from lianlu.train.parallel.mesh import Meshes, check_shape, meshes_of, sizes_of
from lianlu.train.parallel.pipeline import Pipeline
from lianlu.train.parallel.place import place
from lianlu.train.parallel.tensor import divide_matrices, stack_gates
from lianlu.train.parallel.ulysses import share
from lianlu.train.precision import compute_dtype, mixed, pick_device
from lianlu.train.recompute import prepare_blocks

M = TypeVar("M", bound=nn.Module)
B = TypeVar("B")


class Layout:
    """One process among those of a run. Raises: ConfigError for sizes that the processes or the model cannot be divided by."""

    def __init__(self, config: TrainConfig) -> None:
        self.num_ranks, self.rank = processes.num_processes(), processes.rank()
        self.device = pick_device()
        self.dtype = compute_dtype(config.precision, self.device)
        self.num_data, self.data_rank = 1, 0
        self.meshes: Meshes | None = None
        self.pipeline: Pipeline | None = None
        self._config = config
        if self.num_ranks > 1:
            sizes = sizes_of(config.parallel, self.num_ranks)
            join(self.device)
            self.meshes = meshes_of(sizes, config.parallel.sharding, self.device.type)
            self.num_data = sizes.num_data
            self.data_rank = self.meshes.place("replica") * sizes.shard + self.meshes.place("shard")
            if sizes.pipeline > 1:
                self.pipeline = Pipeline(self.meshes.grid["pipeline"], self.device, self.dtype)
                if self.is_main:
                    console.info("no text samples are written: each process of a pipeline has only some of the layers")
        elif config.parallel.tensor * config.parallel.sequence * config.parallel.pipeline > 1:
            console.info("one process alone: parallel.tensor, sequence and pipeline are ignored")

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and results."""
        return self.rank == 0

    def distribute(self, model: Decoder, weights: Iterable[tuple[str, Tensor]]) -> Decoder:
        """The model on `meta` with its weights in place: this process's part of them, on its device.

        `weights` gives whole tensors by name, the same to every process; each is dropped before the next is asked for.
        Adapters may be on the model, with updates that are real already.
        """
        if self.meshes is not None:
            check_shape(self.meshes.sizes, model.config)
            if self.meshes.tensor is None:
                stack_gates(model)
            else:
                divide_matrices(model, self.meshes.tensor)
        if self.pipeline is not None:
            self.pipeline.cut(model)
        _move_real(model, self.device)
        prepare_blocks(model, self._config)
        if self.meshes is not None and self.meshes.weights.size() > 1:
            shard_weights(model, self.meshes.weights, self._config.parallel.sharding, self.dtype)
        place(model, weights, self.device)
        return model

    def local(self, batch: B) -> B:
        """This process's part of a micro-batch: under sequence parallelism its share of the tokens."""
        if self.meshes is None or self.meshes.sequence is None or not isinstance(batch, Packed):
            return batch
        return cast(B, share(batch, self.meshes.sequence))

    def accumulate(self, model: M, batches: Sequence[B], loss: Callable[[M, B], Tensor]) -> float:
        """Add the gradients of the summed loss over this process's micro-batches; returns the sum over all processes."""
        if self.pipeline is not None:
            own = [self.local(batch) for batch in batches]
            return self.total(self.pipeline.accumulate(model, own, loss, partial(self._announce, model, len(own))))
        sums: list[Tensor] = []
        for number, batch in enumerate(batches):
            self._announce(model, len(batches), number)
            with mixed(self.dtype, self.device):
                total = loss(model, self.local(batch))
            torch.autograd.backward(total)
            sums.append(total.detach())
        return self.total(float(torch.stack(sums).double().sum()) if sums else 0.0)

    def evaluate(self, model: M, batches: Sequence[B], loss: Callable[[M, B], Tensor]) -> float:
        """The summed loss over this process's micro-batches, without gradients, summed over all processes."""
        own = [self.local(batch) for batch in batches]
        if self.pipeline is not None:
            return self.total(self.pipeline.evaluate(model, own, loss))
        with torch.no_grad():
            return self.total(sum(float(loss(model, batch)) for batch in own))

    def _announce(self, model: nn.Module, count: int, number: int) -> None:
        """Before the backward pass of micro-batch `number` of `count`."""
        set_last(model, number == count - 1, self._config.parallel.sharding)

    def total(self, value: float) -> float:
        """The sum of a figure over the processes that see different tokens; the same bits on all processes."""
        if self.meshes is None:
            return value
        counted = value if self.meshes.place("tensor") == 0 else 0.0
        return float(self._summed(torch.tensor(counted, dtype=torch.float64)))

    def norm(self, values: Sequence[Tensor]) -> float:
        """The global L2 norm of gradients or the like, each element counted once."""
        if self.meshes is None:
            return float(torch.nn.utils.get_total_norm(values)) if values else 0.0
        own = [_local(value) for value in values if self._counts(value)]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        if own:
            squares = torch.stack(torch._foreach_norm(own)).double().square().sum()
        return float(self._summed(squares).sqrt())

    def _counts(self, value: Tensor) -> bool:
        """Whether this process is the one that counts its part: of processes that hold the same, the first does."""
        assert self.meshes is not None
        if not isinstance(value, DTensor):
            return self.meshes.is_first(set())
        mesh = value.device_mesh
        first = all(not p.is_replicate() or mesh.get_local_rank(axis) == 0 for axis, p in enumerate(value.placements))
        return first and self.meshes.is_first(set(mesh.mesh_dim_names or ()))

    def _summed(self, value: Tensor) -> Tensor:
        value = value.to(self.device)
        dist.all_reduce(value)
        return value

    def settle(self, model: nn.Module) -> None:
        """After passes without a backward pass: weights that were gathered are divided again."""
        settle(model)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.meshes is not None:
            float(self._summed(torch.zeros(())))


def _move_real(model: nn.Module, device: torch.device) -> None:
    """What has memory already goes to the device."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta and parameter.device != device:
                module.register_parameter(name, nn.Parameter(parameter.to(device), requires_grad=parameter.requires_grad))


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
