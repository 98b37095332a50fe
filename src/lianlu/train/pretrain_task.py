"""What pretraining hands to the loop: packed documents of the phase, held-out bits per byte, text samples, and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lianlu.core import console
from lianlu.core.store import Output
from lianlu.formats.shard_index import origins
from lianlu.model.config import ModelConfig, num_parameters
from lianlu.model.decoder import Decoder
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.baselines import baseline_figures
from lianlu.train.curve import read_curve, tokens_per_s
from lianlu.train.generate import generate
from lianlu.train.held_out import held_out_nats
from lianlu.train.mix import Mixture, mixtures
from lianlu.train.packing import Packed, Segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.portions import capped_weights, describe, shares
from lianlu.train.precision import mixed
from lianlu.train.pretrain import PretrainConfig, portions_of
from lianlu.train.sources import judged_text, open_corpora, portion_sources
from lianlu.train.stream import Source, document_segments

SAMPLE_TEMPERATURES = (0.0, 0.8)


class PretrainTask:
    """A pretraining run over the shards of `config`. Raises: DataError if there is nothing to train or evaluate on."""

    def __init__(self, config: PretrainConfig, tokenizer: Tokenizer, layout: Layout) -> None:
        self._config, self._tokenizer, self._layout = config, tokenizer, layout
        self.corpora = open_corpora(config.folders, config.names, 0 if config.held_out else config.held_out_tokens)
        self._timeline = config.timeline
        self._names = [corpus.name for corpus in self.corpora]
        sources = [corpus.train for corpus in self.corpora]
        self._portions = portions_of(config) if config.is_portioned else []
        self._mixtures, notes = self._mixed(sources)
        for note in notes if layout.is_main else ():
            console.warn(note)
        judged = judged_text(config.held_out, config.held_out_tokens, self.corpora[0]) if config.held_out else None
        self._held_out = [judged] if judged else [corpus.held_out for corpus in self.corpora]
        self._judged = [text.segments(self._timeline.shortest) for text in self._held_out]
        self._firsts = np.array([source.first_document for source in sources])
        self._separator = sources[0].separator
        self._plain: ModelConfig | None = None
        self.vocab_size = sources[0].shard.vocab_size
        self.num_steps = self._timeline.num_steps
        self._most_tokens = min(config.micro_tokens, max(phase.batch_tokens for phase in self._timeline.phases))

    def _mixed(self, sources: list[Source]) -> tuple[list[Mixture], list[str]]:
        """The mixture of each phase, of the sources or of their portions, and warnings about them."""
        phases, seed = self._timeline.phases, self._config.seed
        if not self._portions:
            return mixtures(sources, self._names, phases, seed)
        if self._layout.is_main:
            for share in shares(self._portions, phases):
                console.info(f"      {describe(share, self._timeline.num_tokens)}")
        own, weights = portion_sources(self.corpora, self._portions), capped_weights(self._portions, phases)
        return mixtures(own, [portion.name for portion in self._portions], phases, seed, weights)

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
        sums = [held_out_nats(model, own, self._most_tokens, self._layout)[0] for own in self._judged]
        sizes = [text.num_bytes for text in self._held_out]
        figures = {"held_out_bpb": sum(sums) / math.log(2) / sum(sizes)}
        if len(sums) > 1:
            each = zip(self._names, sums, sizes, strict=True)
            figures |= {f"held_out_bpb_{name}": nats / math.log(2) / size for name, nats, size in each}
        return figures

    def judged(self, model: Decoder) -> list[dict[str, Any]]:
        """Bits and bytes of each document of the text that `held_out` names; nothing where it names none."""
        if not self._config.held_out:
            return []
        (text,) = self._held_out
        model.eval()
        rows, wanted = [], set(text.documents)
        with torch.no_grad(), mixed(self._layout.dtype, self._layout.device):
            for number, origin in enumerate(origins(text.shard)):
                if number in wanted:
                    pieces = document_segments(text.shard, [number], text.separator, self._timeline.shortest)
                    nats, _ = held_out_nats(model, pieces, self._most_tokens, self._layout)
                    size = int(text.shard.text_bytes[number])
                    rows.append({"id": origin.id, "source": origin.source, "bytes": size, "bits": nats / math.log(2)})
        return rows

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
        several = [name for name in self._names if len(self._held_out) > 1]
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
            **self._baselines(),
            "held_out_bytes": sum(text.num_bytes for text in self._held_out),
            **self._read(),
            "tokens_per_s": tokens_per_s(out.logs / "metrics.jsonl"),
        }

    def _baselines(self) -> dict[str, float]:
        """Of the sources' own held-out text; another text has none to be compared with."""
        if self._config.held_out:
            return {}
        return baseline_figures(self.corpora, self._tokenizer, self._config.ngram_bytes, self._config.seed)

    def _read(self) -> dict[str, Any]:
        """How often each source or portion is read, over all and by phase, where there is more than one to tell apart."""
        tables = []
        own = [(portion.name, portion.num_tokens) for portion in self._portions]
        sizes = own or [(corpus.name, corpus.num_tokens) for corpus in self.corpora]
        totals = dict.fromkeys((name for name, _ in sizes), 0.0)
        for phase, mixture in zip(self._timeline.phases, self._mixtures, strict=True):
            tokens = mixture.tokens(phase.num_tokens)
            epochs = {name: tokens.get(index, 0) / size for index, (name, size) in enumerate(sizes)}
            totals = {name: total + epochs[name] for name, total in totals.items()}
            steps = phase.last_step - phase.first_step
            tables.append(
                {"steps": steps, "tokens": phase.num_tokens, "sequence_length": phase.sequence_length, "epochs": epochs}
            )
        found: dict[str, Any] = {f"epochs_{name}": total for name, total in totals.items() if len(totals) > 1}
        if self._portions:
            given = shares(self._portions, self._timeline.phases)
            found["shares"] = {share.portion.name: share.tokens / self._timeline.num_tokens for share in given}
        return found | ({"phases": tables} if len(tables) > 1 else {})
