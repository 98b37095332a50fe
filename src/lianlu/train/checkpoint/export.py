"""A Hugging Face folder out of a run, at any time: from a state of one that is at work or was killed, or from a finished one.

Full training gives a model, LoRA an adapter in PEFT's format or, merged with its base, a model. States hold fp32, and so do
the results unless another number type is asked for. Nothing of the run is touched; a state that the run removes while it is
read is replaced by a newer one.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from lianlu.core.config import validate
from lianlu.core.errors import ArtifactError, ConfigError
from lianlu.core.files import disk_errors
from lianlu.core.store import Artifact, Store, read_manifest
from lianlu.formats.checkpoint import read_json
from lianlu.model.config import Architecture, ModelConfig
from lianlu.model.decoder import Decoder, empty_model
from lianlu.model.load import CONFIG, load_model, open_model
from lianlu.model.lora import add_lora, load_adapter
from lianlu.model.lora_files import ADAPTER_CONFIG, read_adapter, save_adapter, trained_base
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.quantized import Method
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.checkpoint import folder as states
from lianlu.train.checkpoint.describe import TOKENIZER, RunRecord, read_run
from lianlu.train.checkpoint.storage import DamagedError, State

RESUME = ".resume"
BEST = "best"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NUM_TRIES = 3


@dataclass(frozen=True)
class Wish:
    """How a run is to be exported; empty fields mean: the newest state or the result, as the run itself would write it."""

    step: str = ""
    layout: str = ""
    dtype: str = ""
    merge: bool = False

    def check(self) -> None:
        """Raises: ConfigError for a value that does not exist."""
        families = get_args(Architecture)
        if self.layout and self.layout not in families:
            raise ConfigError(f"unknown layout {self.layout!r}", hint=f"choose one of {', '.join(families)}")
        if self.dtype and self.dtype not in DTYPES:
            raise ConfigError(f"unknown number type {self.dtype!r}", hint=f"choose one of {', '.join(DTYPES)}")
        if self.step and self.step != BEST and not self.step.isdecimal():
            raise ConfigError(f"{self.step!r} is no step", hint="give the number of a state's step, or best")

    @property
    def family(self) -> Architecture | None:
        """The layout, None for the model's own."""
        return next((family for family in get_args(Architecture) if family == self.layout), None)


def find_run(name: str, store: Store) -> Path:
    """The folder of an artifact (@step, id, digest, path) or of a run that has not finished (id, stage, path).

    Raises: ArtifactError that lists the unfinished runs.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    with contextlib.suppress(ArtifactError):
        return store.get(name).path
    unfinished = [folder for folder in sorted((store.root / "work").glob("*")) if (folder / RESUME).is_dir()]
    found = [folder for folder in unfinished if folder.name.startswith(name.removeprefix("@"))]
    if len(found) == 1:
        return found[0]
    said = f"{name} fits several runs" if found else f"there is no artifact or run {name} in {store.root}"
    listed = ", ".join(folder.name for folder in found or unfinished) or "none"
    raise ArtifactError(said, hint=f"`lianlu ls` lists artifacts; unfinished runs: {listed}")


def export(run: Path, target: Path, wish: Wish, store: Store) -> str:
    """Write what `wish` asks for into the new folder `target`; returns what it was, for people.

    Raises: ConfigError for a wish that cannot be fulfilled; ArtifactError if there is nothing whole to export.
    """
    wish.check()
    with _new_folder(target) as folder:
        if wish.step or not any((run / name).is_file() for name in (CONFIG, ADAPTER_CONFIG)):
            return _export_state(run / RESUME, folder, wish)
        if (run / CONFIG).is_file():
            return _export_model(run, folder, wish)
        return _export_adapter(run, folder, wish, store)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder that takes the name `target` when the block ends well."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} is there already", hint="name a new folder")
    folder = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with disk_errors(target):
            folder.mkdir(parents=True)
            yield folder
            folder.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _export_state(resume: Path, folder: Path, wish: Wish) -> str:
    for attempt in range(NUM_TRIES):
        try:
            state = _chosen(resume, wish.step)
            return _write_state(resume, state, folder, wish)
        except DamagedError:
            if attempt == NUM_TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _chosen(resume: Path, step: str) -> State:
    """The newest whole state, the best, or that of a step."""
    found: dict[int, State] = {}
    for number in states.steps(resume):
        with contextlib.suppress(DamagedError):
            found[number] = states.read_state(resume, number)
    if not found:
        hint = (
            "a run writes its first state after checkpoint.seconds or checkpoint.every; a finished one keeps what keep_every says"
        )
        raise ArtifactError(f"{resume.parent} holds no whole state", hint=hint)
    wanted: int | None = max(found)
    if step == BEST:
        wanted = states.best({number: state.record.figure for number, state in found.items()})
    elif step:
        wanted = int(step)
    if wanted is None or wanted not in found:
        there = ", ".join(map(str, found))
        raise ArtifactError(f"{resume.parent} has no state of step {step}", hint=f"there are states of the steps {there}")
    return found[wanted]


def _write_state(resume: Path, state: State, folder: Path, wish: Wish) -> str:
    record = read_run(resume)
    if state.record.model is None:
        raise ArtifactError(f"{state.folder} does not say what model it is of", hint="only language models can be exported")
    config = validate(ModelConfig, state.record.model)
    tokenizer = Tokenizer.load(resume / TOKENIZER)
    said = f"step {state.record.step} of {resume.parent.name}"
    if record.adapter is None:
        _save_whole(_whole_model(config, record, state, _dtype(wish)), tokenizer, folder, wish)
        return f"{said}: a model"
    adapted = _adapted_model(config, record, state)
    if wish.merge:
        _merge(adapted, record.base, tokenizer, folder, wish)
        return f"{said}: a model, {_merged(record.quant)}"
    _save_adapter(adapted, record.base, tokenizer, folder, wish)
    return f"{said}: an adapter of {record.base}"


def _dtype(wish: Wish) -> torch.dtype:
    return DTYPES[wish.dtype or "float32"]


def _whole_model(config: ModelConfig, record: RunRecord, state: State, dtype: torch.dtype) -> Decoder:
    """The model of a state, in `dtype`; weights that were not trained are those of its base."""
    model = empty_model(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights = {name: tensor.reshape(shapes[name]).to(dtype) for name, tensor in state.tensors("model.")}
    if set(weights) != set(shapes):
        if not record.base:
            missing = sorted(set(shapes) - set(weights))
            raise ArtifactError(f"{state.folder} lacks {missing[0]}", hint="the state belongs to another kind of model")
        model = load_model(record.base, dtype, config=config)
    model.load_state_dict(weights, strict=False, assign=True)
    return model


def _adapted_model(config: ModelConfig, record: RunRecord, state: State) -> Decoder:
    """The adapter of a state on a model without weights."""
    assert record.adapter is not None
    model, _ = open_model(record.base, quant=record.quant, config=config)
    add_lora(model, validate(LoraSpec, record.adapter))
    model.load_state_dict(dict(state.tensors("model.")), strict=False, assign=True)
    return model


def _export_model(run: Path, folder: Path, wish: Wish) -> str:
    table = read_json(run / CONFIG)
    stored = str(table.get("dtype") or table.get("torch_dtype") or "float32")
    model = load_model(run, DTYPES[wish.dtype or (stored if stored in DTYPES else "float32")])
    _save_whole(model, Tokenizer.load(run), folder, wish)
    return f"{run.name}: a model"


def _export_adapter(run: Path, folder: Path, wish: Wish, store: Store) -> str:
    base, quant = _base_of(run, store), trained_base(run)
    model, _ = open_model(base, quant=next((method for method in get_args(Method) if method == quant), None))
    # memory that is never written to is never there
    model.to_empty(device="cpu")
    load_adapter(model, run)
    if wish.merge:
        _merge(model, base, Tokenizer.load(run), folder, wish)
        return f"{run.name}: a model, {_merged(quant)}"
    _save_adapter(model, base, Tokenizer.load(run), folder, wish)
    return f"{run.name}: an adapter of {base}"


def _merged(quant: str | None) -> str:
    """What a merge did; an adapter that knew rounded weights meets others in the original ones."""
    if quant is None:
        return "the adapter merged"
    return f"the adapter merged into the original weights, though it was trained on {quant} (`lianlu merge` takes either)"


def _base_of(run: Path, store: Store) -> str:
    """The model that a finished adapter belongs to, by its manifest."""
    for record in Artifact(run, read_manifest(run)).manifest.inputs:
        if record.field == "model":
            return str(store.get(record.artifact).path) if record.artifact else record.path
    raise ArtifactError(f"{run} does not say what model it was trained on", hint="`lianlu merge` takes both by name")


def _save_whole(model: Decoder, tokenizer: Tokenizer, folder: Path, wish: Wish) -> None:
    save_model(model, folder, wish.family)
    tokenizer.save(folder)


def _save_adapter(model: Decoder, base: str, tokenizer: Tokenizer, folder: Path, wish: Wish) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(_dtype(wish))
    save_adapter(model, folder, Path(base).stem if Path(base).is_file() else Path(base).name, wish.family)
    tokenizer.save(folder)


def _merge(model: Decoder, base: str, tokenizer: Tokenizer, folder: Path, wish: Wish) -> None:
    """Write the adapter by itself, and read the base with it, one weight at a time."""
    adapter = folder / ".adapter"
    save_adapter(model, adapter, "")
    merged = load_model(base, _dtype(wish), config=model.config, adapter=read_adapter(model.config, adapter))
    shutil.rmtree(adapter)
    _save_whole(merged, tokenizer, folder, wish)
