"""What fine-tuning hands to the loop: packed conversations, held-out answer loss, sample answers; and its model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.model.config import num_parameters
from lianlu.model.decoder import Decoder
from lianlu.model.load import load_model, read_config
from lianlu.model.lora import add_lora, save_adapter
from lianlu.model.quantized import is_quantized
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.checkpoint.state import trainable
from lianlu.train.conversations import make_examples, read_split, require_examples
from lianlu.train.curve import read_curve, tokens_per_s
from lianlu.train.generate import generate
from lianlu.train.held_out import held_out_nats
from lianlu.train.packing import Packed, Segment, best_fit, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.schedule import rate
from lianlu.train.sft import LoraTune, SftConfig


class SftTask:
    """A fine-tuning run over the conversations of `config`. Raises: DataError if nothing is left to learn."""

    def __init__(self, config: SftConfig, layout: Layout) -> None:
        self._config, self._layout = config, layout
        self.tokenizer = Tokenizer.load(config.model)
        shape = read_config(config.model)
        _require_rows(config, self.tokenizer.vocab_size, shape.vocab_size)
        max_length = min(config.max_length, shape.max_position_embeddings)
        train, held_out = read_split(Path(config.data), config.held_out)
        cut = config.too_long == "cut"
        self._train = make_examples(self.tokenizer, train, max_length, cut)
        self._held_out = make_examples(self.tokenizer, held_out, max_length, cut)
        require_examples(self._train, "training", Path(config.data))
        require_examples(self._held_out, "held-out", Path(config.data))
        self._judged = self._held_out.first(config.held_out_tokens)
        self._bins = lru_cache(maxsize=2)(self._packed_epoch)
        self._epoch_ends = [len(self._bins(0))]
        self.num_steps = config.steps or self._steps_of(config.epochs)

    def _packed_epoch(self, epoch: int) -> list[list[int]]:
        """Examples of each step of an epoch: shuffled by (seed, epoch), then packed best-fit."""
        order = np.random.Generator(np.random.Philox(key=[self._config.seed, epoch])).permutation(len(self._train.segments))
        lengths = self._train.lengths
        bins = best_fit([lengths[index] for index in order], self._config.batch_tokens)
        return [[int(order[position]) for position in chosen] for chosen in bins]

    def _steps_of(self, epochs: int) -> int:
        while len(self._epoch_ends) < epochs:
            self._epoch_ends.append(self._epoch_ends[-1] + len(self._bins(len(self._epoch_ends))))
        return self._epoch_ends[epochs - 1]

    def _examples_at(self, step: int) -> list[int]:
        epoch = 0
        while step >= self._steps_of(epoch + 1):
            epoch += 1
        return self._bins(epoch)[step - (self._epoch_ends[epoch - 1] if epoch else 0)]

    def prepare(self, model: Decoder, step: int) -> None:
        """Nothing changes from step to step."""

    def rate(self, step: int) -> float:
        """The schedule's."""
        return rate(self._config.schedule, step, self.num_steps)

    def examples(self, step: int) -> list[Segment]:
        """The conversations of one step."""
        return [self._train.segments[index] for index in self._examples_at(step)]

    def collate(self, examples: Sequence[Segment]) -> Packed:
        """One behind the other."""
        return pack(examples)

    def loss(self, model: Decoder, batch: Packed) -> Tensor:
        """Summed nats over the answers' tokens."""
        return packed_loss(model, batch)

    def describe(self, example: Segment) -> str:
        """The conversation's id."""
        return self._train.source[example.source].id

    def evaluate(self, model: Decoder) -> dict[str, float]:
        """Held-out loss in nats per answer token."""
        nats, count = held_out_nats(model, self._judged, self._config.micro_tokens, self._layout)
        return {"held_out_loss": nats / count}

    def samples(self, model: Decoder, step: int) -> Iterator[dict[str, Any]]:
        """Held-out questions, the answer in the data and the model's greedy one."""
        for conversation in self._held_out.source[: self._config.num_samples]:
            turn = next(i for i, message in enumerate(conversation.messages) if message.role == "assistant")
            asked = conversation.messages[:turn]
            if not asked:
                continue
            prompt = self.tokenizer.render(asked, conversation.tools, reply=True).ids
            new = generate(model, prompt, self._config.sample_tokens, ends=self.tokenizer.eos_ids)
            reference = conversation.messages[turn].content
            yield {"prompt": asked[-1].content, "reference": reference, "text": self.tokenizer.decode(new)}

    def figures(self, model: Decoder, out: Output) -> dict[str, Any]:
        """What people want to know about the finished run."""
        curve = read_curve(out.path / "losses.jsonl")
        before, after = curve.first("held_out_loss"), curve.last("held_out_loss")
        return {
            "parameters": num_parameters(model.config),
            "trained_parameters": sum(p.numel() for p in trainable(model).values()),
            "steps": self.num_steps,
            "conversations": len(self._train.segments),
            "tokens": sum(self._train.lengths),
            "answer_tokens": sum(segment.num_targets for segment in self._train.segments),
            "held_out_conversations": len(self._judged),
            "skipped": dict(sorted((self._train.skipped + self._held_out.skipped).items())),
            "loss_start": curve.first("loss"),
            "loss": curve.tail_mean("loss"),
            "held_out_loss_start": before,
            "held_out_loss": after,
            "held_out_perplexity_start": math.exp(before),
            "held_out_perplexity": math.exp(after),
            "tokens_per_s": tokens_per_s(out.logs / "metrics.jsonl"),
        }


def _require_rows(config: SftConfig, num_ids: int, num_rows: int) -> None:
    if num_ids > num_rows:
        message = f"the tokenizer of {config.model} knows {num_ids} tokens, the model has rows for {num_rows}"
        raise DataError(message, hint="tokenizer and weights belong to different models")


def open_model(config: SftConfig, layout: Layout) -> Decoder:
    """The model on the device it is trained on, with only what is tuned left trainable. Raises: ConfigError for int8, full."""
    model = load_model(config.model, torch.float32, layout.device)
    if isinstance(config.tune, LoraTune):
        add_lora(model, config.tune, config.seed)
        freeze_in(model, layout.dtype)
    elif is_quantized(model):
        raise ConfigError(f"the int8 weights of {config.model} cannot be trained", hint='use tune.kind = "lora"')
    return model


def freeze_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the frozen matrices of linear layers in `dtype`: what autocast would make of them at every use."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)


def save_result(model: Decoder, config: SftConfig, folder: Path) -> None:
    """The adapter, or all weights of the tuned model."""
    if isinstance(config.tune, LoraTune):
        save_adapter(model, folder, Path(config.model).stem if Path(config.model).is_file() else Path(config.model).name)
    else:
        save_model(model, folder)
