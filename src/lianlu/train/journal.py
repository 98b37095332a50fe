"""What a run writes down as it goes: losses.jsonl, samples.jsonl and logs/metrics.jsonl, TensorBoard events, the live line.

losses.jsonl and samples.jsonl are functions of configuration and data alone, equal in every run; rates, utilisation, times
and memory are in metrics.jsonl; logs/run.json says how long the run is and what it was planned with, for those who look at
it from outside (`lianlu show`). Of several processes only the main one writes.

metrics.jsonl, one line a step: step, loss, grad_norm, lr (and spike); tokens, tokens_per_s, seconds of the step, wait_s for
its data and that as a share of both; mfu; memory_bytes now and peak_memory_bytes so far. And one line an evaluation: step and
the held-out figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core import console
from lianlu.core.console import Bar, MetricsLog, format_bytes
from lianlu.core.files import write_json
from lianlu.core.store import Output
from lianlu.train.config import TrainConfig
from lianlu.train.curve import median, read_curve, share
from lianlu.train.meter import Meter
from lianlu.train.parallel.layout import Layout
from lianlu.train.tensorboard import Events

RUN = "run.json"
SHOWN_TEXT = 100


@dataclass(frozen=True)
class StepWork:
    """What a step was: the lengths of all its sequences, targets, seconds of computing and of waiting for its data."""

    lengths: Sequence[int]
    num_targets: int
    seconds: float
    wait_s: float

    @property
    def num_tokens(self) -> int:
        """Tokens of all processes."""
        return sum(self.lengths)


class Journal:
    """The logs of one run."""

    def __init__(self, out: Output, config: TrainConfig, layout: Layout, meter: Meter) -> None:
        self.paths: tuple[Path, ...] = (out.path / "losses.jsonl", out.path / "samples.jsonl", out.logs / "metrics.jsonl")
        self._losses, self._samples, self._metrics = (MetricsLog(path) for path in self.paths)
        self._out, self._meter = out, meter
        self._writes = layout.is_main
        self._wants_events = config.tensorboard and layout.is_main
        self._events: Events | None = None

    def begin(self, step: int, num_steps: int) -> None:
        """The run starts after `step` steps. Raises: MissingExtraError if TensorBoard is wanted and not installed."""
        told = self._meter.begin() if self._writes else ""
        if self._wants_events:
            self._events = Events(self._out.logs / "tensorboard", step)
        if not self._writes:
            return
        if told:
            console.info(f"  {told}")
        planned = self._out.figures.get("planned_memory_bytes")
        write_json(self._out.logs / RUN, {"num_steps": num_steps, "planned_memory_bytes": planned, "utilisation": told})

    def steps(self) -> list[dict[str, Any]]:
        """Records of the steps logged so far."""
        return [record for record in read_curve(self.paths[0]).records if "loss" in record]

    def step(self, step: int, figures: Mapping[str, Any], work: StepWork, bar: Bar) -> None:
        """Note a step, counted from 1."""
        if not self._writes:
            return
        self._losses.write(step=step, **figures)
        measured = self._measured(work)
        self._metrics.write(step=step, **figures, **measured)
        if self._events:
            self._events.scalars(step, {**figures, **measured})
        shown = {"loss": figures["loss"], "tokens/s": measured["tokens_per_s"]}
        if "mfu" in measured:
            shown["MFU"] = f"{measured['mfu']:.1%}"
        bar.advance(1, **shown, memory=format_bytes(measured["memory_bytes"]))

    def _measured(self, work: StepWork) -> dict[str, Any]:
        whole_s = work.seconds + work.wait_s
        found = {
            "tokens": work.num_tokens,
            "tokens_per_s": work.num_tokens / whole_s,
            "seconds": work.seconds,
            "wait_s": work.wait_s,
            "wait_share": work.wait_s / whole_s,
            "memory_bytes": self._meter.memory_bytes(),
            "peak_memory_bytes": self._meter.peak_memory_bytes(),
        }
        mfu = self._meter.mfu(work.lengths, work.num_targets, whole_s)
        return found if mfu is None else {**found, "mfu": mfu}

    def figures(self, step: int, figures: Mapping[str, float], bar: Bar) -> None:
        """Note what was evaluated after `step` steps."""
        if not self._writes:
            return
        self._losses.write(step=step, **figures)
        self._metrics.write(step=step, **figures)
        if self._events:
            self._events.scalars(step, figures)
        bar.advance(0, **figures)
        console.info(f"  step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    def samples(self, step: int, samples: Iterable[Mapping[str, Any]]) -> None:
        """Note text samples, the last of them in a line on the console. Every process has to ask for them."""
        rows = list(samples)
        if not self._writes:
            return
        for number, row in enumerate(rows):
            self._samples.write(step=step, **row)
            if self._events:
                self._events.text(step, number, f"{row.get('prompt', '')}\n\n{row.get('text', '')}")
        if rows:
            console.info(f"  step {step}: {one_line(rows[-1])}")

    def finish(self) -> None:
        """The last step is done: tell, and put among the figures, what the run took and what it was planned with."""
        if not self._writes:
            return
        metrics, took = read_curve(self.paths[2]), self._meter.peak_memory_bytes()
        waited = share(metrics, "wait_s", ("seconds", "wait_s"))
        self._out.figures.update(data_wait_share=waited, measured_memory_bytes=took)
        told = [f"memory {format_bytes(took)} at most", f"{waited:.1%} of the time spent waiting for data"]
        if metrics.values("mfu"):
            self._out.figures["mfu"] = median(metrics, "mfu")
            told.append(f"MFU {self._out.figures['mfu']:.1%}")
        if planned := self._out.figures.get("planned_memory_bytes"):
            error = 100 * (planned - took) / took
            self._out.figures["memory_error_percent"] = error
            told[0] += f", {format_bytes(planned)} planned ({error:+.1f} %)"
        console.info("  " + "; ".join(told))

    def close(self) -> None:
        """Nothing more will come."""
        if self._events:
            self._events.close()


def one_line(sample: Mapping[str, Any]) -> str:
    """A text sample for the console: prompt and text, line ends shown, cut."""
    prompt, text = (" ".join(str(sample.get(name, "")).split()) for name in ("prompt", "text"))
    prompt = prompt if len(prompt) <= SHOWN_TEXT // 2 else "..." + prompt[-SHOWN_TEXT // 2 :]
    text = text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "..."
    return f"{prompt!r} -> {text!r}"
