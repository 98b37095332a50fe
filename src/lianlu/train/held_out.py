"""Loss on text that is not trained on: summed nats over packed segments."""

from __future__ import annotations

from collections.abc import Sequence

from lianlu.model.decoder import Decoder
from lianlu.train.packing import Segment, in_groups, pack, packed_loss


def held_out_nats(model: Decoder, segments: Sequence[Segment], batch_tokens: int) -> tuple[float, int]:
    """Summed cross-entropy in nats over the targets of `segments`, and their number; call it without gradients."""
    nats, count = 0.0, 0
    for group in in_groups(segments, batch_tokens):
        total, targets = packed_loss(model, pack(group))
        nats += float(total)
        count += targets
    return nats, count
