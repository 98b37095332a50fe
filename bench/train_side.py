"""One side of bench/train.py in a process of its own: reads "first count" lines, does those steps, answers with JSON."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lianlu.core import machine
from lianlu.formats.messages import Message
from lianlu.model.pull import pull
from lianlu.tokenizer.tokenizer import Tokenizer

THREADS = 2
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
MAX_LENGTH, BATCH = 512, 4
LR, BETAS, WEIGHT_DECAY, CLIP = 1e-4, (0.9, 0.95), 0.1, 1.0
# (ids, loss mask) of the examples of a step
Rows = Callable[[int], list[tuple[np.ndarray, np.ndarray]]]
# tokens and mean loss of a step
Step = Callable[[int], tuple[int, float]]


def random_rows(number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random sequences of one length."""
    ids = np.random.default_rng(number).integers(0, SHAPE["vocab_size"], (ROWS, ROW + 1))
    return [(row, np.ones(len(row), dtype=bool)) for row in ids]


def conversation_rows(tokenizer: Tokenizer) -> Rows:
    """Instruction data, rendered, in the order of the file."""
    with gzip.open(SHARED / "sft" / "alpaca_en_demo.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    talks = []
    for row in rows[:400]:
        asked = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
        messages = [Message(role="user", content=asked), Message(role="assistant", content=row["output"])]
        rendered = tokenizer.render(messages)
        if any(rendered.mask[1:MAX_LENGTH]):
            talks.append((np.asarray(rendered.ids[:MAX_LENGTH]), np.asarray(rendered.mask[:MAX_LENGTH], dtype=bool)))
    return lambda number: [talks[(number * BATCH + place) % len(talks)] for place in range(BATCH)]


def our_step(case: str, precision: str) -> Step:
    """What lianlu's loop does in a step."""
    from lianlu.model.config import ModelConfig
    from lianlu.model.decoder import build_model
    from lianlu.train.config import AdamW, TrainConfig
    from lianlu.train.optim.build import build_optimizer, scale_gradients
    from lianlu.train.packing import Segment, answer_segment, pack, packed_loss
    from lianlu.train.parallel.layout import Layout
    from lianlu.train.share import deal

    config = TrainConfig(optim=AdamW(lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, clip=CLIP), precision=precision)
    layout = Layout(config)
    if case == "pretrain":
        model = build_model(ModelConfig(architecture="llama", **SHAPE), seed=0)
        rows: Rows = random_rows
    else:
        from lianlu.train.sft import SftConfig
        from lianlu.train.sft_task import open_model

        path = pull("smollm2-135m-instruct")
        rows = conversation_rows(Tokenizer.load(path))
        tune = {"kind": "full"} if case == "sft" else {"kind": "lora", "rank": 16, "alpha": 32}
        model = open_model(SftConfig(model=str(path), data="", tune=tune, precision=precision), layout)
    optimizer = build_optimizer(model, config.optim)
    trained = [p for p in model.parameters() if p.requires_grad]

    def step(number: int) -> tuple[int, float]:
        pairs = rows(number)
        segments = [
            Segment(ids[:-1], ids[1:]) if case == "pretrain" else answer_segment(ids.tolist(), mask.tolist())
            for ids, mask in pairs
        ]
        batches = deal([s.num_tokens for s in segments], 1, config.micro_tokens)[0]
        total = layout.accumulate(model, [pack([segments[i] for i in part]) for part in batches], packed_loss)
        count = sum(segment.num_targets for segment in segments)
        norm = layout.norm([p.grad for p in trained if p.grad is not None])
        scale_gradients(trained, norm, count, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return sum(len(ids) for ids, _ in pairs), total / count

    return step


def peer_step(case: str, precision: str) -> Step:
    """The plain transformers loop: padded rows, mean loss, clipping, fused AdamW."""
    import transformers

    if case == "pretrain":
        model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False))
        rows: Rows = random_rows
    else:
        path = pull("smollm2-135m-instruct")
        rows = conversation_rows(Tokenizer.load(path))
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        if case == "lora":
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)

    def step(number: int) -> tuple[int, float]:
        pairs = rows(number)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(**padded(pairs)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return sum(len(ids) for ids, _ in pairs), float(loss.detach())

    return step


def padded(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """A batch padded to its longest row."""
    longest = max(len(ids) for ids, _ in pairs)
    batch = {name: torch.zeros(len(pairs), longest, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((len(pairs), longest), -100)
    for row, (ids, mask) in enumerate(pairs):
        values = torch.from_numpy(ids)
        batch["input_ids"][row, : len(ids)] = values
        batch["attention_mask"][row, : len(ids)] = 1
        batch["labels"][row, : len(ids)] = torch.where(torch.from_numpy(mask), values, -100)
    return batch


def main() -> None:
    """Set up, say so, then do what is asked."""
    case, side, precision = sys.argv[1:]
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    step = (our_step if side == "lianlu" else peer_step)(case, precision)
    machine.release_memory()
    machine.reset_peak_memory()
    print(json.dumps({"ready": True}), flush=True)
    with machine.freed_memory_kept() if side == "lianlu" and precision == "bfloat16" else nullcontext():
        for request in sys.stdin:
            first, count = map(int, request.split())
            began = time.perf_counter()
            done = [step(number) for number in range(first, first + count)]
            seconds = time.perf_counter() - began
            tokens = sum(tokens for tokens, _ in done)
            answer = {"seconds": seconds, "tokens": tokens, "loss": done[-1][1], "peak_bytes": machine.peak_memory_bytes()}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
