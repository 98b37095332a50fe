"""What an export needs to know about a run besides its states: the tokenizer, and of an adapter its base and its kind.

.resume/run.json     `RunRecord`
.resume/tokenizer/   the tokenizer, with the chat template
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lianlu.core.config import Config
from lianlu.core.errors import ArtifactError
from lianlu.core.files import write_json
from lianlu.model.lora_spec import LoraSpec
from lianlu.model.quantized import Method
from lianlu.tokenizer.tokenizer import Tokenizer

RUN = "run.json"
TOKENIZER = "tokenizer"


class RunRecord(BaseModel):
    """Of which model the run's is made, and how; both empty for a new model trained in full."""

    base: str = ""
    """Path of the model that the run began with."""
    adapter: dict[str, Any] | None = None
    """The fields of the adapter's `LoraSpec`; None where all weights are trained."""
    quant: Method | None = None
    """How the weights below the adapter are held (QLoRA); None for plain ones, or as the base has them."""


def describe_run(folder: Path, tokenizer: Tokenizer, base: str = "", tune: Config | None = None) -> None:
    """Note in `folder`, beside the states, what their export needs. For the main process."""
    record = RunRecord(base=base)
    if isinstance(tune, LoraSpec):
        adapter = tune.model_dump(mode="json", include=set(LoraSpec.model_fields))
        record = RunRecord(base=base, adapter=adapter, quant=getattr(tune, "quant", None))
    tokenizer.save(folder / TOKENIZER)
    write_json(folder / RUN, record.model_dump(mode="json"))


def read_run(folder: Path) -> RunRecord:
    """What `describe_run` noted. Raises: ArtifactError if there is nothing to be read."""
    try:
        return RunRecord.model_validate(json.loads((folder / RUN).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        message = f"{folder / RUN} cannot be read: {type(error).__name__}"
        raise ArtifactError(message, hint="the folder holds no run of `lianlu pretrain` or `lianlu sft`") from error


def forget_run(folder: Path) -> None:
    """Remove what `describe_run` noted."""
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    (folder / RUN).unlink(missing_ok=True)
