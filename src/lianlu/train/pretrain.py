"""Stage pretrain: a language model from token shards, new or continued from any checkpoint lianlu reads.

In: one shards folder or several (train.bin, held_out.bin, tokenizer), and for continued pretraining a checkpoint. Out: a
checkpoint in Hugging Face layout with its tokenizer, losses.jsonl, samples.jsonl and logs/metrics.jsonl. Documents are packed
without padding and do not see each other. Several sources are mixed by weight (mix.py), the run may have phases (phases.py).

Held-out quality is bits per byte: summed nats over the held-out tokens, end-of-text included, over ln 2 and the bytes of
their text, so that it does not depend on the tokenizer; documents longer than the shortest `sequence_length` of the run are
scored in pieces. gzip -9 and a byte 5-gram model are measured on the same documents.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from lianlu.core.config import Checkpoint, Shards
from lianlu.core.errors import ConfigError, LianluError
from lianlu.core.stage import Estimate, Table
from lianlu.core.store import Output
from lianlu.model.config import ModelConfig
from lianlu.train.config import AdamW, CosineSchedule, Optim, Schedule, TrainConfig
from lianlu.train.phases import PhaseConfig, Timeline
from lianlu.train.plan.forecast import Work, forecast, planned_bytes
from lianlu.train.shape import ShapeConfig

if TYPE_CHECKING:
    from lianlu.train.portions import Portion

USUAL_VOCABULARY = 8192
JUDGED = "judged.jsonl"
"""Beside the checkpoint, where `held_out` names a text: id, source, bytes and bits of every document of it."""
Rate = Annotated[float, Field(ge=0)]
Epochs = Annotated[float, Field(gt=0)]


class PretrainConfig(TrainConfig):
    """A model from token shards."""

    data: Shards | tuple[Shards, ...]
    """Token shards: one folder, or several to be mixed; all of one tokenizer."""
    weights: tuple[float, ...] = ()
    """Shares of the sources in the tokens; empty: each by its size. A small source is repeated."""
    names: tuple[str, ...] = ()
    """What the sources are called in figures; empty: as the steps that made them."""
    tiers: dict[str, dict[str, Rate]] = Field(default_factory=dict)
    """By source and quality tier, how often a document is read beside others of its source: code = { high = 1, low = 0.1 }."""
    max_epochs: Rate | dict[str, Epochs | dict[str, Epochs]] = 0.0
    """How often anything is read at most, or by source, or by source and tier; others get the rest of its share. 0: no cap."""
    held_out: Shards = ""
    """Shards whose documents (train.bin) are judged in place of those that the sources hold out; each is told by itself."""
    model: ShapeConfig = ShapeConfig()
    """The shape of the model."""
    start: Checkpoint = ""
    """Continue from this checkpoint, which brings its own shape, instead of new weights."""
    tokens: int = Field(default=500_000, gt=0)
    """Tokens to train on; the shards are read as often as it takes."""
    steps: int = Field(default=0, ge=0)
    """Optimiser steps of `batch_tokens`; if set, it decides instead of `tokens`."""
    batch_tokens: int = Field(default=1024, gt=0)
    """Tokens of one optimiser step."""
    sequence_length: int = Field(default=256, gt=1)
    """Longest piece of a document that is seen at once."""
    phases: tuple[PhaseConfig, ...] = ()
    """Parts of the run with settings of their own, in order; empty: one for all."""
    held_out_tokens: int = Field(default=30_000, gt=0)
    """Held-out tokens to evaluate on, at most, over all sources."""
    ngram_bytes: int = Field(default=16_000_000, ge=0)
    """Bytes of training text the 5-gram baselines are made from, at most."""
    sample_prompts: tuple[str, ...] = ("", "The ", "def ")
    """Beginnings of text samples; each is continued greedily and at temperature 0.8."""
    sample_tokens: int = Field(default=48, ge=0)
    """Length of a text sample."""
    optim: Optim = AdamW(lr=2e-3)
    """The optimiser."""
    schedule: Schedule = CosineSchedule(final=0.0)
    """How the learning rate moves."""

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        """Raises: ConfigError for lists that do not fit the sources, a shape beside a checkpoint, or wrong phases."""
        count = len(self.folders)
        if not count:
            raise ConfigError("data names no shards", hint='write data = "@shard", or a list of several')
        weighted = [self.weights, *(phase.weights for phase in self.phases)]
        for weights in filter(None, weighted):
            if len(weights) != count or min(weights) < 0 or sum(weights) <= 0:
                message = f"weights {list(weights)} do not fit {count} sources"
                raise ConfigError(message, hint="give one number for each folder of data, none below 0, one above")
        if self.names and (len(self.names) != count or len(set(self.names)) != count):
            raise ConfigError(f"names {list(self.names)} do not fit {count} sources", hint="give each its own name")
        caps = self.max_epochs if isinstance(self.max_epochs, dict) else {}
        if self.names and (unknown := sorted({*self.tiers, *caps} - set(self.names))):
            message = f"tiers or max_epochs name {unknown[0]}, which is no source"
            raise ConfigError(message, hint=f"the sources are {', '.join(self.names)}")
        if self.start and self.model != ShapeConfig():
            raise ConfigError("start and model are both given", hint="the checkpoint brings its shape: leave model out")
        _ = self.timeline
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        """The shard folders."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @property
    def is_portioned(self) -> bool:
        """Whether tiers or caps have a say in the mix."""
        return bool(self.tiers or self.max_epochs)

    @property
    def timeline(self) -> Timeline:
        """The steps of the run and their phases."""
        whole = PhaseConfig(share=1.0, weights=self.weights, sequence_length=self.sequence_length, batch_tokens=self.batch_tokens)
        tokens = self.steps * self.batch_tokens or self.tokens
        return Timeline(self.phases, whole, tokens, self.schedule)

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return self.timeline.num_steps


def estimate(config: PretrainConfig) -> Estimate:
    """A forecast from the shape; shards or the checkpoint are looked at if they are there, and else what is assumed is said."""
    known = known_model(config)
    model = known or config.model.as_model(USUAL_VOCABULARY, config.timeline.longest)
    planned = forecast(model, planned_work(config), config)
    planned = replace(planned, tables=(*planned.tables, *_planned_mix(config)))
    return planned if known else replace(planned, basis=f"{planned.basis}, a vocabulary of {USUAL_VOCABULARY:,} assumed")


def _planned_mix(config: PretrainConfig) -> tuple[Table, ...]:
    """What is read of which portion, where tiers or caps have a say and the shards are there."""
    from lianlu.train.portions import mix_table, shares

    if not config.is_portioned or not all((Path(folder) / "train.bin").is_file() for folder in config.folders):
        return ()
    return (mix_table(shares(portions_of(config), config.timeline.phases)),)


def portions_of(config: PretrainConfig) -> list[Portion]:
    """What of the shards is weighted and capped by itself. Raises: DataError, ConfigError."""
    from lianlu.formats.shards import open_shard
    from lianlu.train.portions import folder_names, portions

    shards = [open_shard(Path(folder) / "train.bin") for folder in config.folders]
    return portions(shards, list(config.names) or folder_names(config.folders), config.tiers, config.max_epochs)


def planned_work(config: PretrainConfig) -> Work:
    """What the run will do; its largest batch and its longest sequences decide the memory, the mean of all the time."""
    timeline = config.timeline
    batch = max(phase.batch_tokens for phase in timeline.phases)
    lengths = (p.short_share * p.short_length + (1 - p.short_share) * p.sequence_length for p in timeline.phases)
    usual = sum(p.num_tokens * length for p, length in zip(timeline.phases, lengths, strict=True)) / timeline.num_tokens
    return Work(timeline.num_tokens, batch, sequence=round(usual), longest=timeline.longest)


def known_model(config: PretrainConfig) -> ModelConfig | None:
    """The shape that will be trained; None before the shards, or the checkpoint that the run starts from, are there."""
    from lianlu.formats.shards import open_shard
    from lianlu.model.load import read_config

    try:
        if config.start:
            return continued(read_config(config.start), config.timeline)
        vocab_size = open_shard(Path(config.folders[0]) / "train.bin").vocab_size
    except (LianluError, OSError, ValueError):
        return None
    return config.model.as_model(vocab_size, config.timeline.longest)


def continued(model: ModelConfig, timeline: Timeline) -> ModelConfig:
    """The config of a checkpoint, with room for the longest sequence of the run."""
    longest = max(model.max_position_embeddings, timeline.longest)
    return model.model_copy(update={"max_position_embeddings": longest})


def run(config: PretrainConfig, out: Output) -> None:
    """Train, evaluate, and write the checkpoint; continues where a killed run stopped.

    Raises: DataError for bad shards, or a checkpoint that does not fit them.
    """
    from lianlu.formats.jsonl import write_values
    from lianlu.tokenizer.tokenizer import Tokenizer
    from lianlu.train.checkpoint.describe import describe_run
    from lianlu.train.checkpoint.state import finish, finished
    from lianlu.train.loop import RESUME, Loop
    from lianlu.train.parallel.gather import save_whole
    from lianlu.train.parallel.layout import Layout
    from lianlu.train.pretrain_model import open_model
    from lianlu.train.pretrain_task import PretrainTask

    if (figures := finished(out.path / RESUME)) is not None:
        out.figures.update(figures)
        return
    tokenizer = Tokenizer.load(config.folders[0])
    layout = Layout(config)
    task = PretrainTask(config, tokenizer, layout)
    model = layout.distribute(*open_model(config, tokenizer, task.vocab_size))
    work, on_gpu = planned_work(config), layout.device.type == "cuda"
    out.figures["planned_memory_bytes"] = planned_bytes(model.config, work, config, layout.num_ranks, on_gpu)
    if layout.is_main:
        describe_run(out.path / RESUME, tokenizer, config.start)
    Loop(model, task, config, out, layout).run("pretrain")
    task.prepare(model, task.num_steps - 1)
    save_whole(model, out.path, layout.is_main)
    judged = task.judged(model)
    if layout.is_main:
        tokenizer.save(out.path)
        if judged:
            write_values(out.path / JUDGED, judged)
        out.figures = {**task.figures(model, out), **out.figures}
        finish(out.path / RESUME, out.figures)
