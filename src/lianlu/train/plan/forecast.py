"""The forecast of a training stage: time, peak memory on this machine, and the tables of `lianlu plan`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lianlu.core import console
from lianlu.core.machine import cpu_name, num_cores
from lianlu.core.stage import Estimate, Table
from lianlu.model.config import ModelConfig
from lianlu.train.config import TrainConfig
from lianlu.train.plan.advice import here_gpus, ways
from lianlu.train.plan.gpus import Gpu
from lianlu.train.plan.layouts import describe, planned_gpus, smallest
from lianlu.train.plan.memory import MOMENTS, Memory, memory
from lianlu.train.plan.setting import Adapter, Division, Setting, weights
from lianlu.train.plan.time import UTILISATION, Pace, cpu_precision, pace


@dataclass(frozen=True)
class Work:
    """What a stage will do: tokens in all and in a step, the usual and the longest sequence, the share that has a target."""

    tokens: float
    batch_tokens: int
    sequence: int
    longest: int
    target_share: float = 1.0
    adapter: Adapter | None = None


def setting_of(model: ModelConfig, work: Work, config: TrainConfig, num_devices: int = 1, gpu: bool = False) -> Setting:
    """The setting of a run of `num_devices` processes, each with a device."""
    division = _division(config, num_devices)
    own_tokens = max(work.batch_tokens // division.data, 1)
    precision = cpu_precision(config.precision) if not gpu else ("float32" if config.precision == "float32" else "bfloat16")
    return Setting(
        model=model,
        precision=precision,
        optimizer=config.optim.kind,
        adapter=work.adapter,
        # a sequence is computed whole
        micro_tokens=max(min(own_tokens, config.micro_tokens), work.longest),
        sequence=work.sequence,
        target_share=work.target_share,
        accumulates=own_tokens > config.micro_tokens,
        checkpointing=config.checkpointing,
        gpu=gpu,
        async_states=config.checkpoint.asynchronous,
        division=division,
    )


def _division(config: TrainConfig, num_devices: int) -> Division:
    if num_devices == 1:
        return Division()
    parallel = config.parallel
    data = max(num_devices // (parallel.tensor * parallel.sequence * parallel.pipeline), 1)
    return Division(data, parallel.sharding, parallel.shard_size, parallel.tensor, parallel.sequence, parallel.pipeline)


def planned_bytes(model: ModelConfig, work: Work, config: TrainConfig, num_devices: int, gpu: bool) -> int:
    """Peak memory that one process of a run is planned with, to be held against what it takes."""
    return memory(setting_of(model, work, config, num_devices, gpu)).peak_bytes


def forecast(model: ModelConfig, work: Work, config: TrainConfig) -> Estimate:
    """Seconds and peak memory of a run on this machine, by itself or on its first GPU, with the tables that explain them."""
    here = here_gpus()
    setting = setting_of(model, work, config, gpu=bool(here))
    speed, need = pace(setting, here[0] if here else None), memory(setting)
    seconds = work.tokens / speed.tokens_per_s
    count = weights(model, setting.adapter)
    basis = f"{count.model / 1e6:.1f} M parameters, {work.tokens / 1e6:.2f} M tokens, {setting.precision}"
    tables = (_memory_table(setting, need), _time_table(work, speed, here), _layout_table(setting, work), _ways_table(setting))
    return Estimate(seconds, need.peak_bytes, basis, tables)


def _memory_table(setting: Setting, need: Memory) -> Table:
    peak = need.peak_moment
    columns = ("class", "made of", *(f"{name}{' (peak)' if at == peak else ''}" for at, name in enumerate(MOMENTS)))
    rows = [(row.name, row.made_of, *map(_bytes, row.at)) for row in need.classes]
    rows.append(("total", "", *(_bytes(need.at(moment)) for moment in range(len(MOMENTS)))))
    where = "a GPU" if setting.gpu else "this machine"
    return Table(f"memory on {where}, {setting.way}, by the moments of a step", columns, tuple(rows))


def _time_table(work: Work, speed: Pace, here: list[Gpu]) -> Table:
    where = here[0].title if here else f"{cpu_name()}, {num_cores()} cores"
    cells = (
        where,
        f"{speed.flops_per_token / 1e9:.3g} GFLOP",
        f"{speed.tokens_per_s:,.0f}",
        console.format_seconds(work.batch_tokens / speed.tokens_per_s),
        console.format_seconds(work.tokens / speed.tokens_per_s),
    )
    return Table("time expected", ("on", "a token", "tokens/s", "a step", "the whole run"), (cells,))


def _layout_table(setting: Setting, work: Work) -> Table:
    rows: list[tuple[str, ...]] = []
    for gpu in planned_gpus():
        found = smallest(replace(setting, precision="bfloat16", division=Division()), gpu)
        if found is None:
            rows.append((gpu.title, "more than 64", "", "", "", ""))
            continue
        size = f"{_bytes(found.memory_bytes)} of {_bytes(gpu.memory_bytes)}"
        seconds = console.format_seconds(work.tokens / found.tokens_per_s)
        number = str(found.setting.division.num_devices)
        rows.append((gpu.title, number, describe(found.setting), size, f"{found.tokens_per_s:,.0f}", seconds))
    title = f"the fewest GPUs it fits on, {setting.micro_tokens:,} tokens at once, bf16, MFU of {UTILISATION:.0%} assumed"
    return Table(title, ("GPU", "count", "layout", "memory a GPU", "tokens/s", "whole run"), tuple(rows))


def _ways_table(setting: Setting) -> Table:
    rows = [(way.name, _bytes(way.memory_bytes), way.here, way.elsewhere, way.reason) for way in ways(setting)]
    return Table("is this machine enough?", ("train", "memory", "here", "enough is", "because"), tuple(rows))


def _bytes(size: float) -> str:
    return console.format_bytes(size) if size else ""
