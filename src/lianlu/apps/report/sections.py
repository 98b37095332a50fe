"""What the sections of the report show, read from the files of artifacts. A file that is not there makes no section."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lianlu.apps.report.curves import line_chart, read_metrics
from lianlu.apps.report.training import Training, read_training
from lianlu.core.store import Artifact

MAX_SAMPLES = 6


def _load(artifact: Artifact, file: str) -> Any:
    path = artifact.path / file
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        return None


def _of_kind(artifacts: Sequence[Artifact], kind: str) -> Iterator[Artifact]:
    return (artifact for artifact in artifacts if artifact.manifest.kind == kind)


def funnels(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Of every cleaned corpus: the steps with counts, and what each rule dropped, with samples."""
    found = []
    for artifact in _of_kind(artifacts, "documents"):
        funnel = _load(artifact, "funnel.json")
        if not funnel:
            continue
        steps = funnel["steps"]
        widest = max((step["bytes_in"] for step in steps), default=0) or 1
        found.append({"title": artifact.manifest.step, "steps": steps, "widest": widest})
    return found


def curves(artifacts: Sequence[Artifact]) -> list[tuple[str, str, str]]:
    """(title, SVG, note) of every trained model: loss, what was evaluated, and how it ran."""
    found: list[tuple[str, str, str]] = []
    for artifact in artifacts:
        training = read_training(artifact.path)
        if training is None or not training.series("loss"):
            continue
        step = artifact.manifest.step
        charts = [_loss_chart(artifact, training), *_held_out_charts(artifact, training), *_side_charts(training)]
        found.extend((f"{step}: {title}", svg, note) for title, svg, note in charts)
    return found


def _loss_chart(artifact: Artifact, training: Training) -> tuple[str, str, str]:
    spikes = training.spikes()
    lines = {
        "training loss": [point for point in training.series("loss") if point not in spikes],
        "held-out loss": training.series("held_out_loss"),
    }
    rate, phases = artifact.manifest.figures.get("tokens_per_s"), phase_starts(artifact.manifest.config, training)
    notes = [f"{rate:,.0f} tokens/s"] if isinstance(rate, int | float) else []
    notes += [f"spikes left out of the curve: steps {', '.join(f'{step:.0f}' for step, _ in spikes[:8])}"] if spikes else []
    notes += [f"phases begin at steps {', '.join(map(str, phases))}"] if phases else []
    edges = {f"phase {number}": float(step) for number, step in enumerate(phases, 2)}
    edges.update({f"spike {step:.0f}": step for step, _ in spikes[:8]})
    return "loss (nats per token)", line_chart(lines, "step", edges=edges), "; ".join(notes)


def phase_starts(config: dict[str, Any], training: Training) -> list[int]:
    """The first steps of the second phase and those after it, as their shares of the tokens put them."""
    phases, total = config.get("phases") or (), training.last_step
    usual = config.get("batch_tokens") or 1
    lengths = [phase["share"] / (phase.get("batch_tokens") or usual) for phase in phases]
    ends = [sum(lengths[: number + 1]) / sum(lengths) for number in range(len(lengths) - 1)]
    return [round(total * end) + 1 for end in ends]


def _held_out_charts(artifact: Artifact, training: Training) -> Iterator[tuple[str, str, str]]:
    figures = artifact.manifest.figures
    bits = training.series("held_out_bpb") or training.series("bits_per_byte")
    if bits:
        names = {"gzip": "gzip_bits_per_byte", "5-gram": "ngram_bits_per_byte"}
        marks = {name: float(figures[key]) for name, key in names.items() if isinstance(figures.get(key), int | float)}
        yield "held-out bits per byte", line_chart({"model": bits}, "step", marks), "lower is better"


def _side_charts(training: Training) -> Iterator[tuple[str, str, str]]:
    for name, title in (("lr", "learning rate"), ("grad_norm", "norm of the gradient"), ("tokens_per_s", "tokens a second")):
        points = training.series(name)
        if points:
            yield title, line_chart({name: points}, "step"), ""


def memory(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Planned beside measured peak memory, utilisation and waiting of every training run that noted them."""
    found = []
    for artifact in artifacts:
        figures = artifact.manifest.figures
        if "measured_memory_bytes" in figures:
            names = ("planned_memory_bytes", "measured_memory_bytes", "memory_error_percent", "mfu", "data_wait_share")
            found.append({"title": artifact.manifest.step, **{name: figures.get(name) for name in names}})
    return found


def samples(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Texts that models wrote while they were trained."""
    found = []
    for artifact in artifacts:
        rows = read_metrics(artifact.path / "samples.jsonl")
        if rows:
            found.append({"title": artifact.manifest.step, "rows": rows[-MAX_SAMPLES:]})
    return found


def cards(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Quality cards of quantised models."""
    found = []
    for artifact in artifacts:
        card = _load(artifact, "card.json")
        if card:
            found.append({"title": artifact.manifest.step, "rows": list(_flat(card))})
    return found


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def boards(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Leaderboards: for every task its main metric with intervals, the paired comparisons, and examples that changed."""
    found = []
    for artifact in _of_kind(artifacts, "leaderboard"):
        board = _load(artifact, "leaderboard.json")
        if not board:
            continue
        tasks = []
        for task, entry in board["tasks"].items():
            for metric, body in entry["metrics"].items():
                tasks.append({"task": task, "metric": metric, "main": metric == entry["main"], **body, "bars": _bars(body)})
        found.append({"title": artifact.manifest.step, "names": board["names"], "tasks": tasks})
    return found


def _bars(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Each value as shares of the widest interval end, for drawing."""
    ends = [row[key] for row in body["values"] for key in ("value", "high") if isinstance(row.get(key), int | float)]
    top = max([abs(end) for end in ends], default=0) or 1
    bars = []
    for row in body["values"]:
        value, low, high = (float(row.get(key) or 0) for key in ("value", "low", "high"))
        bars.append({**row, "share": max(value, 0) / top, "from": max(low, 0) / top, "to": max(high, 0) / top})
    return bars


def traces(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """What the served model was asked, and what the agent did step by step."""
    found = []
    for artifact in _of_kind(artifacts, "traces"):
        talk = _load(artifact, "traces.json")
        if not talk:
            continue
        tasks = [
            {**task, "steps": read_metrics(artifact.path / f"task-{number:03d}.jsonl")}
            for number, task in enumerate(talk["tasks"])
        ]
        timings = _load(artifact, "logs/timings.json") or []
        found.append({"title": artifact.manifest.step, "questions": talk["questions"], "tasks": tasks, "timings": timings})
    return found
