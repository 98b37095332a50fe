"""The model of recipes/pretrain_small.toml beside a plain GPT given the same tokenizer, text, tokens, time and size.

The peer is what people write after nanoGPT: learned positions, LayerNorm, GELU, tied output, rows of fixed length cut from
documents joined by the end-of-text token (a row sees several documents), AdamW with warm-up and cosine. It stops at the
tokens or the seconds of training that lianlu had, whichever comes first. Both are judged on the same held-out documents in
the same pieces, in bits per byte, next to gzip -9 and a byte 5-gram model. Prints the table and keeps
bench/results/pretrain_small.json. Run the recipe first, then: python bench/pretrain_small.py [--lr 1e-3 ...] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.core import machine
from lianlu.core.store import Artifact, Store
from lianlu.train.curve import read_curve
from lianlu.train.precision import compute_dtype, mixed
from lianlu.train.pretrain import PretrainConfig
from lianlu.train.sources import Corpus, open_corpora

RESULTS = Path(__file__).parent / "results" / "pretrain_small.json"
CPU = torch.device("cpu")
THREADS = 2


class Block(nn.Module):
    """Pre-norm attention and GELU feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, 2))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGpt(nn.Module):
    """A GPT of the usual kind; the output layer is the embedding."""

    def __init__(self, vocab: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(
                    parameter, 0.0, 0.02 / math.sqrt(2 * layers) if name.endswith(("out.weight", "down.weight")) else 0.02
                )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


@dataclass(frozen=True)
class Budget:
    """What lianlu had: tokens, seconds of training, tokens a step, the longest piece, the shares of the sources."""

    tokens: int
    seconds: float
    batch_tokens: int
    length: int
    weights: np.ndarray


def rows(corpora: Sequence[Corpus], budget: Budget, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random windows of the joined documents, from each source by its share."""
    found = []
    for source in rng.choice(len(corpora), budget.batch_tokens // budget.length, p=budget.weights):
        tokens = corpora[source].train.shard.tokens
        start = rng.integers(0, len(tokens) - budget.length - 1)
        found.append(np.asarray(tokens[start : start + budget.length + 1], dtype=np.int64))
    whole = torch.from_numpy(np.stack(found))
    return whole[:, :-1], whole[:, 1:]


def train(model: PlainGpt, corpora: Sequence[Corpus], budget: Budget, lr: float, dtype: torch.dtype) -> dict[str, float]:
    """The plain loop; the rate follows the budget that is used up faster."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    rng, tokens, began, used = np.random.default_rng(0), 0, time.monotonic(), 0.0
    while used < 1:
        rate = min(used / 0.03 + 1e-3, 1.0) * (0.1 + 0.45 * (1 + math.cos(math.pi * used)))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        ids, targets = rows(corpora, budget, rng)
        with mixed(dtype, CPU):
            logits = model(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += ids.numel()
        used = max(tokens / budget.tokens, (time.monotonic() - began) / budget.seconds)
        if tokens // budget.batch_tokens % 50 == 1:
            print(f"  {used:6.1%}  loss {loss.item():.3f}  {tokens / (time.monotonic() - began):,.0f} tok/s", flush=True)
    seconds = time.monotonic() - began
    return {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}


@torch.no_grad()
def judge(model: PlainGpt, corpora: Sequence[Corpus], length: int, dtype: torch.dtype) -> dict[str, float]:
    """Held-out bits per byte over all and by source, in the pieces that lianlu is judged on."""
    bits, sizes = [], [corpus.held_out.num_bytes for corpus in corpora]
    for corpus in corpora:
        nats = 0.0
        for piece in corpus.held_out.segments(length):
            with mixed(dtype, CPU):
                logits = model(torch.from_numpy(piece.inputs)[None])[0]
            nats += float(F.cross_entropy(logits.float(), torch.from_numpy(piece.targets), reduction="sum"))
        bits.append(nats / math.log(2))
    each = {corpus.name: own / size for corpus, own, size in zip(corpora, bits, sizes, strict=True)}
    return {"all": sum(bits) / sum(sizes), **each}


def of_figures(figures: dict[str, Any], name: str, sources: Sequence[str]) -> dict[str, float]:
    """A row of the table out of the figures of the recipe."""
    return {"all": figures[name], **{source: figures[f"{name}_{source}"] for source in sources}}


def layers_for(parameters: int, vocab: int, length: int, width: int) -> int:
    """So many blocks that the peer is as large as lianlu's model, rounded."""
    return max(round((parameters - (vocab + length + 1) * width) / (12 * width * width + 2 * width)), 1)


def opened(store: Store) -> tuple[PretrainConfig, list[Corpus], Artifact]:
    """The pretrain step as it was run last, its corpora and its model."""
    made = store.get("@pretrain")
    config = PretrainConfig.model_validate(made.manifest.config)
    folders = [str(store.get(name).path) for name in config.folders]
    return config, open_corpora(folders, config.names, config.held_out_tokens), made


def main() -> None:
    """Train the peer, judge both, print, keep."""
    parser = argparse.ArgumentParser(description="bits per byte of the small pretraining recipe beside a plain GPT")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3], help="rates to try; the best one counts")
    parser.add_argument("--seconds", type=float, default=0.0, help="time of training for the peer; 0: as long as lianlu had")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    config, corpora, made = opened(Store.locate())
    figures, dtype = made.manifest.figures, compute_dtype(config.precision, CPU)
    curve = read_curve(made.path / "logs" / "metrics.jsonl")
    seconds = sum(curve.values("seconds")) + sum(curve.values("wait_s"))
    weights = np.array(config.weights or [corpus.num_tokens for corpus in corpora], dtype=np.float64)
    length = config.timeline.shortest
    budget = Budget(figures["tokens"], options.seconds or seconds, config.batch_tokens, length, weights / weights.sum())
    width, vocab = config.model.hidden_size, corpora[0].train.shard.vocab_size
    layers = layers_for(figures["parameters"], vocab, length, width)
    runs: dict[str, Any] = {}
    for lr in options.lr:
        torch.manual_seed(0)
        model = PlainGpt(vocab, length, width, max(width // 64, 1), layers)
        print(f"plain GPT: {sum(p.numel() for p in model.parameters()):,} parameters, {layers} blocks, rate {lr:g}", flush=True)
        work = train(model, corpora, budget, lr, dtype)
        runs[f"{lr:g}"] = {**work, "bits_per_byte": judge(model, corpora, length, dtype)}
    best = min(runs.values(), key=lambda run: run["bits_per_byte"]["all"])
    names = [corpus.name for corpus in corpora]
    table = {
        "lianlu": of_figures(figures, "bits_per_byte", names),
        "plain GPT": best["bits_per_byte"],
        "5-gram": of_figures(figures, "ngram_bits_per_byte", names),
        "gzip -9": of_figures(figures, "gzip_bits_per_byte", names),
    }
    print(f"\n{'bits per byte':<14}" + "".join(f"{name:>9}" for name in ("all", *names)))
    for name, row in table.items():
        print(f"{name:<14}" + "".join(f"{value:>9.3f}" for value in row.values()))
    mine = {"tokens": figures["tokens"], "seconds": seconds, "parameters": figures["parameters"]}
    kept = {
        "device": machine.describe_device(),
        "precision": str(dtype),
        "lianlu": mine,
        "plain_gpt": runs,
        "bits_per_byte": table,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
