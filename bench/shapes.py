"""Memory that sequences and batches of many lengths cost in bfloat16 on a CPU: as PyTorch takes them, and as lianlu does.

PyTorch's flash attention keeps machine code for each length of a sequence, oneDNN for each number of rows of a product; both
are never given back. lianlu rounds lengths up. Each case is a process of its own, which takes a hundred odd sizes forwards and
backwards; printed and kept (bench/results/shapes.json) is how much its resident memory grew. Run: python bench/shapes.py
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from procfs import resident_bytes
from torch.nn import functional as F

from lianlu.core import machine
from lianlu.kernels.attention import varlen_attention
from lianlu.train.packing import Segment, pack

RESULTS = Path(__file__).parent / "results" / "shapes.json"
SIZES, SEED = 100, 0
HEADS, WIDTH = 4, 64
PRODUCTS = ((960, 576), (3072, 576))


def attend(length: int) -> None:
    """Attention over one sequence, as PyTorch has it."""
    q, k, v = (torch.randn(1, HEADS, length, WIDTH, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()


def attend_rounded(length: int) -> None:
    """The same through lianlu."""
    q, k, v = (torch.randn(length, HEADS, WIDTH, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    varlen_attention(q, k, v, [0, length]).sum().backward()


def multiply(rows: int) -> None:
    """Two products of a block over so many tokens."""
    for outputs, inputs in PRODUCTS:
        x, weight = torch.randn(rows, inputs, requires_grad=True), torch.randn(outputs, inputs, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = F.linear(x, weight)
        y.float().sum().backward()


def multiply_packed(rows: int) -> None:
    """The same over the tokens of a packed batch."""
    multiply(pack([Segment(np.zeros(rows, np.int64), np.zeros(rows, np.int64))]).num_tokens)


CASES: dict[str, tuple[Callable[[int], None], range]] = {
    "attention, PyTorch": (attend, range(193, 513)),
    "attention, lianlu": (attend_rounded, range(193, 513)),
    "products, PyTorch": (multiply, range(1500, 2049)),
    "products, lianlu": (multiply_packed, range(1500, 2049)),
}


def grown(name: str) -> int:
    """Bytes that stay after many sizes beyond those that stay after the largest."""
    step, sizes = CASES[name]
    torch.set_num_threads(2)
    trim = ctypes.CDLL("libc.so.6").malloc_trim
    step(sizes[-1])
    trim(0)
    before = resident_bytes()
    for size in random.Random(SEED).sample(sizes, SIZES):
        step(size)
    trim(0)
    return resident_bytes() - before


def main() -> None:
    """All cases, or the one that a process was started for."""
    parser = argparse.ArgumentParser(description="memory kept for many lengths in bfloat16")
    parser.add_argument("--case", choices=CASES)
    case = parser.parse_args().case
    if case:
        print(grown(case))
        return
    found: dict[str, int] = {}
    for name in CASES:
        found[name] = int(subprocess.run([sys.executable, __file__, "--case", name], capture_output=True, check=True).stdout)
        print(f"{name:<20} {found[name] / 1e6:7.0f} MB after {SIZES} sizes", flush=True)
    kept = {"device": machine.describe_device(), "sizes": SIZES, "grown_bytes": found}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
