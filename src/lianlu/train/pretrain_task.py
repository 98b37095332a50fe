"""What pretraining hands to the loop: packed documents, held-out bits per byte, text samples, and the baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.formats.shards import TokenShard, open_shard
from lianlu.model.config import num_parameters
from lianlu.model.decoder import Decoder
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.curve import read_curve, tokens_per_s
from lianlu.train.generate import generate
from lianlu.train.held_out import held_out_nats
from lianlu.train.ngram import ByteNgram, gzip_bits_per_byte
from lianlu.train.packing import Packed, Segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.pretrain import PretrainConfig
from lianlu.train.schedule import rate
from lianlu.train.stream import DocumentStream, document_segments, held_out_documents

SAMPLE_TEMPERATURES = (0.0, 0.8)


class PretrainTask:
    """A pretraining run over the shards of `config`. Raises: DataError if there is nothing to train or evaluate on."""

    def __init__(self, config: PretrainConfig, tokenizer: Tokenizer, layout: Layout) -> None:
        self._config, self._tokenizer, self._layout = config, tokenizer, layout
        self._train = open_shard(Path(config.data) / "train.bin")
        self._held_out = open_shard(Path(config.data) / "held_out.bin")
        if self._train.num_tokens == 0:
            raise DataError(f"{self._train.path} holds no tokens", hint="give the shard stage more documents")
        self.vocab_size = self._train.vocab_size
        self.num_steps = config.num_steps
        self._separator = int(self._train.document(0)[-1])
        self._stream = DocumentStream(self._train, self._separator, config.seed, config.sequence_length)
        self._documents = held_out_documents(self._held_out, config.held_out_tokens)
        self._segments = document_segments(self._held_out, self._documents, self._separator, config.sequence_length)
        self._held_out_bytes = int(self._held_out.text_bytes[self._documents].sum())
        if self._held_out_bytes == 0:
            raise DataError(
                f"{self._held_out.path} holds no text to evaluate on",
                hint="the shard stage needs two documents at least, and a share held_out above 0",
            )

    def prepare(self, model: Decoder, step: int) -> None:
        """Nothing changes from step to step."""

    def rate(self, step: int) -> float:
        """The schedule's."""
        return rate(self._config.schedule, step, self.num_steps)

    def examples(self, step: int) -> list[Segment]:
        """The tokens of one step."""
        size = self._config.batch_tokens
        return self._stream.segments(step * size, size)

    def collate(self, examples: Sequence[Segment]) -> Packed:
        """One behind the other."""
        return pack(examples)

    def loss(self, model: Decoder, batch: Packed) -> Tensor:
        """Summed nats."""
        return packed_loss(model, batch)

    def describe(self, example: Segment) -> str:
        """The document it is cut from."""
        return f"document {example.source} of {self._train.path}"

    def evaluate(self, model: Decoder) -> dict[str, float]:
        """Held-out bits per byte."""
        nats, _ = held_out_nats(model, self._segments, self._config.micro_tokens, self._layout)
        return {"held_out_bpb": nats / math.log(2) / self._held_out_bytes}

    def samples(self, model: Decoder, step: int) -> Iterator[dict[str, Any]]:
        """Each prompt continued greedily and with chance."""
        tokenizer = self._tokenizer
        for number, prompt in enumerate(self._config.sample_prompts):
            ids = [self._separator, *tokenizer.encode(prompt)]
            for temperature in SAMPLE_TEMPERATURES:
                seed = self._config.seed + 1000 * step + number
                new = generate(model, ids, self._config.sample_tokens, temperature, seed, ends=tokenizer.eos_ids)
                yield {"prompt": prompt, "temperature": temperature, "text": tokenizer.decode(new)}

    def figures(self, model: Decoder, out: Output) -> dict[str, Any]:
        """What people want to know about the finished run."""
        curve = read_curve(out.path / "losses.jsonl")
        held_out = [self._text(self._held_out, index) for index in self._documents]
        return {
            "parameters": num_parameters(model.config),
            "steps": self.num_steps,
            "tokens": self.num_steps * self._config.batch_tokens,
            "epochs": self.num_steps * self._config.batch_tokens / self._train.num_tokens,
            "loss_start": curve.first("loss"),
            "loss": curve.tail_mean("loss"),
            "bits_per_byte_start": curve.first("held_out_bpb"),
            "bits_per_byte": curve.last("held_out_bpb"),
            "gzip_bits_per_byte": gzip_bits_per_byte(held_out),
            "ngram_bits_per_byte": ByteNgram(self._ngram_texts()).bits_per_byte(held_out),
            "held_out_bytes": self._held_out_bytes,
            "tokens_per_s": tokens_per_s(out.logs / "metrics.jsonl"),
        }

    def _ngram_texts(self) -> Iterator[bytes]:
        """Training documents in shuffled order up to the cap."""
        left = self._config.ngram_bytes
        order = np.random.Generator(np.random.Philox(key=self._config.seed)).permutation(self._train.num_documents)
        for index in order:
            if left <= 0:
                return
            text = self._text(self._train, int(index))[:left]
            left -= len(text)
            yield text

    def _text(self, shard: TokenShard, index: int) -> bytes:
        return self._tokenizer.decode(shard.document(index).tolist()).encode()
