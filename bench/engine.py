"""Tokens a second of the engine beside transformers and llama.cpp: same weights, prompts and threads, rounds interleaved.

SmolLM2-135M-Instruct on two threads, in one precision for all sides that have it:

    float32, bfloat16   transformers and llama.cpp with the same weights in the same type
    int8                llama.cpp Q8_0 (its own rounding of the same weights)
    int4                llama.cpp Q4_1 (the file as it is shipped)

Decoding: 1, 8 and 32 streams with 64 tokens of prompt each, greedy, end tokens ignored; the time of the prompts (a run that
asks for one token) is taken off, for all alike. transformers decodes its streams as one batch of equal length, its best case.
Prefill: one prompt of 1,024 tokens, to the first token. First token: 64 tokens of prompt. Prefix: 2,048 tokens, twice.
Roofline: what reading all weights once (one stream) or the products of the prompt (prefill) would take at the rates of memory
and matrix products measured in the same run. Prints medians and ratios and keeps bench/results/engine.json.
Run: python bench/engine.py [--precision int8] [--rounds N] [--llama .venv-llama]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from procfs import resident_bytes

from lianlu.client.base import Sampling
from lianlu.core import machine
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import open_engine
from lianlu.engine.engine import Engine
from lianlu.engine.runner import kv_bytes_per_token
from lianlu.engine.sequence import Request
from lianlu.model.config import num_parameters
from lianlu.model.load import read_config
from lianlu.model.pull import pull

THREADS = 2
PROMPT = 64
LONG = 1024
PREFIX = 2048
STREAMS = {1: 48, 8: 32, 32: 16}
PRECISIONS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "auto", "quant": "int8"},
    "int4": {"dtype": "auto", "quant": "int4"},
}
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.625}
LLAMA_TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "engine.json"
Prompts = list[list[int]]
Run = Callable[[Prompts, int], float]


def prompts(count: int, length: int, seed: int) -> Prompts:
    """Random ids: the work does not depend on what they say."""
    rng = random.Random(seed)
    return [[rng.randrange(100, 40_000) for _ in range(length)] for _ in range(count)]


def ours(engine: Engine) -> Run:
    """Seconds until every prompt has its new tokens."""

    def run(some: Prompts, new: int) -> float:
        began = time.perf_counter()
        for ids in some:
            engine.submit(Request(tuple(ids), Sampling(max_tokens=new), ignore_eos=True))
        while not engine.idle:
            engine.step()
        return time.perf_counter() - began

    return run


def generate(model: Any) -> Run:
    """The same by transformers."""

    def run(some: Prompts, new: int) -> float:
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

    return run


class Llama:
    """llama.cpp in its own process (`peers/llama.py`)."""

    def __init__(self, environment: Path) -> None:
        command = [str(environment / "bin" / "python"), str(HERE / "peers" / "llama.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **wanted: Any) -> dict[str, float]:
        """One question, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def open(self, path: Path, precision: str, folder: str) -> Run:
        """The model in the type that belongs to a precision."""
        if precision in LLAMA_TYPES:
            target = Path(folder) / f"{LLAMA_TYPES[precision]}.gguf"
            self.ask(quantize=str(path), to=str(target), type=LLAMA_TYPES[precision])
            path = target
        self.ask(load=str(path), threads=THREADS, context=8192)
        return lambda some, new: sum(self.ask(prompts=some, new=new).values())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def decode_rate(run: Run, count: int, new: int, seed: int) -> float:
    """Decoded tokens a second: what `new` tokens take more than one."""
    some = prompts(count, PROMPT, seed)
    return count * (new - 1) / max(run(some, new) - run(some, 1), 1e-9)


def measure(sides: dict[str, Run], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Figures of every round, by case and side; the first round warms up and is not counted."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        for name, run in sides.items():
            figures = {f"decode_{count}_tok_per_s": decode_rate(run, count, new, number) for count, new in STREAMS.items()}
            figures["prefill_1024_tok_per_s"] = LONG / run(prompts(1, LONG, 1000 + number), 1)
            figures["first_token_ms"] = run(prompts(1, PROMPT, 3000 + number), 1) * 1e3
            if number:
                for case, value in figures.items():
                    found.setdefault(case, {}).setdefault(name, []).append(value)
    return found


def prefix(engine: Engine, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a prompt that was never seen, and of the same again."""
    pairs, run = [], ours(engine)
    for number in range(rounds + 1):
        some = prompts(1, PREFIX, 2000 + number)
        pairs.append((run(some, 1), run(some, 1)))
    cold, hit = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    return {"tokens": PREFIX, "cold_s": cold, "hit_s": hit, "hit_share": hit / cold}


def machine_rates(precision: str) -> dict[str, float]:
    """Bytes a second that sums read from memory, and operations a second of a large product, best of a few."""
    wide = torch.ones(256 * 1024 * 1024)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    square = torch.ones(2048, 2048, dtype=dtype)
    reading = min(_timed(wide.sum) for _ in range(5))
    product = min(_timed(lambda: torch.nn.functional.linear(square, square)) for _ in range(5))
    return {"read_bytes_per_s": wide.numel() * 4 / reading, "product_flop_per_s": 2 * 2048**3 / product}


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rooflines(path: Path, precision: str, rates: dict[str, float]) -> dict[str, float]:
    """Tokens a second at the rates of this machine: one stream bound by memory, a prompt bound by products."""
    config = read_config(path)
    embedding = config.vocab_size * config.hidden_size
    inner = num_parameters(config) - embedding
    head_bytes = embedding * BYTES["float32" if precision == "float32" else "bfloat16"]
    return {
        "decode_1_tok_per_s": rates["read_bytes_per_s"] / (inner * BYTES[precision] + head_bytes),
        "prefill_1024_tok_per_s": rates["product_flop_per_s"] / (2 * inner),
    }


def memory(engine: Engine) -> dict[str, float]:
    """What a sequence of 1,024 tokens takes of the process's memory: eight of them, all held at once."""
    before = resident_bytes()
    numbers = [engine.submit(Request(tuple(ids), Sampling(max_tokens=512), ignore_eos=True)) for ids in prompts(8, LONG, 77)]
    while any(sequence.num_pending > 1 for sequence in engine.scheduler):
        engine.step()
    taken = (resident_bytes() - before) / len(numbers)
    for number in numbers:
        engine.cancel(number)
    return {"resident_bytes_per_1024_tokens": taken, "counted_bytes_per_1024_tokens": LONG * kv_bytes_per_token(engine.model)}


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="tokens a second, lianlu beside transformers and llama.cpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--only-memory", action="store_true", help="measure the memory of sequences and nothing else")
    parser.add_argument("--llama", type=Path, default=HERE.parent / ".venv-llama", help="environment made by peers/llama.sh")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    path = pull("smollm2-135m-instruct")
    config = EngineConfig.model_validate({**PRECISIONS[options.precision], "max_tokens": 16_384})
    fresh = open_engine(path, config=config.model_copy(update={"prefix_cache": False}))
    per_sequence = memory(fresh)
    print(f"a sequence of 1,024 tokens takes {per_sequence['resident_bytes_per_1024_tokens'] / 2**20:.1f} MiB")
    if options.only_memory:
        keep(options.precision, {"memory": per_sequence})
        return
    with ExitStack() as stack:
        sides: dict[str, Run] = {"lianlu": ours(fresh)}
        if options.precision in ("float32", "bfloat16"):
            dtype = getattr(torch, options.precision)
            model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
            sides["transformers"] = generate(model)
        if (options.llama / "bin" / "python").is_file():
            llama = Llama(options.llama)
            stack.callback(llama.close)
            sides["llama.cpp"] = llama.open(path, options.precision, stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            print(f"no llama.cpp at {options.llama}: sh bench/peers/llama.sh {options.llama}")
        rates = machine_rates(options.precision)
        found = measure(sides, options.rounds)
    report(options.precision, found, rooflines(path, options.precision, rates))
    again = prefix(open_engine(path, config=config), options.rounds)
    share = f"{again['hit_share']:.1%}"
    print(f"prefix of {PREFIX} tokens: cold {again['cold_s']:.2f} s, the same again {again['hit_s']:.3f} s ({share})")
    rounds = {"rounds": found, "prefix": again, "memory": per_sequence, "machine": rates}
    keep(options.precision, {"device": machine.describe_device(), "threads": THREADS, **rounds})


def report(precision: str, found: dict[str, dict[str, list[float]]], limits: dict[str, float]) -> None:
    """Print the medians, the ratio to each peer, and the share of the roofline."""
    for case, sides in found.items():
        medians = {name: statistics.median(values) for name, values in sides.items()}
        mine = medians.pop("lianlu")
        beside = ", ".join(f"{name} {value:.1f} (ratio {mine / value:.2f})" for name, value in medians.items())
        limit = f"; {mine / limits[case]:.0%} of the roofline" if case in limits else ""
        print(f"{precision} {case}: lianlu {mine:.1f}, {beside}{limit}", flush=True)


def keep(precision: str, result: dict[str, Any]) -> None:
    """Put the figures of one precision into the results file."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    known[precision] = known.get(precision, {}) | {"torch": torch.__version__, "transformers": transformers.__version__, **result}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
