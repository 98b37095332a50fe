"""What pretraining hands to the loop: packed documents of the phase, held-out bits per byte, text samples, and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lianlu.core import console
from lianlu.core.store import Output
from lianlu.model.config import ModelConfig, num_parameters
from lianlu.model.decoder import Decoder
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.baselines import baseline_figures
from lianlu.train.curve import read_curve, tokens_per_s
from lianlu.train.generate import generate
from lianlu.train.held_out import held_out_nats
from lianlu.train.mix import mixtures
from lianlu.train.packing import Packed, Segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.pretrain import PretrainConfig
from lianlu.train.sources import open_corpora

SAMPLE_TEMPERATURES = (0.0, 0.8)


class PretrainTask:
    """A pretraining run over the shards of `config`. Raises: DataError if there is nothing to train or evaluate on."""

    def __init__(self, config: PretrainConfig, tokenizer: Tokenizer, layout: Layout) -> None:
        self._config, self._tokenizer, self._layout = config, tokenizer, layout
        self.corpora = open_corpora(config.folders, config.names, config.held_out_tokens)
        self._timeline = config.timeline
        self._names = [corpus.name for corpus in self.corpora]
        sources = [corpus.train for corpus in self.corpora]
        self._mixtures, notes = mixtures(sources, self._names, self._timeline.phases, config.seed)
        for note in notes if layout.is_main else ():
            console.warn(note)
        self._held_out = [corpus.held_out.segments(self._timeline.shortest) for corpus in self.corpora]
        self._firsts = np.array([source.first_document for source in sources])
        self._separator = sources[0].separator
        self._plain: ModelConfig | None = None
        self.vocab_size = sources[0].shard.vocab_size
        self.num_steps = self._timeline.num_steps
        self._most_tokens = min(config.micro_tokens, max(phase.batch_tokens for phase in self._timeline.phases))

    def prepare(self, model: Decoder, step: int) -> None:
        """Give the model the rotary base of the phase; its weights stay."""
        if self._plain is None:
            self._plain = model.config
        model.rotate_with(self._timeline.phase(step).rotated(self._plain))

    def rate(self, step: int) -> float:
        """The schedule's, times the phase's."""
        return self._timeline.rate(step)

    def examples(self, step: int) -> list[Segment]:
        """The tokens of one step."""
        place = self._timeline.place(step)
        return self._mixtures[place.phase.number].segments(place.start, place.batch_tokens)

    def collate(self, examples: Sequence[Segment]) -> Packed:
        """One behind the other."""
        return pack(examples)

    def loss(self, model: Decoder, batch: Packed) -> Tensor:
        """Summed nats."""
        return packed_loss(model, batch)

    def describe(self, example: Segment) -> str:
        """The document it is cut from."""
        number = int(np.searchsorted(self._firsts, example.source, side="right")) - 1
        source = self.corpora[number].train
        return f"document {example.source - source.first_document} of {source.shard.path}"

    def evaluate(self, model: Decoder) -> dict[str, float]:
        """Held-out bits per byte over all text, and of each source if there are several."""
        sums = [held_out_nats(model, own, self._most_tokens, self._layout)[0] for own in self._held_out]
        sizes = [corpus.held_out.num_bytes for corpus in self.corpora]
        figures = {"held_out_bpb": sum(sums) / math.log(2) / sum(sizes)}
        if len(sums) > 1:
            each = zip(self._names, sums, sizes, strict=True)
            figures |= {f"held_out_bpb_{name}": nats / math.log(2) / size for name, nats, size in each}
        return figures

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
        several = [name for name in self._names if len(self._names) > 1]
        return {
            "parameters": num_parameters(model.config),
            "steps": self.num_steps,
            "tokens": self._timeline.num_tokens,
            "epochs": self._timeline.num_tokens / sum(corpus.num_tokens for corpus in self.corpora),
            "loss_start": curve.first("loss"),
            "loss": curve.tail_mean("loss"),
            "bits_per_byte_start": curve.first("held_out_bpb"),
            "bits_per_byte": curve.last("held_out_bpb"),
            **{f"bits_per_byte_{name}": curve.last(f"held_out_bpb_{name}") for name in several},
            **baseline_figures(self.corpora, self._tokenizer, self._config.ngram_bytes, self._config.seed),
            "held_out_bytes": sum(corpus.held_out.num_bytes for corpus in self.corpora),
            **self._read(),
            "tokens_per_s": tokens_per_s(out.logs / "metrics.jsonl"),
        }

    def _read(self) -> dict[str, Any]:
        """How often each source is read, over all and by phase, where there is more than one to tell apart."""
        tables = []
        totals = dict.fromkeys(self._names, 0.0)
        for phase, mixture in zip(self._timeline.phases, self._mixtures, strict=True):
            tokens = mixture.tokens(phase.num_tokens)
            epochs = {corpus.name: tokens.get(index, 0) / corpus.num_tokens for index, corpus in enumerate(self.corpora)}
            totals = {name: total + epochs[name] for name, total in totals.items()}
            steps = phase.last_step - phase.first_step
            tables.append(
                {"steps": steps, "tokens": phase.num_tokens, "sequence_length": phase.sequence_length, "epochs": epochs}
            )
        found: dict[str, Any] = {f"epochs_{name}": total for name, total in totals.items() if len(totals) > 1}
        return found | ({"phases": tables} if len(tables) > 1 else {})
