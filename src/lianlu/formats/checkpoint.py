"""Checkpoint folders on disk: tensors in safetensors files, one or many with an index, as Hugging Face lays them out.

`Tensors` reads lazily by name; `write_tensors` writes shards of bounded size, whole or not at all, the index last. What the
names mean is the model's business (`model/layouts.py`). Pickle files are never opened, whatever they are called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write, disk_errors, write_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
DAMAGED = "the file is damaged or cut short: download or write it again"

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises: DataError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check the path; a model has config.json") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}", hint=DAMAGED) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} does not hold a JSON object", hint=DAMAGED)
    return value


class Tensors:
    """The tensors of a safetensors file, or of a folder with one such file or an index of many; read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._readers: dict[Path, Any] = {}
        self._files = self._single(path) if path.is_file() else self._folder(path)

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._files)

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, in the dtype of the file. Raises: DataError."""
        if name not in self._files:
            raise DataError(f"{self.path} has no tensor {name!r}", hint="the checkpoint may be incomplete or of another family")
        file = self._files[name]
        try:
            tensor: Tensor = self._reader(file).get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{file}: cannot read tensor {name!r}: {error}", hint=DAMAGED) from error
        return tensor

    def release(self) -> None:
        """Let go of the memory that the files are seen through, all that was read of them; they are opened anew when asked."""
        self._readers.clear()

    def _reader(self, file: Path) -> Any:
        if file not in self._readers:
            try:
                self._readers[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError, ValueError) as error:
                raise DataError(f"{file} is not a readable safetensors file: {error}", hint=DAMAGED) from error
        return self._readers[file]

    def _single(self, file: Path) -> dict[str, Path]:
        if file.suffix != ".safetensors":
            raise DataError(f"{file} is not a safetensors file", hint="lianlu reads .safetensors and .gguf, never pickles")
        return dict.fromkeys(self._reader(file).keys(), file)

    def _folder(self, folder: Path) -> dict[str, Path]:
        if (folder / INDEX).is_file():
            return self._indexed(folder)
        if (folder / WEIGHTS).is_file():
            return self._single(folder / WEIGHTS)
        found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if len(found) == 1:
            return self._single(found[0])
        raise self._nothing(folder)

    def _nothing(self, folder: Path) -> DataError:
        pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
        if pickles:
            hint = "unpickling can run any code, so lianlu never does it: get the safetensors version of this model"
            return DataError(f"{folder} holds its weights as pickle files only ({pickles[0]})", hint=hint)
        return DataError(f"{folder} has no {WEIGHTS} and no {INDEX}", hint="check the path; a model folder holds safetensors")

    def _indexed(self, folder: Path) -> dict[str, Path]:
        table = read_json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise DataError(f"{folder / INDEX} has no weight_map", hint=DAMAGED)
        for name in sorted(set(table.values())):
            if Path(name).name != name:
                raise DataError(f"{folder / INDEX} points outside its folder: {name!r}", hint="do not use this checkpoint")
            if not (folder / name).is_file():
                raise DataError(f"{folder / name} is missing; {INDEX} names it", hint="download the checkpoint again")
        self._compare(folder, table)
        return {tensor: folder / name for tensor, name in table.items()}

    def _compare(self, folder: Path, table: Mapping[str, str]) -> None:
        """Refuse an index that disagrees with its files."""
        for name in sorted(set(table.values())):
            held = set(self._reader(folder / name).keys())
            absent = sorted(tensor for tensor, file in table.items() if file == name and tensor not in held)
            if absent:
                raise DataError(f"{folder / name} lacks {absent[0]!r}, which {INDEX} places there", hint=DAMAGED)


def write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path]:
    """Write `tensors` into `folder` as model.safetensors, or as shards with an index where they exceed `max_shard_bytes`.

    Tensors are taken one shard at a time, so a generator keeps memory low. Files of an earlier save are replaced; equal
    tensors give equal bytes. Raises: ArtifactError when the disk refuses.
    """
    parts: list[Path] = []
    try:
        return _write_parts(folder, _shards(tensors, max_shard_bytes), parts)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _write_parts(folder: Path, shards: Iterable[Mapping[str, Tensor]], parts: list[Path]) -> list[Path]:
    """Write every shard under a hidden name, then give all of them their names; `parts` collects the hidden ones."""
    table: dict[str, int] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        part = folder / f".model-{number:05d}.part"
        write_safetensors(part, shard)
        parts.append(part)
        table.update(dict.fromkeys(shard, number))
        total += sum(tensor.nbytes for tensor in shard.values())
    names = [WEIGHTS] if len(parts) == 1 else [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    with disk_errors(folder):
        for part, name in zip(parts, names, strict=True):
            part.replace(folder / name)
    if len(parts) > 1:
        weight_map = {name: names[number - 1] for name, number in table.items()}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _remove_stale(folder, {*names, *([INDEX] if len(parts) > 1 else [])})
    return [folder / name for name in names]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file atomically, tensors in the order given. Raises: ArtifactError when the disk refuses."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            _write_bytes(file, tensor)


def _write_bytes(file: IO[bytes], tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    file.write(flat.view(torch.uint8).numpy().data)


def _shards(tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int) -> Iterable[dict[str, Tensor]]:
    """Tensors in order, cut where the next one would exceed the limit; a larger tensor has a shard of its own."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _remove_stale(folder: Path, keep: set[str]) -> None:
    pattern = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name) and path.name not in keep:
            path.unlink()
