"""Training tokens a second beside plain transformers loops: the same shapes, data, precision and threads, rounds interleaved.

Pretraining: a Llama shape of 31.5 M parameters, 8 rows of 512 random tokens a step, no padding on either side. Fine-tuning:
LoRA of rank 16 on all linear layers of SmolLM2-135M-Instruct, the same eight conversations a round on both sides; the peer
(transformers and peft) pads two batches of four to their longest row, as its users do, lianlu packs all eight. Full steps:
forward, backward, clipping, fused AdamW; tokens are those that are not padding. Prints medians and ratios and keeps
bench/results/train.json. Run: python bench/train.py [--rounds N] [--precision bfloat16|float32]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from lianlu.core import machine
from lianlu.formats.messages import Message
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model
from lianlu.model.lora import LoraSpec, add_lora
from lianlu.model.pull import pull
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.config import OptimConfig
from lianlu.train.optim import build_optimizer, scale_gradients
from lianlu.train.packing import Packed, Segment, answer_segment, pack, packed_loss
from lianlu.train.precision import compute_dtype, mixed
from lianlu.train.sft_task import freeze_in

THREADS = 2
CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results" / "train.json"
SHARED = Path(os.environ.get("LIANLU_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SHAPE = {
    "vocab_size": 16384,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
ROWS, ROW = 8, 512
MAX_LENGTH, PEER_BATCH, ROUND_CONVERSATIONS = 512, 4, 8
OPTIM = OptimConfig(lr=1e-4)
Step = Callable[[int], int]


def our_step(model: Decoder, dtype: torch.dtype, batch_of: Callable[[int], Packed]) -> Step:
    """One optimiser step of the loop; says how many tokens it saw."""
    optimizer = build_optimizer(model, OPTIM)
    trained = [p for p in model.parameters() if p.requires_grad]

    def step(number: int) -> int:
        batch = batch_of(number)
        with mixed(dtype, CPU):
            total, count = packed_loss(model, batch)
        torch.autograd.backward(total)
        scale_gradients(trained, count, OPTIM.clip)
        optimizer.step()
        optimizer.zero_grad()
        return batch.num_tokens

    return step


def peer_step(model: Any, dtype: torch.dtype, batches_of: Callable[[int], list[dict[str, torch.Tensor]]]) -> Step:
    """The plain loop: padded batches, mean loss, clipping, fused AdamW; an optimiser step for every batch."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=OPTIM.lr, betas=OPTIM.betas, weight_decay=OPTIM.weight_decay, fused=True)

    def step(number: int) -> int:
        useful = 0
        for batch in batches_of(number):
            with mixed(dtype, CPU):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, OPTIM.clip)
            optimizer.step()
            optimizer.zero_grad()
            useful += int(batch["attention_mask"].sum())
        return useful

    return step


def pretraining(dtype: torch.dtype) -> dict[str, Step]:
    """Both sides on the same random rows."""
    ours = build_model(ModelConfig(architecture="llama", **SHAPE), seed=0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False)).train()

    def rows(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, SHAPE["vocab_size"], (ROWS, ROW + 1))

    def padded(number: int) -> list[dict[str, torch.Tensor]]:
        ids = torch.from_numpy(rows(number)[:, :-1].copy())
        return [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}]

    return {
        "lianlu": our_step(ours, dtype, lambda number: pack([(row[:-1], row[1:]) for row in rows(number)])),
        "peer": peer_step(theirs, dtype, padded),
    }


def conversations(tokenizer: Tokenizer) -> list[tuple[list[int], list[bool]]]:
    """Rendered instruction data: ids and loss masks."""
    with gzip.open(SHARED / "sft" / "alpaca_en_demo.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    talks = []
    for row in rows:
        asked = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
        messages = [Message(role="user", content=asked), Message(role="assistant", content=row["output"])]
        rendered = tokenizer.render(messages)
        if any(rendered.mask[1:MAX_LENGTH]):
            talks.append((rendered.ids[:MAX_LENGTH], rendered.mask[:MAX_LENGTH]))
    return talks


def fine_tuning(dtype: torch.dtype) -> dict[str, Step]:
    """Both sides on the same conversations."""
    from peft import LoraConfig, get_peft_model

    path = pull("smollm2-135m-instruct")
    talks = conversations(Tokenizer.load(path))
    ours = load_model(path)
    add_lora(ours, LoraSpec(rank=16, alpha=32))
    freeze_in(ours, dtype)
    plain = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    theirs = get_peft_model(plain, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")).train()

    def chosen(number: int) -> list[tuple[list[int], list[bool]]]:
        start = number * ROUND_CONVERSATIONS % (len(talks) - ROUND_CONVERSATIONS)
        return talks[start : start + ROUND_CONVERSATIONS]

    def packed(number: int) -> Packed:
        segments: list[Segment] = [answer_segment(ids, mask) for ids, mask in chosen(number)]
        return pack(segments)

    def padded(number: int) -> list[dict[str, torch.Tensor]]:
        part = chosen(number)
        return [pad(part[start : start + PEER_BATCH]) for start in range(0, len(part), PEER_BATCH)]

    return {"lianlu": our_step(ours, dtype, packed), "peer": peer_step(theirs, dtype, padded)}


def pad(talks: list[tuple[list[int], list[bool]]]) -> dict[str, torch.Tensor]:
    """A batch padded to its longest row."""
    longest = max(len(ids) for ids, _ in talks)
    batch = {name: torch.zeros(len(talks), longest, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((len(talks), longest), -100)
    for row, (ids, mask) in enumerate(talks):
        values = torch.tensor(ids)
        batch["input_ids"][row, : len(ids)] = values
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, : len(ids)] = torch.where(torch.tensor(mask), values, -100)
    return batch


def measure(sides: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Useful tokens a second of every round after one for warming up; both sides do the same work in a round."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, step in sides.items():
            began = time.perf_counter()
            tokens = step(number)
            if number:
                rates[name].append(tokens / (time.perf_counter() - began))
    mine, peer = (statistics.median(rates[name]) for name in ("lianlu", "peer"))
    return {"lianlu_tok_per_s": mine, "peer_tok_per_s": peer, "ratio": mine / peer, "rounds": rates}


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="training tokens a second, lianlu beside transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), action="append")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    cases: dict[str, Any] = {}
    for precision in options.precision or ["bfloat16", "float32"]:
        dtype = compute_dtype(precision, CPU)
        for name, sides in {"pretrain_31m": pretraining, "sft_lora_smollm2": fine_tuning}.items():
            result = measure(sides(dtype), options.rounds)
            cases[f"{name}_{precision}"] = result
            mine, peer = result["lianlu_tok_per_s"], result["peer_tok_per_s"]
            print(
                f"{name} {precision}: lianlu {mine:.0f} tok/s, transformers {peer:.0f}, ratio {result['ratio']:.2f}", flush=True
            )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"device": machine.describe_device(), "threads": THREADS, **versions, "cases": cases}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
