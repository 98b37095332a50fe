"""Packing: what is in a batch, and that loss and gradient do not depend on how sequences are put together."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.kernels.cross_entropy import IGNORE
from lianlu.model.decoder import Decoder
from lianlu.train.packing import Segment, answer_segment, best_fit, pack, packed_loss


def test_a_batch_is_its_segments_one_behind_the_other() -> None:
    batch = pack([Segment(np.array([5, 6]), np.array([6, 7])), Segment(np.array([8]), np.array([IGNORE]))])
    assert batch.input_ids[:3].tolist() == [5, 6, 8]
    assert batch.targets.tolist() == [6, 7, IGNORE] + [IGNORE] * 13
    assert batch.positions.tolist() == [0, 1, 0, *range(13)]
    assert batch.lengths.tolist() == [2, 2, 1] + [13] * 13
    assert batch.attend.boundaries == [0, 2, 3, 16]
    assert batch.num_tokens == 16


def test_batches_come_in_few_sizes() -> None:
    sizes = {n: pack([Segment(np.ones(n, np.int64), np.ones(n, np.int64))]).num_tokens for n in range(1, 3000)}
    assert all(0 <= size - n < 64 for n, size in sizes.items())
    assert len(set(sizes.values())) == 1024 // 16 + (3008 - 1024) // 64


def test_only_marked_tokens_are_targets_and_nothing_is_computed_after_the_last() -> None:
    segment = answer_segment([10, 11, 12, 13, 14, 15], [False, False, True, True, False, False])
    assert (segment.num_tokens, segment.num_targets) == (3, 2)
    assert segment.inputs.tolist() == [10, 11, 12]
    assert segment.targets.tolist() == [IGNORE, 12, 13]


def test_a_mark_on_the_first_token_cannot_be_a_target() -> None:
    assert answer_segment([10, 11], [True, False]).num_tokens == 0


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 40))
def test_best_fit_keeps_everything_once_and_the_capacity(lengths: list[int], capacity: int) -> None:
    bins = best_fit(lengths, capacity)
    assert sorted(index for chosen in bins for index in chosen) == list(range(len(lengths)))
    for chosen in bins:
        assert len(chosen) == 1 or sum(lengths[index] for index in chosen) <= capacity
    if max(lengths, default=0) <= capacity:
        # any two bins together are more than full, or they would have been one
        sums = sorted(sum(lengths[index] for index in chosen) for chosen in bins)
        assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_best_fit_takes_the_tightest_place() -> None:
    assert best_fit([6, 8, 2, 4], 10) == [[0, 3], [1, 2]]


def loss_and_gradients(model: Decoder, groups: list[list[Segment]]) -> tuple[float, int, list[torch.Tensor]]:
    model.zero_grad()
    total, count = 0.0, 0
    for group in groups:
        loss = packed_loss(model, pack(group))
        loss.backward()
        total += float(loss.detach())
        count += sum(segment.num_targets for segment in group)
    return total, count, [p.grad.clone() for p in model.parameters()]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_loss_and_gradient_do_not_depend_on_the_split(data: st.DataObject, nano_model: Decoder) -> None:
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=8))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    segments = []
    for length in lengths:
        targets = rng.integers(0, 300, length)
        targets[rng.random(length) < 0.3] = IGNORE
        segments.append(Segment(rng.integers(0, 300, length), targets))
    order = data.draw(st.permutations(range(len(segments))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(segments) - 1))))
    groups = [[segments[i] for i in order[a:b]] for a, b in zip([0, *cuts], [*cuts, len(segments)], strict=True)]
    loss, count, gradients = loss_and_gradients(nano_model, groups)
    alone = loss_and_gradients(nano_model, [[segment] for segment in segments])
    assert count == alone[1] == sum(int((s.targets != IGNORE).sum()) for s in segments)
    assert abs(loss - alone[0]) <= 1e-6 * max(abs(alone[0]), 1e-9)
    whole = torch.cat([g.flatten() for g in gradients])
    wanted = torch.cat([g.flatten() for g in alone[2]])
    assert float((whole - wanted).norm()) <= 1e-6 * float(wanted.norm())


def test_nothing_becomes_one_token_without_a_target(nano_model: Decoder) -> None:
    nano_model.zero_grad()
    loss = packed_loss(nano_model, pack([]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(p.grad.abs().max()) == 0 for p in nano_model.parameters())


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 40))
def test_best_fit_leaves_the_least_room_at_every_item(lengths: list[int], capacity: int) -> None:
    rooms: list[int] = []
    for length in lengths:
        fitting = [room for room in rooms if room >= length]
        room = min(fitting, default=max(capacity, length))
        if fitting:
            rooms.remove(room)
        rooms += [room - length] if room > length else []
    bins = best_fit(lengths, capacity)
    sums = [sum(lengths[index] for index in chosen) for chosen in bins]
    left = [max(capacity, *(lengths[index] for index in chosen)) - total for chosen, total in zip(bins, sums, strict=True)]
    assert sorted(room for room in left if room) == sorted(rooms)
