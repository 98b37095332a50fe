"""States on disk: safetensors files and one JSON record, as storage below torch.distributed.checkpoint (DCP).

    step-00000123/
      rank-00000.safetensors   the blocks of tensors that process 0 wrote
      state.json               written last: what `StateRecord` lists, among it where every block of every tensor lies

DCP's planners decide who writes and who reads which block; so a state is read by any number of processes in any layout. A
tensor that one process wrote whole is stored under its own name, a block of one under `NAME@OFFSET,OFFSET`. DCP's own
storage keeps this table as a pickle, which could run any code when it is read; this one holds no pickles at all.

All processes have to see the same folder. Only tensors are stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from lianlu.core.errors import ArtifactError
from lianlu.formats.checkpoint import DTYPE_NAMES, write_safetensors

FORMAT = 2
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}

Sizes = tuple[int, ...]


class DamagedError(ArtifactError):
    """A state that cannot be read: a file is missing, short or broken."""


def damaged(state: Path, why: object) -> DamagedError:
    """The error about a state that cannot be read."""
    return DamagedError(f"the state {state} is damaged: {why}", hint=f"remove {state.parent} to start the step anew")


class TensorRecord(BaseModel):
    """One tensor: its whole shape, and its blocks as (file of the record's list, offsets, sizes)."""

    dtype: str
    shape: Sizes
    blocks: list[tuple[int, Sizes, Sizes]]


class StateRecord(BaseModel):
    """All that is known about a state besides its numbers."""

    format: int = FORMAT
    step: int
    """The next step to do: as many are done."""
    figure: float | None = None
    """The latest held-out figure, lower is better."""
    logs: dict[str, int] = {}
    """Bytes of each log when the state was written."""
    keep: dict[str, Any] = {}
    """The policy by which states were kept."""
    model: dict[str, Any] | None = None
    """The shape of the model, where it has one."""
    files: dict[str, int] = {}
    """Files and their sizes in bytes."""
    tensors: dict[str, TensorRecord] = {}


def file_name(rank: int) -> str:
    """What the file of a process is called."""
    return f"rank-{rank:05d}.safetensors"


def block_name(name: str, offsets: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> str:
    """What a block is called in its file."""
    return name if tuple(sizes) == tuple(shape) else f"{name}@{','.join(map(str, offsets))}"


class Buffers:
    """Memory of the host that states are copied into before they are written in the background; used again every time."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """A copy on the host; it is there when `wait` returns."""
        held = self._held.get(name)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._held[name] = held
        return held.copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Until all copies are there."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()


class StateWriter(StorageWriter):
    """Collects this process's blocks while DCP plans; `flush` writes them, `record` describes the whole on the main process."""

    def __init__(self, folder: Path, header: StateRecord, buffers: Buffers | None = None) -> None:
        self.folder, self.record, self._buffers = folder, header, buffers
        self._rank, self._blocks = 0, dict[str, Tensor]()

    def reset(self, checkpoint_id: Any = None) -> None:
        """DCP's; there is one writer for each state."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """DCP's: which process this is."""
        self._rank = int(kwargs.get("rank", 0))

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """DCP's: nothing to add."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """DCP's: nothing to add."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """DCP's: take this process's share, by reference or, for the background, as a copy."""
        results = []
        for item in plan.items:
            tensor, data = planner.resolve_data(item), item.tensor_data
            assert isinstance(tensor, Tensor), f"{item.index.fqn} is no tensor"
            assert data is not None
            if tensor.numel() == 0:
                continue
            sizes, offsets = tuple(tensor.shape), tuple(item.index.offset or ())
            name = block_name(item.index.fqn, offsets, sizes, data.size)
            self._blocks[name] = self._buffers.copy(name, tensor.detach()) if self._buffers else tensor.detach()
            results.append(WriteResult(item.index, tensor.nbytes, (self._rank, offsets, sizes)))
        if self._buffers:
            self._buffers.wait()
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """DCP's, on the main process: where the blocks will lie."""
        ranks = sorted({result.storage_data[0] for own in results for result in own})
        blocks: dict[str, list[tuple[int, Sizes, Sizes]]] = defaultdict(list)
        for result in (result for own in results for result in own):
            rank, offsets, sizes = result.storage_data
            blocks[result.index.fqn].append((ranks.index(rank), offsets, sizes))
        tensors = {}
        for name, known in metadata.state_dict_metadata.items():
            assert isinstance(known, TensorStorageMetadata)
            dtype = DTYPE_NAMES[known.properties.dtype]
            tensors[name] = TensorRecord(dtype=dtype, shape=tuple(known.size), blocks=sorted(blocks[name]))
        self.record = self.record.model_copy(update={"files": {file_name(rank): 0 for rank in ranks}, "tensors": tensors})

    def flush(self) -> None:
        """Write this process's file, to the platter. Raises: ArtifactError when the disk refuses."""
        if self._blocks:
            write_safetensors(self.folder / file_name(self._rank), self._blocks)
        self._blocks = {}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """DCP's: states are not opened by name."""
        return False


@dataclass(frozen=True)
class State:
    """A complete state on disk."""

    folder: Path
    record: StateRecord

    def file(self, number: int) -> Path:
        """The file that a block's number means."""
        return self.folder / sorted(self.record.files)[number]

    def tensor(self, name: str) -> Tensor:
        """A tensor in whole, on the CPU. Raises: DamagedError for a broken file; KeyError for an unknown name."""
        known = self.record.tensors[name]
        whole = torch.empty(known.shape, dtype=DTYPES[known.dtype])
        for number, offsets, sizes in known.blocks:
            place = tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))
            try:
                with safe_open(self.file(number), framework="pt") as file:
                    whole[place] = file.get_tensor(block_name(name, offsets, sizes, known.shape))
            except (SafetensorError, OSError) as error:
                raise damaged(self.folder, error) from error
        return whole

    def tensors(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors whose names begin with `prefix`, without it, one by one."""
        for name in self.record.tensors:
            if name.startswith(prefix):
                yield name.removeprefix(prefix), self.tensor(name)


class StateReader(StorageReader):
    """Reads the blocks, or the parts of blocks, that DCP asks for."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._blocks: dict[tuple[str, Sizes], tuple[int, str]] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """DCP's; there is one reader for each state."""

    def read_metadata(self) -> Metadata:
        """DCP's: the table of the record in its terms."""
        table: dict[str, Any] = {}
        for name, known in self._state.record.tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for _, offsets, sizes in known.blocks]
            properties = TensorProperties(dtype=DTYPES[known.dtype])
            table[name] = TensorStorageMetadata(properties, torch.Size(known.shape), chunks)
            for number, offsets, sizes in known.blocks:
                self._blocks[name, offsets] = number, block_name(name, offsets, sizes, known.shape)
        return Metadata(table)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """DCP's: nothing to prepare."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """DCP's: nothing to add."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """DCP's: nothing to add."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """DCP's: copy what was asked for into its place, file by file."""
        wanted: dict[int, list[tuple[str, ReadItem]]] = defaultdict(list)
        for item in plan.items:
            number, name = self._blocks[item.storage_index.fqn, tuple(item.storage_index.offset or ())]
            wanted[number].append((name, item))
        for number, requests in wanted.items():
            try:
                self._read_file(self._state.file(number), requests, planner)
            except (SafetensorError, OSError) as error:
                raise damaged(self._state.folder, error) from error
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read_file(self, path: Path, requests: list[tuple[str, ReadItem]], planner: LoadPlanner) -> None:
        with safe_open(path, framework="pt") as file:
            for name, item in requests:
                part = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
                target = planner.resolve_tensor(item).detach()
                target.copy_(file.get_slice(name)[part] if part else file.get_tensor(name))
                planner.commit_tensor(item, target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """DCP's: states are not opened by name."""
        return False
