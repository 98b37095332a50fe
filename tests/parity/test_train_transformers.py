"""Twenty steps of training against a plain loop over transformers' model, optimiser and schedule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lianlu.core.store import Output
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.save import save_model
from lianlu.train.config import AdamW, CosineSchedule, TrainConfig
from lianlu.train.loop import Loop
from lianlu.train.packing import Packed, Segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.schedule import rate

NUM_STEPS = 20
LR = 1e-3


class Rows:
    """Rows of random ids, several lengths in a step, two micro-batches."""

    num_steps = NUM_STEPS

    def rows(self, step: int) -> list[np.ndarray]:
        rng = np.random.default_rng(step)
        return [rng.integers(0, 20, length) for length in (12, 30, 7, 21)]

    def prepare(self, model: Decoder, step: int) -> None:
        pass

    def rate(self, step: int) -> float:
        return rate(CosineSchedule(warmup=0, final=0), step, NUM_STEPS)

    def examples(self, step: int) -> list[Segment]:
        return [Segment(row[:-1], row[1:]) for row in self.rows(step)]

    def collate(self, examples: Sequence[Segment]) -> Packed:
        return pack(examples)

    def loss(self, model: Decoder, batch: Packed) -> Tensor:
        return packed_loss(model, batch)

    def describe(self, example: Segment) -> str:
        return "random"

    def evaluate(self, model: Decoder) -> dict[str, float]:
        return {}

    def samples(self, model: Decoder, step: int) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def start(tmp_path: Path) -> Decoder:
    config = ModelConfig(
        architecture="llama",
        vocab_size=97,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    model = build_model(config, seed=3)
    save_model(model, tmp_path / "start")
    return model


def reference_losses(folder: Path) -> list[float]:
    """Padded rows, the mean over all targets of the step, clipping, AdamW and cosine as their users write it."""
    from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if "norm" not in n], "weight_decay": 0.1},
        {"params": [p for n, p in named if "norm" in n], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, NUM_STEPS)
    losses = []
    for step in range(NUM_STEPS):
        rows = [torch.from_numpy(row) for row in Rows().rows(step)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_twenty_steps_of_adamw_and_cosine_give_their_losses(start: Decoder, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    wanted = reference_losses(tmp_path / "start")
    config = TrainConfig(
        optim=AdamW(lr=LR, betas=(0.9, 0.95), weight_decay=0.1, clip=0.5),
        precision="float32",
        micro_tokens=40,
    )
    out = Output(tmp_path / "run")
    out.path.mkdir()
    Loop(start, Rows(), config, out, Layout(config)).run("parity")
    lines = (out.path / "losses.jsonl").read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
    assert losses == pytest.approx(wanted, abs=1e-5)
    assert wanted[-1] < wanted[0]
