"""Tokens a second of the engine beside transformers: the same weights, prompts, precision and threads, rounds interleaved.

SmolLM2-135M-Instruct in fp32 on two threads. Decoding: 1, 8 and 32 streams with 64 tokens of prompt each, greedy, end tokens
ignored; the time of the prompt (a run that asks for one token) is taken off, for both alike. transformers decodes its streams
as one batch of equal length, which is its best case. Prefill: one prompt of 1,024 tokens, to the first token. Prefix: the same
prompt again. Prints medians and ratios and keeps bench/results/engine.json.
Run: python bench/engine.py [--rounds N] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from lianlu.client.base import Sampling
from lianlu.core import machine
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import open_engine
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Request
from lianlu.model.pull import pull

THREADS = 2
PROMPT = 64
LONG = 1024
STREAMS = {1: 48, 8: 32, 32: 16}
RESULTS = Path(__file__).parent / "results" / "engine.json"
Prompts = list[list[int]]


def prompts(count: int, length: int, seed: int) -> Prompts:
    """Random ids: the work does not depend on what they say."""
    rng = random.Random(seed)
    return [[rng.randrange(100, 40_000) for _ in range(length)] for _ in range(count)]


def ours(engine: Engine, some: Prompts, new: int) -> float:
    """Seconds until every prompt has `new` tokens."""
    began = time.perf_counter()
    for ids in some:
        engine.submit(Request(tuple(ids), Sampling(max_tokens=new), ignore_eos=True))
    while not engine.idle:
        engine.step()
    return time.perf_counter() - began


def theirs(model: Any, some: Prompts, new: int) -> float:
    """The same by `generate`."""
    began = time.perf_counter()
    ids = torch.tensor(some)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
    return time.perf_counter() - began


def decode_rate(run: Callable[[Prompts, int], float], count: int, new: int, seed: int) -> float:
    """Decoded tokens a second: what `new` tokens take more than one."""
    some = prompts(count, PROMPT, seed)
    return count * (new - 1) / max(run(some, new) - run(some, 1), 1e-9)


def measure(engine: Engine, model: Any, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Figures of every round, by case and side."""
    sides = {"lianlu": lambda some, new: ours(engine, some, new), "transformers": lambda some, new: theirs(model, some, new)}
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        for name, run in sides.items():
            figures = {f"decode_{count}_tok_per_s": decode_rate(run, count, new, number) for count, new in STREAMS.items()}
            figures["prefill_1024_tok_per_s"] = LONG / run(prompts(1, LONG, 1000 + number), 1)
            if number:
                for case, value in figures.items():
                    found.setdefault(case, {}).setdefault(name, []).append(value)
    return found


def prefix(engine: Engine, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a prompt that was never seen, and of the same again."""
    pairs = []
    for number in range(rounds):
        some = prompts(1, LONG, 2000 + number)
        pairs.append((ours(engine, some, 1), ours(engine, some, 1)))
    cold, hit = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"cold_s": cold, "hit_s": hit, "hit_share": hit / cold}


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="tokens a second, lianlu beside transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    path = pull("smollm2-135m-instruct")
    dtype = getattr(torch, options.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
    fresh = open_engine(path, config=EngineConfig(dtype=options.dtype, prefix_cache=False))
    rates = measure(fresh, model, options.rounds)
    del model
    cases = {}
    for case, sides in rates.items():
        mine, peer = (statistics.median(sides[name]) for name in ("lianlu", "transformers"))
        cases[case] = {"lianlu": mine, "transformers": peer, "ratio": mine / peer, "rounds": sides}
        print(f"{case}: lianlu {mine:.1f}, transformers {peer:.1f}, ratio {mine / peer:.2f}")
    again = prefix(open_engine(path, config=EngineConfig(dtype=options.dtype)), options.rounds)
    print(f"prefix of {LONG} tokens: cold {again['cold_s']:.2f} s, hit {again['hit_s']:.3f} s ({again['hit_share']:.1%})")
    keep(options.dtype, {"device": machine.describe_device(), "threads": THREADS, "cases": cases, "prefix_1024": again})


def keep(dtype: str, result: dict[str, Any]) -> None:
    """Put the figures of one precision into the results file."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    known[dtype] = {"torch": torch.__version__, "transformers": transformers.__version__, **result}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
