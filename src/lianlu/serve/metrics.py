"""Figures for Prometheus: GET /metrics, with vLLM's names under the prefix `lianlu:`.

Nothing is counted per token. Counters of engines (tokens, preemptions, blocks) are read from their statistics when somebody
asks; latencies and ends of requests are taken from the last event of each sequence, with the engine's own clock. Every
server has a registry of its own. Counters of a model begin anew when it is loaded again, as Prometheus expects of a
restart. Source: vLLM's documentation of production metrics; the text format is prometheus_client's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lianlu.engine.engine import Stats
from lianlu.engine.sequence import Event

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MODEL = "model_name"

LATENCIES = {
    "time_to_first_token_seconds": ("From the arrival at the engine to the first token.", SECONDS),
    "time_per_output_token_seconds": ("Mean time between two tokens of one reply.", TOKEN_SECONDS),
    "e2e_request_latency_seconds": ("From the arrival at the engine to the end.", SECONDS),
    "request_queue_time_seconds": ("Waiting for a place.", SECONDS),
    "request_prefill_time_seconds": ("From the place to the first token.", SECONDS),
    "request_decode_time_seconds": ("From the first token to the end.", SECONDS),
    "request_prompt_tokens": ("Tokens of the prompt.", TOKENS),
    "request_generation_tokens": ("Tokens of the reply.", TOKENS),
}


def _usage(stats: Stats) -> float:
    return stats.used_blocks / max(stats.total_blocks, 1)


@dataclass(frozen=True)
class Figure:
    """A figure that is read from an engine's statistics when somebody asks."""

    name: str
    help: str
    value: Callable[[Stats], float]
    counts: bool = True
    """Whether it only grows (a counter), else it is how things stand (a gauge)."""


FIGURES = (
    Figure("num_requests_running", "Sequences that are being computed.", lambda stats: stats.num_running, counts=False),
    Figure("num_requests_waiting", "Sequences that wait for a place.", lambda stats: stats.num_queued, counts=False),
    Figure("kv_cache_usage_perc", "Share of the blocks that are in use, 0 to 1.", _usage, counts=False),
    Figure("num_preemptions", "Sequences that were set aside for want of blocks.", lambda stats: stats.num_preempted),
    Figure("prompt_tokens", "Tokens of prompts that arrived.", lambda stats: stats.prompt_tokens),
    Figure("generation_tokens", "Tokens that were generated.", lambda stats: stats.generated_tokens),
    Figure("spec_decode_num_draft_tokens", "Tokens that were proposed ahead.", lambda stats: stats.drafted_tokens),
    Figure("spec_decode_num_accepted_tokens", "Proposed tokens that stood.", lambda stats: stats.accepted_tokens),
    Figure("iterations", "Steps of the engine.", lambda stats: stats.num_steps),
)


class Metrics:
    """The figures of one server; `engines` gives the statistics of every loaded model by its name."""

    def __init__(self, engines: Callable[[], Mapping[str, Stats]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Scrape(engines))
        self._latencies = {
            name: Histogram(f"lianlu:{name}", text, [MODEL], buckets=buckets, registry=self._registry)
            for name, (text, buckets) in LATENCIES.items()
        }
        self._ended = self._counter("request_success", "Sequences that ended well.", MODEL, "finished_reason")
        self._aborted = self._counter("requests_aborted", "Sequences that were given up before their end.", MODEL)
        self._failed = self._counter("requests_failed", "Sequences that ended with an error.", MODEL)
        self._queries = self._counter("prefix_cache_queries", "Prompt tokens that were looked for in the prefix cache.", MODEL)
        self._hits = self._counter("prefix_cache_hits", "Prompt tokens that were found in the prefix cache.", MODEL)
        self._rejected = self._counter("requests_rejected", "Requests that were refused.", "reason")
        self._http = self._counter("http_requests", "HTTP requests by route and status.", "method", "handler", "status")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lianlu:{name}", text, labels, registry=self._registry)

    def ended(self, model: str, event: Event) -> None:
        """Take in the last event of a sequence."""
        if event.finish_reason == "cancelled":
            self._aborted.labels(model).inc()
        elif event.finish_reason == "error":
            self._failed.labels(model).inc()
        else:
            self._ended.labels(model, event.finish_reason or "stop").inc()
        self._queries.labels(model).inc(event.prompt_tokens)
        self._hits.labels(model).inc(event.cached_tokens)
        for name, value in _observed(event).items():
            self._latencies[name].labels(model).observe(value)

    def rejected(self, reason: str) -> None:
        """Take in a request that was refused; `reason` is out of a small set (`failures.reason_of`)."""
        self._rejected.labels(reason).inc()

    def answered(self, method: str, handler: str, status: int) -> None:
        """Take in an HTTP exchange; `handler` is the pattern of its route, so that paths cannot make series."""
        self._http.labels(method if method in METHODS else "other", handler, str(status)).inc()

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)


def _observed(event: Event) -> dict[str, float]:
    """What the last event of a sequence says about its times; nothing of phases that it never reached."""
    found: dict[str, float] = {"request_prompt_tokens": event.prompt_tokens, "request_generation_tokens": event.completion_tokens}
    times = event.timings
    if times is None:
        return found
    found |= {"e2e_request_latency_seconds": times.total_s, "request_queue_time_seconds": times.queued_s}
    if event.completion_tokens:
        found["time_to_first_token_seconds"] = times.first_token_s
        found["request_prefill_time_seconds"] = times.prefill_s
        found["request_decode_time_seconds"] = times.decode_s
    if event.completion_tokens > 1:
        found["time_per_output_token_seconds"] = times.decode_s / (event.completion_tokens - 1)
    return found


class _Scrape(Collector):
    """The figures of the engines at the moment of asking."""

    def __init__(self, engines: Callable[[], Mapping[str, Stats]]) -> None:
        self._engines = engines

    def describe(self) -> Iterable[Metric]:
        """The names alone, so that nobody asks the engines when this is registered."""
        return (_family(figure) for figure in FIGURES)

    def collect(self) -> Iterator[Metric]:
        """One family per figure, one sample per model."""
        engines = self._engines()
        for figure in FIGURES:
            family = _family(figure)
            for model, stats in engines.items():
                family.add_metric([model], figure.value(stats))
            yield family


def _family(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
    return kind(f"lianlu:{figure.name}", figure.help, labels=[MODEL])
