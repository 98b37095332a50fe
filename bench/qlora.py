"""Peak memory of QLoRA on the InternLM2-7B shape, on the processor: 512 tokens, rank 16, full checkpointing, against the plan.

The weights are random and made on the fly: a few rows at a time, which become NF4 at once, so that nothing is ever there in
full width, as when a checkpoint is read. Then come the stage's own steps: forward, backward, clipping, AdamW. Run it alone on
the machine; it reports its own peak resident size (Linux, VmHWM). The goal is 8.0 GB. Keeps bench/results/qlora.json.

Run: python bench/qlora.py [--layers N] [--steps N] [--precision bfloat16|float32] [--dora]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from procfs import resident_bytes
from torch import Tensor

from lianlu.core import machine
from lianlu.core.config import validate
from lianlu.kernels import nf4
from lianlu.model.config import ModelConfig, num_parameters, preset
from lianlu.model.decoder import Decoder, empty_model
from lianlu.model.frozen import frozen_dtypes, hold_frozen
from lianlu.model.lora import add_lora, with_magnitudes
from lianlu.model.quantized import linear_names, prepare_quantized
from lianlu.train.checkpoint.state import trainable
from lianlu.train.optim.build import build_optimizer, scale_gradients
from lianlu.train.packing import Segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.plan.forecast import Work, planned_bytes
from lianlu.train.sft import QLoraTune, SftConfig, planned_adapter

RESULTS = Path(__file__).parent / "results" / "qlora.json"
TOKENS = 512
ROWS_WEIGHTS = 1 << 22
GOAL_BYTES = 8.0e9


def random_weights(config: ModelConfig, dtypes: Any, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a new model; the matrices of the blocks in NF4. No more than some rows are ever there in fp32."""
    generator = torch.Generator().manual_seed(seed)
    empty = empty_model(config)
    quantised = {f"{name}.weight" for name in linear_names(empty)}
    # as when a checkpoint is read: the tables first
    for name, meta in sorted(empty.state_dict().items(), key=lambda item: item[0].startswith("layers.")):
        if name.endswith("norm.weight"):
            yield name, torch.ones(meta.shape)
        elif name in quantised:
            parts = [nf4.quantise_blocks(rows) for _, rows in rows_of(config, meta, generator)]
            codes, steps = (torch.cat(column) for column in zip(*parts, strict=True))
            names = ("weight_step", "weight_step_scale", "weight_step_mean")
            module = name.removesuffix(".weight")
            yield name, codes
            yield from zip((f"{module}.{part}" for part in names), nf4.quantise_steps(steps), strict=True)
            machine.trim_memory()
        else:
            table = torch.empty(meta.shape, dtype=dtypes(name))
            for start, rows in rows_of(config, meta, generator):
                table[start : start + len(rows)] = rows
            yield name, table
            del table


def rows_of(config: ModelConfig, meta: Tensor, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """A random matrix, some rows at a time, and the number of the first of them."""
    at_once = max(1, ROWS_WEIGHTS // meta.shape[1])
    for start in range(0, meta.shape[0], at_once):
        shape = (min(at_once, meta.shape[0] - start), meta.shape[1])
        yield start, torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)


def make(shape: ModelConfig, config: SftConfig, layout: Layout) -> Decoder:
    """The model as the sft stage opens one for QLoRA."""
    assert isinstance(config.tune, QLoraTune)
    model = empty_model(shape)
    prepare_quantized(model, config.tune.quant)
    hold_frozen(model, layout.dtype, tables=True)
    add_lora(model, config.tune, config.seed)
    weights = random_weights(shape, frozen_dtypes(layout.dtype, tables=True), config.seed)
    return layout.distribute(model, with_magnitudes(model, weights))


def step(model: Decoder, optimizer: Any, layout: Layout, number: int) -> float:
    """One optimiser step over a sequence of random tokens; returns its mean loss."""
    ids = np.random.default_rng(number).integers(0, model.config.vocab_size, TOKENS + 1)
    total = layout.accumulate(model, [pack([Segment(ids[:-1], ids[1:])])], packed_loss)
    parameters = trainable(model).values()
    norm = layout.norm([p.grad for p in parameters if p.grad is not None])
    scale_gradients(parameters, norm, TOKENS, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / TOKENS


def main() -> None:
    """Build, train, print, keep."""
    parser = argparse.ArgumentParser(description="peak memory of QLoRA on the InternLM2-7B shape")
    parser.add_argument("--layers", type=int, default=32, help="fewer for a quick look, which is not kept")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--dora", action="store_true")
    options = parser.parse_args()
    shape = preset("internlm2-7b", num_hidden_layers=options.layers)
    tune = {"kind": "qlora", "rank": 16, "dora": options.dora}
    table = {"model": "random", "data": "random", "tune": tune, "precision": options.precision, "checkpointing": "full"}
    config = validate(SftConfig, {**table, "max_length": TOKENS, "batch_tokens": TOKENS})
    layout = Layout(config)
    work = Work(TOKENS, TOKENS, TOKENS, TOKENS, 1.0, planned_adapter(config.tune))
    planned = planned_bytes(shape, work, config, 1, layout.device.type == "cuda")
    started = time.monotonic()
    model = make(shape, config, layout)
    record: dict[str, Any] = {"made_s": time.monotonic() - started, "made_bytes": resident_bytes()}
    record["making_peak_bytes"] = machine.peak_memory_bytes()
    sizes = f"{record['made_bytes'] / 1e9:.2f} GB, {record['making_peak_bytes'] / 1e9:.2f} GB on the way"
    print(f"{num_parameters(shape) / 1e9:.2f} B parameters made in {record['made_s']:.0f} s: {sizes}", flush=True)
    optimizer = build_optimizer(model, config.optim)
    losses, seconds, peaks = [], [], []
    for number in range(options.steps):
        started = time.monotonic()
        losses.append(step(model, optimizer, layout, number))
        seconds.append(time.monotonic() - started)
        peaks.append(machine.peak_memory_bytes())
        print(f"step {number + 1}: {seconds[-1]:.1f} s, loss {losses[-1]:.3f}, peak so far {peaks[-1] / 1e9:.2f} GB", flush=True)
    peak = peaks[-1]
    error = (planned - peak) / peak
    print(f"peak {peak / 1e9:.2f} GB (goal {GOAL_BYTES / 1e9:.1f}), planned {planned / 1e9:.2f} GB, {error:+.1%}")
    if options.layers == preset("internlm2-7b").num_hidden_layers:
        record.update(device=machine.describe_device(), threads=torch.get_num_threads(), tokens=TOKENS, table=table)
        record.update(
            losses=losses, step_s=seconds, peak_bytes=peak, planned_bytes=planned, planned_error=error, goal_bytes=GOAL_BYTES
        )
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
