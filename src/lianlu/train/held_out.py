"""Loss on text that is not trained on: summed nats over packed segments, computed by all processes together."""

from __future__ import annotations

from collections.abc import Sequence

from lianlu.model.decoder import Decoder
from lianlu.train.packing import Segment, pack, packed_loss
from lianlu.train.parallel.layout import Layout
from lianlu.train.share import deal


def held_out_nats(model: Decoder, segments: Sequence[Segment], max_tokens: int, layout: Layout) -> tuple[float, int]:
    """Summed cross-entropy in nats over the targets of `segments`, and their number; call it without gradients."""
    shares = deal([segment.num_tokens for segment in segments], layout.num_data, max_tokens)
    batches = [pack([segments[index] for index in part]) for part in shares[layout.data_rank]]
    return layout.evaluate(model, batches, packed_loss), sum(segment.num_targets for segment in segments)
