"""Steps a second and bytes of state of each optimiser, beside PyTorch's own and bitsandbytes, on the weights of a 31M model.

The gradients are made up and stay the same, so that nothing but the step itself is timed; the number of a round's steps is the
same for all, and rounds are interleaved. PyTorch's Muon takes no embeddings and knows no fused weights: it gets the matrices
of the blocks as they are, AdamW the rest, and its iterations are in bfloat16 whatever the processor is good at. bitsandbytes
keeps embeddings in 32 bits only if told to; it is not told. Prints medians, ratios to PyTorch's AdamW, and bytes for each
weight, and keeps bench/results/optim.json.

Run: python bench/optim.py [--rounds N] [--threads N] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lianlu.core import machine
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.train.config import AdamW, AdamW8, Muon, Optim
from lianlu.train.optim.build import build_optimizer

RESULTS = Path(__file__).parent / "results" / "optim.json"
SHAPE = ModelConfig(
    architecture="llama",
    vocab_size=16384,
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=6,
)
STEPS = 3
LR = 1e-4
BASIS = "torch AdamW"
Side = tuple[nn.Module, list[torch.optim.Optimizer]]


def model_on(device: str) -> nn.Module:
    """The model, each weight with a gradient."""
    model = build_model(SHAPE, 0).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def ours(config: Optim, device: str) -> Side:
    """One of lianlu's."""
    model = model_on(device)
    return model, [build_optimizer(model, config)]


def torch_adamw(device: str) -> Side:
    """The fused kernel, as most loops use it."""
    model = model_on(device)
    return model, [torch.optim.AdamW(model.parameters(), lr=LR, fused=True)]


def torch_muon(device: str) -> Side:
    """Muon for the blocks' matrices, fused AdamW for the rest."""
    model = model_on(device)
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if name.startswith("layers.") and p.ndim == 2]
    others = [p for name, p in named.items() if not name.startswith("layers.") or p.ndim < 2]
    muon = torch.optim.Muon(matrices, lr=LR, adjust_lr_fn="match_rms_adamw")
    return model, [muon, torch.optim.AdamW(others, lr=LR, fused=True)]


def bitsandbytes_adamw8(device: str) -> Side:
    """Its 8-bit AdamW, which has a path for the processor."""
    import bitsandbytes

    model = model_on(device)
    return model, [bitsandbytes.optim.AdamW8bit(model.parameters(), lr=LR)]


def sides(device: str) -> dict[str, Side]:
    """All optimisers, each with a model of its own."""
    makers: dict[str, Callable[[str], Side]] = {
        BASIS: torch_adamw,
        "lianlu adamw": lambda on: ours(AdamW(lr=LR), on),
        "lianlu adamw8": lambda on: ours(AdamW8(lr=LR), on),
        "lianlu adamw8, embedding in 8 bits": lambda on: ours(AdamW8(lr=LR, embedding_bits=8), on),
        "torch Muon": torch_muon,
        "lianlu muon": lambda on: ours(Muon(lr=LR), on),
        "lianlu muon, float32": lambda on: ours(Muon(lr=LR, precision="float32"), on),
    }
    if importlib.util.find_spec("bitsandbytes"):
        makers["bitsandbytes adamw8"] = bitsandbytes_adamw8
    return {name: make(device) for name, make in makers.items()}


def state_bytes(optimisers: list[torch.optim.Optimizer]) -> int:
    """Bytes of all tensors that belong to parameters."""
    tensors = [value for one in optimisers for state in one.state.values() for value in state.values()]
    # bitsandbytes holds one map of 256 values for all parameters
    owned = {tensor.data_ptr(): tensor for tensor in tensors if isinstance(tensor, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in owned.values())


def seconds(optimisers: list[torch.optim.Optimizer], device: str) -> float:
    """Of one step, over a few."""
    gc.collect()
    began = time.perf_counter()
    for _ in range(STEPS):
        for one in optimisers:
            one.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS


def measure(rounds: int, device: str) -> dict[str, Any]:
    """Medians over rounds, after one for warming up."""
    made = sides(device)
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds + 1):
        for name, (_, optimisers) in made.items():
            took = seconds(optimisers, device)
            if number:
                times[name].append(took)
    weights = sum(parameter.numel() for parameter in made[BASIS][0].parameters())
    basis = statistics.median(times[BASIS])
    return {
        name: {
            "steps_per_s": 1 / statistics.median(taken),
            "seconds_vs_torch_adamw": statistics.median(taken) / basis,
            "state_bytes": state_bytes(made[name][1]),
            "bytes_per_weight": state_bytes(made[name][1]) / weights,
            "rounds_s": taken,
        }
        for name, taken in times.items()
    }


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description="steps a second and state of each optimiser")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = measure(options.rounds, options.device)
    for name, found in results.items():
        rate, ratio, size = (found[key] for key in ("steps_per_s", "seconds_vs_torch_adamw", "bytes_per_weight"))
        print(f"{name:36} {rate:8.2f} steps/s  {ratio:7.2f} x the time of torch AdamW  {size:6.3f} bytes of state a weight")
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"device": machine.describe_device(), "ran_on": options.device, "threads": options.threads, "optimisers": results}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
