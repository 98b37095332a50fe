"""Loss on text that is not trained on: summed nats over packed segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lianlu.model.decoder import Decoder
from lianlu.train.packing import Segment, pack, packed_loss


def held_out_nats(model: Decoder, segments: Sequence[Segment], batch_tokens: int) -> tuple[float, int]:
    """Summed cross-entropy in nats over the targets of `segments`, and their number; call it without gradients."""
    nats, count = 0.0, 0
    for group in _groups(segments, batch_tokens):
        total, targets = packed_loss(model, pack(group))
        nats += float(total)
        count += targets
    return nats, count


def _groups(segments: Sequence[Segment], batch_tokens: int) -> Iterator[list[Segment]]:
    """Neighbours up to `batch_tokens` together; a longer segment goes alone."""
    group: list[Segment] = []
    size = 0
    for segment in segments:
        if group and size + len(segment[0]) > batch_tokens:
            yield group
            group, size = [], 0
        group.append(segment)
        size += len(segment[0])
    if group:
        yield group
