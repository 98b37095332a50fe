"""A run that was killed continues to the same bits under each optimiser, whatever its states are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lianlu.core.store import Output
from lianlu.train.loop import Loop
from lianlu.train.pretrain import PretrainConfig, run

RULES = [{"match": "norm", "lr": 0.5}, {"match": "embed", "weight_decay": 0.0}]


class Killed(BaseException):
    """Stands for the signal."""


@pytest.mark.parametrize(
    "optim",
    [
        {"kind": "adamw", "groups": RULES},
        {"kind": "adamw8", "embedding_bits": 8, "groups": RULES},
        {"kind": "muon", "adamw_lr": 3e-3, "groups": RULES},
    ],
    ids=lambda optim: optim["kind"],
)
def test_a_killed_run_continues_to_the_same_bits(
    optim: dict[str, Any],
    pretrain_config: Callable[..., PretrainConfig],
    new_output: Callable[[str], Output],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = pretrain_config(optim={"lr": 1e-2, **optim}, steps=7, checkpoint={"every": 2}, sample_tokens=0)
    whole, broken = new_output("whole"), new_output("broken")
    run(config, whole)
    step = Loop._step

    def killed(self: Any, number: int, *rest: Any) -> None:
        if number == 5:
            raise Killed
        step(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", killed)
        with pytest.raises(Killed):
            run(config, broken)
    run(config, broken)
    for name in ("model.safetensors", "losses.jsonl"):
        assert (broken.path / name).read_bytes() == (whole.path / name).read_bytes()
