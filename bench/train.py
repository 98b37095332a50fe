"""Training tokens a second and peak memory beside plain transformers loops: same data, same steps, same precision and threads.

    pretrain   a Llama shape of 31.5 M parameters, 8 rows of 512 random tokens a step, no padding on either side
    sft        all weights of SmolLM2-135M-Instruct on alpaca_en_demo, 4 conversations of at most 512 tokens a step
    lora       the same data, LoRA of rank 16 on all linear layers (peer: peft)

The peer pads the 4 conversations to the longest, as transformers' Trainer does; lianlu packs them. A step is forward, backward,
clipping, fused AdamW. Tokens are those that are not padding. Each side lives in a process of its own; rounds (3 steps on one
side, then the same 3 steps on the other) alternate, so that a slow minute of the machine hits both. Memory is the peak resident
size during the steps, loading left out. Prints medians and ratios, keeps bench/results/train.json.

Run: python bench/train.py [--rounds N] [--case NAME] [--precision bfloat16|float32]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from lianlu.core import machine

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "train.json"
CASES = ("pretrain", "sft", "lora")
SIDES = ("lianlu", "peer")
STEPS_A_ROUND = 3


class Side:
    """One side of a case in its own process: it answers each line of its input with a line of JSON."""

    def __init__(self, case: str, side: str, precision: str) -> None:
        command = [sys.executable, str(HERE / "train_side.py"), case, side, precision]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of JSON."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side of the benchmark died; its message is above")
        found: dict[str, Any] = json.loads(line)
        return found

    def steps(self, first: int, count: int) -> dict[str, Any]:
        """Do some steps: seconds, tokens, loss of the last one, and the peak memory so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{first} {count}\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(case: str, precision: str, rounds: int) -> dict[str, Any]:
    """Rates of every round after one for warming up; peak memory of the whole."""
    sides = {side: Side(case, side, precision) for side in SIDES}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    last: dict[str, dict[str, Any]] = {}
    for number in range(rounds + 1):
        for side, worker in sides.items():
            steps = STEPS_A_ROUND if number else 1
            last[side] = worker.steps(number * STEPS_A_ROUND, steps)
            if number:
                rates[side].append(last[side]["tokens"] / last[side]["seconds"])
    for worker in sides.values():
        worker.close()
    record: dict[str, Any] = {"rounds": rates}
    for side in SIDES:
        record[f"{side}_tok_per_s"] = statistics.median(rates[side])
        record[f"{side}_peak_bytes"] = last[side]["peak_bytes"]
        record[f"{side}_loss"] = last[side]["loss"]
    record["speed_ratio"] = record["lianlu_tok_per_s"] / record["peer_tok_per_s"]
    record["memory_ratio"] = record["lianlu_peak_bytes"] / record["peer_peak_bytes"]
    return record


def line(name: str, record: dict[str, Any]) -> str:
    """One case for people."""
    speeds = (
        f"{record['lianlu_tok_per_s']:.0f} tok/s, transformers {record['peer_tok_per_s']:.0f}, ratio {record['speed_ratio']:.2f}"
    )
    sizes = f"{record['lianlu_peak_bytes'] / 1e9:.2f} GB, transformers {record['peer_peak_bytes'] / 1e9:.2f}"
    losses = f"loss {record['lianlu_loss']:.4f} and {record['peer_loss']:.4f}"
    return f"{name}: lianlu {speeds}; peak {sizes}, ratio {record['memory_ratio']:.2f}; {losses}"


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="training speed and memory, lianlu beside transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), action="append")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    cases = kept.get("cases", {})
    for case in options.case or CASES:
        for precision in options.precision or ("float32", "bfloat16"):
            name = f"{case}_{precision}"
            cases[name] = measure(case, precision, options.rounds)
            print(line(name, cases[name]), flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            record = {"device": machine.describe_device(), "threads": 2, "steps_a_round": STEPS_A_ROUND, "cases": cases}
            RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
