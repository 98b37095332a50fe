"""Many LoRA adapters on one model: each row of a batch gets the update of its own adapter, or none.

The layers that an adapter changes are wrapped. The base product is computed once for all rows, packed, quantised or plain as
it is; then, for each adapter in the batch, its rows are gathered, multiplied by A and B, and added in place. Which rows
are whose is said once per batch (`MultiLora.over`), not per layer. A layer that no adapter changes is not wrapped.

A row's result does not depend on the rows beside it, to the bit: rows without adapter see the base product alone, and the
rows of an adapter come in multiples of `ROWS` as all rows of a step do (see `kernels.paged_attention`). Ranks and layers
may differ from adapter to adapter. After Punica and S-LoRA (arXiv 2310.18547, 2311.03285), with a loop over the adapters of
a batch in place of their grouped kernels. Without gradients; training and merging are in `lora.py`.

Limit: DoRA scales rows by norms of the plain weight, which a packed layer no longer has; such adapters are merged instead.

Shapes: T rows of a batch, N rows of one adapter, M the same padded, I inputs, O outputs, R sum of ranks in a fused layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lianlu.core.errors import ConfigError
from lianlu.kernels.linear import linear
from lianlu.kernels.paged_attention import ROWS
from lianlu.model.decoder import Decoder
from lianlu.model.lora import Adapter
from lianlu.model.lora_linear import stack

Span = tuple[str, int]
"""Consecutive rows of a batch: their adapter ("" for none) and their number."""


@dataclass(frozen=True)
class Group:
    """The rows of one adapter in a batch; None: all rows."""

    name: str
    rows_N: Tensor | None = None
    padded_M: Tensor | None = None


@dataclass
class Batch:
    """What the wrapped layers of a model look at: the adapters of the batch that is being computed."""

    groups: Sequence[Group] = ()


@dataclass(frozen=True)
class Update:
    """`x A^T B^T` of one fused layer, in the dtype of the model; plain weights, as packing pads a low rank to 64 rows."""

    a_RI: Tensor
    b_OR: Tensor

    def add(self, group: Group, x_TI: Tensor, y_TO: Tensor) -> None:
        """Add the update to the rows of a group, in place."""
        if group.rows_N is None or group.padded_M is None:
            y_TO.add_(self._of(x_TI))
        else:
            y_TO.index_add_(0, group.rows_N, self._of(x_TI.index_select(0, group.padded_M))[: len(group.rows_N)])

    def _of(self, x_MI: Tensor) -> Tensor:
        return linear(linear(x_MI, self.a_RI), self.b_OR)


class MultiLoraLinear(nn.Module):
    """A linear layer of any kind, and the updates that adapters make to it."""

    def __init__(self, base: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.base = base
        self.updates: dict[str, Update] = {}
        self.batch = batch

    def forward(self, x_TI: Tensor) -> Tensor:
        """The base layer's output, with the rows of each adapter updated."""
        y_TO: Tensor = self.base(x_TI)
        for group in self.batch.groups:
            if (update := self.updates.get(group.name)) is not None:
                update.add(group, x_TI, y_TO)
        return y_TO


@dataclass
class MultiLora:
    """The adapters of one model, by name.

    `add` may run in one thread while another computes with the model, as long as no batch names the new adapter yet.
    """

    model: Decoder
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By adapter, the layers it changes."""
    batch: Batch = field(default_factory=Batch)

    def add(self, name: str, adapter: Adapter) -> None:
        """Put an adapter on the model; nothing is touched before all of it is ready. Raises: ConfigError for a DoRA adapter."""
        assert name not in self.paths, f"there is an adapter {name} already"
        if adapter.dora:
            hint = "merge it: start with this adapter alone, or use `lianlu merge`"
            raise ConfigError(f"{name} is a DoRA adapter, which cannot be one of several on the same weights", hint=hint)
        like, config = self.model.embed_tokens.weight, self.model.config
        updates = {}
        for path, layer in adapter.layers.items():
            stacked = stack(path.split(".", 2)[2], config, layer)
            updates[path] = Update(*(weight.to(like.device, like.dtype) for weight in stacked))
        self._install(name, updates)
        self.paths[name] = tuple(updates)

    def remove(self, name: str) -> None:
        """Take an adapter off the model; layers that no adapter changes any more are what they were."""
        for path in self.paths.pop(name):
            layer = self.model.get_submodule(path)
            assert isinstance(layer, MultiLoraLinear)
            del layer.updates[name]
            if not layer.updates:
                self._replace(path, layer.base)

    @contextlib.contextmanager
    def over(self, spans: Sequence[Span]) -> Iterator[None]:
        """Compute with these adapters: `spans` are the rows of the batch from the first on; rows behind them have none."""
        self.batch.groups = self._groups(spans) if any(name for name, _ in spans) else ()
        try:
            yield
        finally:
            self.batch.groups = ()

    @contextlib.contextmanager
    def everywhere(self, name: str) -> Iterator[None]:
        """Compute with one adapter in all rows ("": none); batches have to come in multiples of `ROWS` rows."""
        assert not name or name in self.paths, f"there is no adapter {name}"
        self.batch.groups = (Group(name),) if name else ()
        try:
            yield
        finally:
            self.batch.groups = ()

    def _groups(self, spans: Sequence[Span]) -> list[Group]:
        names = [name for name, _ in spans]
        distinct = sorted(set(names))
        assert set(distinct) <= {"", *self.paths}, f"a row has an adapter that is not loaded: {distinct}"
        if len(distinct) == 1:
            return [Group(distinct[0])]
        index = {name: number for number, name in enumerate(distinct)}
        owner_T = np.repeat([index[name] for name in names], [count for _, count in spans])
        return [self._group(name, np.flatnonzero(owner_T == index[name])) for name in distinct if name]

    def _group(self, name: str, rows_N: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Group:
        device = self.model.embed_tokens.weight.device
        padded_M = torch.from_numpy(np.pad(rows_N, (0, -len(rows_N) % ROWS), mode="edge")).to(device)
        return Group(name, padded_M[: len(rows_N)], padded_M)

    def _install(self, name: str, updates: Mapping[str, Update]) -> None:
        for path, update in updates.items():
            layer = self.model.get_submodule(path)
            if not isinstance(layer, MultiLoraLinear):
                layer = MultiLoraLinear(layer, self.batch).train(layer.training)
                self._replace(path, layer)
            assert layer.batch is self.batch, "another engine has adapters on this model"
            layer.updates[name] = update

    def _replace(self, path: str, layer: nn.Module) -> None:
        owner, _, attribute = path.rpartition(".")
        setattr(self.model.get_submodule(owner), attribute, layer)
