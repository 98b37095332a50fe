"""STAGE eval: put tasks to a model and write one log a task, and `scores.json` with intervals.

All items go through in groups of `max_concurrency`; a group is kept when it is complete, so that a killed run goes on at
the next group and ends in the same files. The model is loaded once for all tasks, and not at all when nothing is left to
ask. Rates and times are in `logs/metrics.jsonl`; logs and scores depend on model and tasks only.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lianlu.client.base import Client, Reply, Scored
from lianlu.core import console
from lianlu.core.config import Adapter, AnyArtifact, Checkpoint, Config, Conversations
from lianlu.core.errors import EngineError, MissingExtraError, RequestError
from lianlu.core.files import DigestCache, sha256_json, write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output, read_manifest
from lianlu.eval.metrics import metric_value, summarize_log
from lianlu.eval.sources import Sources
from lianlu.eval.store import ItemStore
from lianlu.eval.task import Item, Response, Task, replies_to
from lianlu.eval.task_tables import TaskTable, build_tasks, num_requests
from lianlu.formats.eval_log import EvalLog, Header, ModelRef, Sample, Tokens, write_log
from lianlu.formats.messages import Message
from lianlu.sandbox import run as sandbox

SECONDS_TO_LOAD, SECONDS_PER_SCORE, SECONDS_PER_REPLY = 5, 0.15, 0.5
RESUME = ".resume"


class EvalConfig(Config):
    """Which model answers which tasks."""

    model: Checkpoint
    """The model: a checkpoint, a GGUF file or a model name."""
    adapter: Adapter | None = None
    """An adapter laid on it."""
    data: Conversations | None = None
    """Held-out conversations, for the task docstrings."""
    benchmarks: AnyArtifact | None = None
    """A folder of public benchmarks (gsm8k/, humaneval/, mmlu/, needle/), used in place."""
    tasks: list[TaskTable] = Field(min_length=1)
    """The tasks, each a table with a kind: docstrings, arithmetic, needle, gsm8k, humaneval, mmlu."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Numbers the model computes in; auto takes bfloat16 where the processor has instructions for it."""
    seed: int = 0
    """Seed of generated items and of the bootstrap."""
    max_concurrency: int = Field(default=32, gt=0)
    """Items that are asked together; also what a killed run has to do again at most."""


@dataclass(frozen=True)
class Job:
    """A task with the header of its log and what is already done of it."""

    task: Task
    header: Header
    store: ItemStore
    groups: Sequence[Sequence[Item]]

    @property
    def todo(self) -> list[int]:
        return [number for number in range(len(self.groups)) if number not in self.store.groups]


def estimate(config: EvalConfig) -> Estimate:
    """From the number of requests, as far as the configuration tells it."""
    scored, written = (sum(column) for column in zip(*map(num_requests, config.tasks), strict=True))
    seconds = SECONDS_TO_LOAD + scored * SECONDS_PER_SCORE + written * SECONDS_PER_REPLY
    return Estimate(seconds, 1_500_000_000, f"{scored + written} requests to a small model on a CPU")


def run(config: EvalConfig, out: Output) -> None:
    """Evaluate; writes TASK.jsonl for each task and scores.json. Raises: ConfigError, DataError, RequestError."""
    sources = Sources(_path(config.data), _path(config.benchmarks), config.seed)
    tasks = build_tasks(config.tasks, sources)
    check_sandbox(tasks)
    model = model_ref(config, out.path / RESUME)
    jobs = [_job(task, config, model, out.path / RESUME) for task in tasks]

    @cache
    def client() -> Client:
        from lianlu.engine.connect import connect

        return connect(config.model, adapter=_path(config.adapter), precision=config.precision)

    try:
        evaluate(jobs, client, out)
    finally:
        if client.cache_info().currsize:
            client().close()
    finish(jobs, out, config.seed)


def check_sandbox(tasks: Sequence[Task]) -> None:
    """Raises: MissingExtraError if a task runs code and the sandbox does not work here."""
    names = [task.name for task in tasks if task.needs_sandbox]
    if names and (problem := sandbox.check()):
        raise MissingExtraError(f"{', '.join(names)}: code cannot be run here", hint=problem)


def evaluate(jobs: Sequence[Job], client: Callable[[], Client], out: Output) -> None:
    """Ask what has not been asked yet; `client` is called only if there is something to ask."""
    metrics = console.MetricsLog(out.logs / "metrics.jsonl")
    done = sum(len(job.store.samples()) for job in jobs)
    total = sum(len(job.task.items) for job in jobs)
    with console.progress("eval", total=total, unit="item", done=done) as bar:
        for job in jobs:
            for number in job.todo:
                began = time.monotonic()
                samples = _ask(client(), job.task, job.groups[number])
                job.store.add(number, samples)
                main = job.task.metrics[0]
                so_far = metric_value(main, job.store.samples())
                bar.advance(len(samples), task=job.task.name, score=so_far)
                metrics.write(**_rates(job.task.name, samples, time.monotonic() - began))


def finish(jobs: Sequence[Job], out: Output, seed: int) -> None:
    """Write the logs and the scores, and remove what was kept for a continuation."""
    scores: dict[str, Any] = {}
    for job in jobs:
        samples = job.store.samples()
        write_log(out.path / f"{job.task.name}.jsonl", job.header, samples)
        scores[job.task.name] = summarize_log(EvalLog(job.header, samples), seed)
        main = job.task.metrics[0].name
        out.figures[f"{job.task.name}.{main}"] = scores[job.task.name][main]["value"]
    write_json(out.path / "scores.json", scores)
    shutil.rmtree(out.path / RESUME, ignore_errors=True)


def model_ref(config: EvalConfig, scratch: Path) -> ModelRef:
    """The model by the digests of its contents, wherever it lies."""
    adapter = content_digest(Path(config.adapter), scratch) if config.adapter else ""
    return ModelRef(digest=content_digest(Path(config.model), scratch), adapter_digest=adapter)


def content_digest(path: Path, scratch: Path) -> str:
    """Digest of an artifact as its manifest says, or of a file or folder by reading it."""
    if (path / "manifest.json").is_file():
        return read_manifest(path).digest
    return DigestCache(scratch / "digests.json").tree(path)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _job(task: Task, config: EvalConfig, model: ModelRef, scratch: Path) -> Job:
    header = Header(
        task=task.name,
        model=model,
        dataset=task.dataset,
        dataset_hash=task.dataset_hash(),
        protocol=dict(task.protocol),
        protocol_hash=task.protocol_hash(),
        metrics=list(task.metrics),
        settings={"precision": config.precision, "max_concurrency": config.max_concurrency, "seed": config.seed},
        num_samples=len(task.items),
    )
    size = config.max_concurrency
    groups = [task.items[start : start + size] for start in range(0, len(task.items), size)]
    return Job(task, header, ItemStore(scratch / f"{task.name}.jsonl", sha256_json(header.model_dump())), groups)


def _ask(client: Client, task: Task, items: Sequence[Item]) -> list[Sample]:
    try:
        replies = replies_to(client, task, items)
    except RequestError as error:
        where = f"task {task.name}, items {items[0].id} to {items[-1].id}"
        raise RequestError(f"{where}: {error.message}", hint=error.hint, status=error.status) from error
    return [_sample(task, item, responses) for item, responses in zip(items, replies, strict=True)]


def _sample(task: Task, item: Item, responses: Sequence[Response]) -> Sample:
    if not responses:
        raise EngineError(f"task {task.name}: no reply to item {item.id}")
    found = task.score(item, responses)
    texts = [response for response in responses if isinstance(response, Reply)]
    return Sample(
        id=item.id,
        cluster=item.cluster,
        input=item.input,
        target=item.target,
        outputs=[_shown(reply.message) for reply in texts],
        logprobs=[response.logprob for response in responses if isinstance(response, Scored)],
        extracted=list(found.extracted),
        scores=dict(found.values),
        weights=dict(found.weights),
        tokens=Tokens(
            prompt=sum(reply.prompt_tokens for reply in texts), completion=sum(reply.completion_tokens for reply in texts)
        ),
        note=found.note,
    )


def _shown(message: Message) -> str:
    """A message as text: its content, the calls it makes, and who spoke if it was not the model."""
    calls = [f"[call] {call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in message.tool_calls]
    said = message.content if message.role == "assistant" else f"[{message.role}] {message.content}"
    return "\n".join(part for part in (said, *calls) if part).encode("utf-8", "replace").decode()


def _rates(task: str, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    written = sum(sample.tokens.completion for sample in samples)
    rates = {"items_per_s": len(samples) / seconds, "tokens_per_s": written / seconds}
    return {"task": task, "items": len(samples), "seconds": seconds, **rates}
