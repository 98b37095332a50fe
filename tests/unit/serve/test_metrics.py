"""Figures in Prometheus's format: from last events, and from engines when somebody asks."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from lianlu.engine.engine import Stats
from lianlu.engine.sequence import Event, Timings
from lianlu.serve.metrics import FIGURES, LATENCIES, Metrics

TIMES = Timings(queued_s=1, prefill_s=2, decode_s=4, preempted_s=0.5, total_s=7.5)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Name and label values, in the order of the labels' names, of every sample that is no bucket."""
    families = text_string_to_metric_families(metrics.text().decode())
    found = [sample for family in families for sample in family.samples if not sample.name.endswith(("_bucket", "_created"))]
    return {
        (sample.name.removeprefix("lianlu:"), *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for sample in found
    }


def test_the_last_event_fills_the_histograms() -> None:
    metrics = Metrics(dict)
    metrics.ended("m", Event(1, finish_reason="stop", prompt_tokens=10, cached_tokens=4, completion_tokens=5, timings=TIMES))
    found = samples(metrics)
    sums = {name: found[f"{name}_sum", "m"] for name in LATENCIES}
    assert sums == {
        "time_to_first_token_seconds": 3,
        "time_per_output_token_seconds": 1,
        "e2e_request_latency_seconds": 7.5,
        "request_queue_time_seconds": 1,
        "request_prefill_time_seconds": 2,
        "request_decode_time_seconds": 4,
        "request_prompt_tokens": 10,
        "request_generation_tokens": 5,
    }
    assert found["request_success_total", "stop", "m"] == 1
    assert (found["prefix_cache_queries_total", "m"], found["prefix_cache_hits_total", "m"]) == (10, 4)


def test_phases_that_were_never_reached_are_not_observed() -> None:
    metrics = Metrics(dict)
    metrics.ended("m", Event(1, finish_reason="cancelled", prompt_tokens=10, timings=Timings(queued_s=1, total_s=1)))
    metrics.ended("m", Event(1, finish_reason="error", prompt_tokens=10))
    metrics.ended("m", Event(1, finish_reason="length", completion_tokens=1, timings=TIMES))
    found = samples(metrics)
    assert found["e2e_request_latency_seconds_count", "m"] == 2
    assert found["time_to_first_token_seconds_count", "m"] == 1
    assert ("time_per_output_token_seconds_count", "m") not in found
    assert (found["requests_aborted_total", "m"], found["requests_failed_total", "m"]) == (1, 1)
    assert found["request_success_total", "length", "m"] == 1


def test_engines_are_read_when_somebody_asks() -> None:
    engines = {"a": Stats(num_running=3, used_blocks=5, total_blocks=10, generated_tokens=7)}
    metrics = Metrics(lambda: engines)
    found = samples(metrics)
    assert (found["num_requests_running", "a"], found["kv_cache_usage_perc", "a"]) == (3, 0.5)
    assert found["generation_tokens_total", "a"] == 7
    engines["b"] = Stats(num_queued=2, total_blocks=0)
    found = samples(metrics)
    assert (found["num_requests_waiting", "b"], found["kv_cache_usage_perc", "b"]) == (2, 0)
    del engines["a"]
    assert ("num_requests_running", "a") not in samples(metrics)


def test_two_servers_do_not_share_figures() -> None:
    first, second = Metrics(dict), Metrics(dict)
    first.rejected("overloaded")
    assert samples(first)["requests_rejected_total", "overloaded"] == 1
    assert ("requests_rejected_total", "overloaded") not in samples(second)


def test_clients_cannot_make_series() -> None:
    metrics = Metrics(dict)
    for method in ("GET", "BREW", "X" * 100):
        metrics.answered(method, "/v1/models/{name:path}", 200)
    assert samples(metrics)["http_requests_total", "/v1/models/{name:path}", "other", "200"] == 2


def test_each_figure_has_a_name_and_a_help_of_its_own() -> None:
    text = Metrics(dict).text().decode()
    for name in (*LATENCIES, *(figure.name for figure in FIGURES)):
        assert text.count(f"# HELP lianlu:{name}") >= 1
