"""Stage sft: fine-tune a model on conversations, all of its weights or a LoRA adapter.

In: a checkpoint (folder or .gguf) and training data in any format that docs/formats.md lists. Out: for `tune.kind = "lora"`
and "qlora" an adapter in PEFT's format, for "full" a checkpoint; with the tokenizer, losses.jsonl, samples.jsonl and
logs/metrics.jsonl in both cases, and rejected.jsonl if records of the data could not be used.

The loss is on what an assistant has to produce and nothing else, in plain text on every token; ids and mask come from one
rendering by the model's own template. Examples are packed without padding and do not see each other. Under LoRA the frozen
matrices are held in the number type of the products, so that no cast is repeated, and no gradients are computed for them;
under QLoRA they are held in NF4 and widened where they are multiplied by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lianlu.core.config import Checkpoint, Config, Input
from lianlu.core.errors import LianluError
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.formats.examples.recognise import FormatName
from lianlu.formats.examples.sources import rough_bytes
from lianlu.model.config import ModelConfig
from lianlu.model.lora_spec import LoraSpec
from lianlu.train.config import AdamW, CosineSchedule, Optim, Schedule, TrainConfig
from lianlu.train.plan.forecast import Work, forecast, planned_bytes
from lianlu.train.plan.setting import Adapter

# What a forecast assumes where model or data are not there yet: SmolLM2-135M, and half a megabyte of conversations.
USUAL_MODEL = ModelConfig(
    architecture="llama",
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
USUAL_DATA_BYTES = 500_000
BYTES_PER_TOKEN = 6
# usual length of a conversation, and the share of its tokens that an assistant has written
USUAL_LENGTH = 256
ANSWER_SHARE = 0.6


class LoraTune(LoraSpec):
    """Train low-rank additions to linear layers; the weights of the model stay as they are."""

    kind: Literal["lora"] = "lora"


class QLoraTune(LoraSpec):
    """The same over weights held in four bits (NF4, arXiv 2305.14314): the least memory, one more rounding of the model."""

    kind: Literal["qlora"] = "qlora"
    double_quant: bool = True
    """Quantise the scales of the blocks as well: 4.13 bits a weight in place of 4.5."""

    @property
    def quant(self) -> Literal["nf4", "nf4-single"]:
        """How the weights below the adapter are held."""
        return "nf4" if self.double_quant else "nf4-single"


class FullTune(Config):
    """Train every weight."""

    kind: Literal["full"] = "full"


Tune = Annotated[LoraTune | QLoraTune | FullTune, Field(discriminator="kind")]


TrainingData = Annotated[str, Input(("conversations", "documents"))]


class SftConfig(TrainConfig):
    """Fine-tuning on conversations, or on plain text."""

    model: Checkpoint
    """The model to start from."""
    data: TrainingData | tuple[TrainingData, ...]
    """Conversations or texts in any format that docs/formats.md lists: a file, a folder of files, or several of these."""
    format: FormatName = "auto"
    """The format of the data; auto tells it from the first records."""
    tune: Tune = LoraTune()
    """What is trained."""
    epochs: int = Field(default=1, gt=0)
    """How often each example is seen."""
    steps: int = Field(default=0, ge=0)
    """Optimiser steps; if set, it decides instead of `epochs`."""
    batch_tokens: int = Field(default=2048, gt=0)
    """Tokens of one optimiser step at most (a longer example has a step of its own)."""
    max_length: int = Field(default=1024, gt=1)
    """Longest conversation in tokens; texts are cut into pieces of this length."""
    too_long: Literal["cut", "drop"] = "cut"
    """What happens to a longer conversation: its end is cut off, or it is left out."""
    held_out: float = Field(default=0.05, gt=0, lt=1)
    """Share held out of data that is not divided already (by train.jsonl and held_out.jsonl in its folder)."""
    held_out_tokens: int = Field(default=8192, gt=0)
    """Held-out tokens to evaluate on, at most."""
    num_samples: int = Field(default=2, ge=0)
    """Held-out questions answered as text samples."""
    sample_tokens: int = Field(default=40, ge=0)
    """Length of such an answer."""
    optim: Optim = AdamW(lr=5e-4, weight_decay=0.0, betas=(0.9, 0.999))
    """The optimiser."""
    schedule: Schedule = CosineSchedule(warmup=0.05)
    """How the learning rate moves."""

    @property
    def places(self) -> tuple[str, ...]:
        """Where the data is."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @property
    def artifact_kind(self) -> str:
        """LoRA and QLoRA make an adapter, full tuning a checkpoint."""
        return "checkpoint" if self.tune.kind == "full" else "adapter"


def estimate(config: SftConfig) -> Estimate:
    """A forecast from the model and the size of the data, as far as they are there."""
    from lianlu.model.load import read_config

    try:
        model = read_config(config.model)
    except (LianluError, OSError, ValueError):
        model = USUAL_MODEL
    return forecast(model, planned_work(config), config)


def planned_work(config: SftConfig) -> Work:
    """What the run will do, as far as the size of the data tells."""
    tokens = sum(_rough_tokens(Path(place)) for place in config.places) * config.epochs
    if config.steps:
        tokens = config.steps * config.batch_tokens
    length = min(USUAL_LENGTH, config.max_length)
    return Work(tokens, config.batch_tokens, length, config.max_length, ANSWER_SHARE, planned_adapter(config.tune))


def planned_adapter(tune: Tune) -> Adapter | None:
    """What is trained beside frozen weights, None where all are."""
    if tune.kind == "full":
        return None
    double_quant = tune.kind == "lora" or tune.double_quant
    return Adapter(tune.rank, tune.target, tune.kind == "qlora", tune.dropout > 0, tune.dora, double_quant)


def _rough_tokens(data: Path) -> int:
    return ((rough_bytes(data) if data.exists() else 0) or USUAL_DATA_BYTES) // BYTES_PER_TOKEN


def run(config: SftConfig, out: Output) -> None:
    """Tune, evaluate, and write adapter or checkpoint; continues where a killed run stopped.

    Raises: DataError for conversations that leave nothing to train on, or a model that cannot be read.
    """
    from lianlu.train.checkpoint.describe import describe_run
    from lianlu.train.checkpoint.state import finish, finished
    from lianlu.train.loop import RESUME, Loop
    from lianlu.train.parallel.layout import Layout
    from lianlu.train.sft_data import drop_data
    from lianlu.train.sft_task import SftTask, open_model, save_result

    if (figures := finished(out.path / RESUME)) is not None:
        out.figures.update(figures)
        drop_data(out.path / RESUME)
        return
    layout = Layout(config)
    task = SftTask(config, layout, out.path)
    model = open_model(config, layout)
    work, on_gpu = planned_work(config), layout.device.type == "cuda"
    out.figures["planned_memory_bytes"] = planned_bytes(model.config, work, config, layout.num_ranks, on_gpu)
    if layout.is_main:
        describe_run(out.path / RESUME, task.tokenizer, config.model, config.tune)
    Loop(model, task, config, out, layout).run("sft")
    save_result(model, config, out.path, layout)
    if layout.is_main:
        task.tokenizer.save(out.path)
        out.figures = {**task.figures(model, out), **out.figures}
        finish(out.path / RESUME, out.figures)
        drop_data(out.path / RESUME)
