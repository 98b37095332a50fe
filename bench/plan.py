"""Planned beside measured peak memory of training runs: each case in a process of its own, two steps of the real loop.

Pretraining of a 31.5 M shape on random tokens (8 rows of 512 a step), and fine-tuning of SmolLM2-135M-Instruct on Alpaca: all
weights, LoRA and QLoRA of rank 16, in the number types and with the activation checkpointing named. Measured is the peak
resident memory of the process, planned what `lianlu plan` says for this machine. Prints both with the error and keeps
bench/results/plan.json. Run: python bench/plan.py [CASE ...]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "plan.json"
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SHAPE = {
    "architecture": "llama",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "tie_word_embeddings": False,
}
VOCABULARY, ROWS, ROW, STEPS = 16384, 8, 512, 2
SFT = {"steps": STEPS, "batch_tokens": 2048, "max_length": 512, "held_out_tokens": 2048, "num_samples": 1, "sample_tokens": 4}
CASES: dict[str, dict[str, Any]] = {
    "pretrain_31m_float32": {"precision": "float32"},
    "pretrain_31m_bfloat16": {"precision": "bfloat16"},
    "pretrain_31m_bfloat16_accumulated": {"precision": "bfloat16", "micro_tokens": 1024},
    "pretrain_31m_bfloat16_checkpointed": {"precision": "bfloat16", "checkpointing": "full"},
    "pretrain_31m_bfloat16_adamw8": {"precision": "bfloat16", "optim": {"kind": "adamw8"}},
    "pretrain_31m_bfloat16_muon": {"precision": "bfloat16", "optim": {"kind": "muon"}},
    "sft_full_float32": {"precision": "float32", "tune": {"kind": "full"}},
    "sft_full_bfloat16": {"precision": "bfloat16", "tune": {"kind": "full"}},
    "sft_full_bfloat16_selective": {"precision": "bfloat16", "tune": {"kind": "full"}, "checkpointing": "selective"},
    "sft_lora_float32": {"precision": "float32", "tune": {"kind": "lora", "rank": 16}},
    "sft_lora_bfloat16": {"precision": "bfloat16", "tune": {"kind": "lora", "rank": 16}},
    "sft_lora_bfloat16_checkpointed": {"precision": "bfloat16", "tune": {"kind": "lora", "rank": 16}, "checkpointing": "full"},
    "sft_qlora_bfloat16": {"precision": "bfloat16", "tune": {"kind": "qlora", "rank": 16}},
}


def pretrain(changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Two steps on random tokens."""
    import numpy as np

    from lianlu.core.config import validate
    from lianlu.core.store import Output
    from lianlu.model.decoder import Decoder, build_model
    from lianlu.train.loop import Loop
    from lianlu.train.packing import Packed, Segment, pack, packed_loss
    from lianlu.train.parallel.layout import Layout
    from lianlu.train.plan.forecast import planned_bytes
    from lianlu.train.pretrain import PretrainConfig, planned_work
    from lianlu.train.recompute import prepare_blocks

    class Random:
        num_steps = STEPS

        def prepare(self, model: Decoder, step: int) -> None: ...

        def rate(self, step: int) -> float:
            return 1.0

        def examples(self, step: int) -> list[Segment]:
            rows = np.random.default_rng(step).integers(0, VOCABULARY, (ROWS, ROW + 1))
            return [Segment(row[:-1], row[1:]) for row in rows]

        def collate(self, examples: Sequence[Segment]) -> Packed:
            return pack(examples)

        def loss(self, model: Decoder, batch: Packed) -> Any:
            return packed_loss(model, batch)

        def describe(self, example: Segment) -> str:
            return "random"

        def evaluate(self, model: Decoder) -> dict[str, float]:
            return {"held_out_loss": float(packed_loss(model, pack(self.examples(99)[:2])))}

        def samples(self, model: Decoder, step: int) -> Iterator[dict[str, Any]]:
            return iter(())

    sizes = {"data": "random", "model": SHAPE, "steps": STEPS, "batch_tokens": ROWS * ROW, "sequence_length": ROW}
    config = validate(PretrainConfig, {**sizes, **changes})
    shape = config.model.as_model(VOCABULARY, ROW)
    out = Output(folder)
    out.figures["planned_memory_bytes"] = planned_bytes(shape, planned_work(config), config, 1, False)
    model = build_model(shape, 0)
    prepare_blocks(model, config)
    Loop(model, Random(), config, out, Layout(config)).run("pretrain")
    return out.figures


def fine_tune(changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Two steps of the stage."""
    from lianlu.core.config import validate
    from lianlu.core.store import Output
    from lianlu.model.pull import pull
    from lianlu.train.sft import SftConfig, run

    data = folder / "alpaca.jsonl"
    with gzip.open(SHARED / "sft" / "alpaca_en_demo.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    data.write_text("".join(json.dumps(talk(number, row)) + "\n" for number, row in enumerate(rows)), encoding="utf-8")
    out = Output(folder / "out")
    out.path.mkdir()
    run(validate(SftConfig, {"model": str(pull("smollm2-135m-instruct")), "data": str(data), **SFT, **changes}), out)
    return out.figures


def talk(number: int, row: dict[str, str]) -> dict[str, Any]:
    """A row of Alpaca as a conversation."""
    asked = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
    return {
        "id": str(number),
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}],
    }


def one_case(name: str) -> None:
    """Run a case in this process; its figures go to stdout."""
    import torch

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        figures = (pretrain if name.startswith("pretrain") else fine_tune)(CASES[name], Path(folder))
    kept = ("planned_memory_bytes", "measured_memory_bytes", "memory_error_percent")
    print(json.dumps({key: figures[key] for key in kept}))


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="planned beside measured peak memory")
    parser.add_argument("cases", nargs="*", choices=[*CASES, []])
    parser.add_argument("--here", action="store_true", help="run the one case in this process")
    options = parser.parse_args()
    if options.here:
        one_case(options.cases[0])
        return
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["cases"] if RESULTS.exists() else {}
    for name in options.cases or CASES:
        command = [sys.executable, __file__, name, "--here"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-2000:]}", flush=True)
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        planned, took = (found[name][key] / 1e9 for key in ("planned_memory_bytes", "measured_memory_bytes"))
        print(f"{name}: planned {planned:.2f} GB, measured {took:.2f}, {found[name]['memory_error_percent']:+.1f} %", flush=True)
    from lianlu.core import machine

    record = {"device": machine.describe_device(), "cases": {name: found[name] for name in CASES if name in found}}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
