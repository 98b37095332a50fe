"""What fine-tuning hands to the loop: packed examples, held-out loss, sample answers; and its model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.model.config import num_parameters
from lianlu.model.decoder import Decoder
from lianlu.model.frozen import frozen_dtypes, hold_frozen
from lianlu.model.load import open_model as open_weights
from lianlu.model.load import read_config
from lianlu.model.lora import LoraSpec, add_lora, save_adapter, with_magnitudes
from lianlu.model.quantized import Int8Linear
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.checkpoint.state import trainable
from lianlu.train.curve import read_curve, tokens_per_s
from lianlu.train.epochs import Epochs
from lianlu.train.example_file import ExampleFile
from lianlu.train.generate import generate
from lianlu.train.held_out import held_out_nats
from lianlu.train.loop import RESUME
from lianlu.train.packing import Packed, Segment, answer_segment, pack, packed_loss
from lianlu.train.parallel.gather import save_whole, whole_adapters
from lianlu.train.parallel.layout import Layout
from lianlu.train.rendering import Way
from lianlu.train.schedule import rate
from lianlu.train.sft import FullTune, LoraTune, QLoraTune, SftConfig
from lianlu.train.sft_data import Wanted, open_data
from lianlu.train.stream import HELD_OUT_KEY

PROMPT_TOKENS = 32


class SftTask:
    """A fine-tuning run over the data of `config`, rendered into `out`. Raises: DataError if nothing is left to learn."""

    def __init__(self, config: SftConfig, layout: Layout, out: Path) -> None:
        self._config, self._layout = config, layout
        self.tokenizer = Tokenizer.load(config.model)
        shape = read_config(config.model)
        _require_rows(config, self.tokenizer.vocab_size, shape.vocab_size)
        way = Way(config.model, min(config.max_length, shape.max_position_embeddings), config.too_long == "cut")
        wanted = Wanted(tuple(map(Path, config.places)), config.format, config.held_out, way)
        self._data = open_data(wanted, self.tokenizer, out, out / RESUME, layout.is_main)
        self._epochs = Epochs(self._data.train.lengths, config.batch_tokens, config.seed)
        self._judged = judged_segments(self._data.held_out, config.held_out_tokens)
        self.num_steps = config.steps or self._epochs.steps_of(config.epochs)

    def prepare(self, model: Decoder, step: int) -> None:
        """Nothing changes from step to step."""

    def rate(self, step: int) -> float:
        """The schedule's."""
        return rate(self._config.schedule, step, self.num_steps)

    def examples(self, step: int) -> list[Segment]:
        """The conversations, or pieces of documents, of one step."""
        return [segment(self._data.train, index) for index in self._epochs.examples_at(step)]

    def collate(self, examples: Sequence[Segment]) -> Packed:
        """One behind the other."""
        return pack(examples)

    def loss(self, model: Decoder, batch: Packed) -> Tensor:
        """Summed nats over what is learnt."""
        return packed_loss(model, batch)

    def describe(self, example: Segment) -> str:
        """The name of the conversation or document, and where it stands."""
        return self._data.train.name(example.source)

    def evaluate(self, model: Decoder) -> dict[str, float]:
        """Held-out loss in nats per token that is learnt."""
        most_tokens = min(self._config.micro_tokens, self._config.batch_tokens)
        nats, count = held_out_nats(model, self._judged, most_tokens, self._layout)
        return {"held_out_loss": nats / count}

    def samples(self, model: Decoder, step: int) -> Iterator[dict[str, Any]]:
        """Held-out questions, the answer in the data and the model's greedy one; of documents, how they go on."""
        held_out = self._data.held_out
        for index, question in enumerate(self._data.questions[: self._config.num_samples]):
            ids, mask = held_out.ids(index), held_out.mask(index)
            start = int(np.argmax(mask))
            end = start + int(np.argmin(np.append(mask[start:], False)))
            if start <= 1:  # a document
                start, end = min(PROMPT_TOKENS, len(ids) // 2), min(PROMPT_TOKENS + self._config.sample_tokens, len(ids))
            prompt = [int(token) for token in ids[:start]]
            new = generate(model, prompt, self._config.sample_tokens, ends=self.tokenizer.eos_ids)
            reference = self.tokenizer.decode(ids[start:end].tolist())
            asked = question or self.tokenizer.decode(prompt)
            yield {"prompt": asked, "reference": reference, "text": self.tokenizer.decode(new)}

    def figures(self, model: Decoder, out: Output) -> dict[str, Any]:
        """What people want to know about the finished run."""
        curve = read_curve(out.path / "losses.jsonl")
        before, after = curve.first("held_out_loss"), curve.last("held_out_loss")
        return {
            "parameters": num_parameters(model.config),
            "trained_parameters": self._num_trained(model),
            "steps": self.num_steps,
            **self._data.figures(),
            "loss_start": curve.first("loss"),
            "loss": curve.tail_mean("loss"),
            "held_out_loss_start": before,
            "held_out_loss": after,
            "held_out_perplexity_start": math.exp(before),
            "held_out_perplexity": math.exp(after),
            "tokens_per_s": tokens_per_s(out.logs / "metrics.jsonl"),
        }

    def _num_trained(self, model: Decoder) -> int:
        """Of the whole model, of which a process of a pipeline has only some layers."""
        if isinstance(self._config.tune, FullTune):
            return num_parameters(model.config)
        return sum(parameter.numel() for parameter in trainable(model).values())


def segment(examples: ExampleFile, index: int) -> Segment:
    """One example as inputs and targets."""
    return replace(answer_segment(examples.ids(index), examples.mask(index)), source=index)


def judged_segments(examples: ExampleFile, max_tokens: int) -> list[Segment]:
    """Examples that hold at most `max_tokens` together, and always one; spread over all of them, always the same ones."""
    order = np.random.Generator(np.random.Philox(key=HELD_OUT_KEY)).permutation(len(examples))
    count = int(np.searchsorted(np.cumsum(examples.lengths[order], dtype=np.int64), max_tokens, side="right"))
    return [segment(examples, int(index)) for index in sorted(order[: max(count, 1)])]


def _require_rows(config: SftConfig, num_ids: int, num_rows: int) -> None:
    if num_ids > num_rows:
        message = f"the tokenizer of {config.model} knows {num_ids} tokens, the model has rows for {num_rows}"
        raise DataError(message, hint="tokenizer and weights belong to different models")


def open_model(config: SftConfig, layout: Layout) -> Decoder:
    """The model on the devices it is trained on, with only what is tuned left trainable.

    Weights are read one by one and at once become what they are held as: fp32 where they are trained, the number type of
    the products (or NF4) below an adapter. Raises: ConfigError for int8 weights that would have to be trained, or be NF4.
    """
    tune = config.tune
    quant = tune.quant if isinstance(tune, QLoraTune) else None
    adapted, tables = isinstance(tune, LoraSpec), quant is not None
    dtypes = frozen_dtypes(layout.dtype, tables) if adapted else torch.float32
    model, weights = open_weights(config.model, dtypes, quant)
    if any(isinstance(module, Int8Linear) for module in model.modules()) and not isinstance(tune, LoraTune):
        what = "be trained" if isinstance(tune, FullTune) else "be held in NF4"
        raise ConfigError(f"the int8 weights of {config.model} cannot {what}", hint='use tune.kind = "lora"')
    if isinstance(tune, LoraSpec):
        hold_frozen(model, layout.dtype, tables)
        add_lora(model, tune, config.seed)
        weights = with_magnitudes(model, weights)
    return layout.distribute(model, weights)


def save_result(model: Decoder, config: SftConfig, folder: Path, layout: Layout) -> None:
    """The adapter, or all weights of the tuned model; written by the main process, with the help of the others."""
    if not isinstance(config.tune, LoraSpec):
        save_whole(model, folder, layout.is_main)
        return
    with whole_adapters(model):
        if layout.is_main:
            save_adapter(model, folder, Path(config.model).stem if Path(config.model).is_file() else Path(config.model).name)
