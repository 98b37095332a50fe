"""The server as those see it who run it: figures, why, models and adapters that come and go."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lianlu.core.errors import ConfigError
from lianlu.serve.main import running_server

from .conftest import client_of, recite

pytestmark = pytest.mark.e2e

ADMIN = {"Authorization": "Bearer boss"}
Idle = Callable[[str], bool]


@pytest.fixture(scope="module")
def served(reciter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with an admin, and named sessions."""
    folder = tmp_path_factory.mktemp("sessions")
    engine = {"sessions": folder, "max_running": 4, "max_queued": 4}
    with running_server(reciter, name="reciter", admin_key="boss", engine=engine) as url:
        yield url


@pytest.fixture(scope="module")
def adapter(reciter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter under which the reciter forgets the alphabet."""
    import torch

    from lianlu.model.load import load_model
    from lianlu.model.lora import add_lora, save_adapter
    from lianlu.model.lora_spec import LoraSpec

    model = load_model(reciter)
    add_lora(model, LoraSpec(rank=4, alpha=64, target=("gate_proj", "up_proj", "down_proj")), seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 1, generator=generator)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, folder, "reciter")
    return folder


def samples(url: str, headers: dict[str, str] | None = None) -> dict[str, float]:
    """Every sample of /metrics that has no bucket, by its name and labels as they are written."""
    response = httpx.get(f"{url}/metrics", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()) if key != "le")
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_figures(served: str, soon_idle: Idle) -> None:
    assert soon_idle(served)
    before = samples(served)
    with client_of(served) as client:
        recite(client, prompt="abc", max_tokens=7)
        with pytest.raises(openai.BadRequestError):
            recite(client, temperature=9)
        stream = recite(client, max_tokens=4000, stream=True)
        next(iter(stream))
        assert samples(served)["lianlu:num_requests_running{model_name=reciter}"] == 1
        stream.close()
    assert soon_idle(served)
    after = samples(served)

    def grown(name: str, **labels: str) -> float:
        key = f"{name}{{{','.join(f'{k}={v}' for k, v in sorted(labels.items()))}}}"
        return after.get(key, 0.0) - before.get(key, 0.0)

    model = {"model_name": "reciter"}
    assert grown("lianlu:request_success_total", finished_reason="length", **model) == 1
    assert grown("lianlu:requests_aborted_total", **model) == 1
    assert grown("lianlu:prompt_tokens_total", **model) == 5
    assert grown("lianlu:generation_tokens_total", **model) > 7
    assert grown("lianlu:requests_rejected_total", reason="invalid_value") == 1
    assert grown("lianlu:http_requests_total", method="POST", handler="/v1/completions", status="200") == 2
    assert grown("lianlu:http_requests_total", method="POST", handler="/v1/completions", status="400") == 1
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert grown(f"lianlu:{name}_count", **model) == 2
    assert grown("lianlu:request_generation_tokens_sum", **model) > 7
    assert after["lianlu:num_requests_running{model_name=reciter}"] == 0
    assert after["lianlu:kv_cache_usage_perc{model_name=reciter}"] == 0


def test_why(served: str) -> None:
    with client_of(served) as client:
        reply = recite(client, max_tokens=40, n=2)
    known = httpx.get(f"{served}/debug/why/{reply.id}").json()
    assert (known["model"], known["state"], known["status"]) == ("reciter", "finished", 200)
    assert [each["completion_tokens"] for each in known["sequences"]] == [40, 40]
    first = known["sequences"][0]
    parts = first["queued_s"] + first["prefill_s"] + first["decode_s"] + first["preempted_s"]
    assert parts == pytest.approx(first["total_s"], abs=1e-3)
    assert known["http_s"] >= first["total_s"] - 1e-3
    assert re.search(r"\(\d.* of \d.*\)$", known["sentence"])
    text = httpx.get(f"{served}/debug/why/{reply.id}?format=text").text
    assert text.startswith(f"{reply.id}: {known['sentence']}")
    assert reply.id in [each["id"] for each in httpx.get(f"{served}/debug/why").json()["data"]]
    assert httpx.get(f"{served}/debug/why/nothing").status_code == 404


def test_why_says_who_stood_in_the_queue(served: str, soon_idle: Idle) -> None:
    """Eight sequences in four places: the last ones wait, and are told so."""
    with client_of(served) as client:
        stream = recite(client, n=4, max_tokens=200, stream=True)
        next(iter(stream))
        late = recite(client, max_tokens=1)
        stream.close()
    assert soon_idle(served)
    assert httpx.get(f"{served}/debug/why/{late.id}").json()["sentence"].startswith("waited behind 4 requests")


def post(url: str, route: str, **body: Any) -> httpx.Response:
    return httpx.post(url + route, json=body, headers=ADMIN, timeout=60)


def test_only_the_admin_changes_what_is_served(served: str, url: str) -> None:
    for path in (
        "/admin/models/load",
        "/admin/models/unload",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
    ):
        for server, hint in ((served, "send the admin key"), (url, "--admin-key")):
            response = httpx.post(server + path, json={"name": "x"})
            assert response.status_code == 403
            assert hint in response.json()["error"]["message"]


class Traffic:
    """Clients that never stop asking; every answer is checked."""

    def __init__(self, url: str) -> None:
        self._url, self._over, self.num_done = url, threading.Event(), 0
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self) -> None:
        try:
            with client_of(self._url) as client:
                while not self._over.is_set():
                    assert recite(client, max_tokens=30).choices[0].text.startswith("zabcdef")
                    self.num_done += 1
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert not self._errors
        assert self.num_done > 0


def test_models_come_and_go_under_traffic(served: str, reciter: Path) -> None:
    with Traffic(served) as traffic, client_of(served) as client:
        for _ in range(2):
            card = post(served, "/admin/models/load", name="second", path=str(reciter), engine={"kv": "int8"}).json()
            assert (card["id"], card["state"], card["kv_cache"], card["context_length"]) == ("second", "ready", "int8", 4096)
            assert {model.id for model in client.models.list()} == {"reciter", "second"}
            assert recite(client, model="second").choices[0].text == "zabcd"
            again = post(served, "/admin/models/load", name="second", path=str(reciter))
            assert (again.status_code, again.json()["error"]["code"]) == (409, "name_taken")
            assert post(served, "/admin/models/unload", name="second").json()["deleted"] is True
            with pytest.raises(openai.NotFoundError):
                recite(client, model="second")
        assert traffic.num_done > 0


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"name": "x", "path": "/nonexistent"}, 400, "there is no model at /nonexistent"),
        ({"name": "x y", "path": "/"}, 400, "cannot be the name"),
        ({"name": "x"}, 400, "path is required"),
        ({"name": "x", "path": "/", "engine": {"kv": "int2"}}, 400, "engine.kv"),
        ({"name": "x", "path": "/", "engine": {"kvv": "int8"}}, 400, "did you mean kv"),
    ],
)
def test_models_that_cannot_be_loaded(served: str, body: dict[str, Any], status: int, said: str) -> None:
    response = post(served, "/admin/models/load", **body)
    assert response.status_code == status
    assert said in response.json()["error"]["message"]
    assert [model["id"] for model in httpx.get(f"{served}/v1/models").json()["data"]] == ["reciter"]


def test_a_model_is_not_unloaded_under_its_requests_nor_the_last_one(served: str, reciter: Path) -> None:
    assert post(served, "/admin/models/unload", name="reciter").json()["error"]["code"] == "last_model"
    assert post(served, "/admin/models/unload", name="nothing").status_code == 404
    post(served, "/admin/models/load", name="second", path=str(reciter))
    with client_of(served) as client:
        stream = recite(client, model="second", max_tokens=500, stream=True)
        next(iter(stream))
        refused = post(served, "/admin/models/unload", name="second")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "in_use")
        waiting = threading.Thread(target=post, args=(served, "/admin/models/unload"), kwargs={"name": "second", "drain_s": 60})
        waiting.start()
        end = time.monotonic() + 20
        while httpx.get(f"{served}/health").json()["models"].get("second") != "draining" and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(openai.InternalServerError, match="draining"):
            recite(client, model="second")
        assert len([chunk for chunk in stream if chunk.choices]) > 10
        waiting.join()
        with pytest.raises(openai.NotFoundError):
            recite(client, model="second")


def test_adapters_come_and_go_under_traffic(served: str, adapter: Path) -> None:
    with Traffic(served), client_of(served) as client:
        for _ in range(2):
            answer = post(served, "/v1/load_lora_adapter", lora_name="other", lora_path=str(adapter))
            assert answer.status_code == 200
            (card,) = [model for model in client.models.list() if model.id == "other"]
            assert card.model_dump()["parent"] == "reciter"
            reply = recite(client, model="other")
            assert reply.model == "other"
            assert reply.choices[0].text != "zabcd"
            taken = post(served, "/v1/load_lora_adapter", lora_name="other", lora_path=str(adapter))
            assert taken.status_code == 409
            assert post(served, "/v1/unload_lora_adapter", lora_name="other").status_code == 200
            with pytest.raises(openai.NotFoundError):
                recite(client, model="other")
    for body, status in (
        ({"lora_name": "x", "lora_path": "/nonexistent"}, 400),
        ({"lora_name": "reciter", "lora_path": str(adapter)}, 409),
        ({"lora_name": "x", "lora_path": str(adapter), "base_model_name": "nothing"}, 404),
        ({"lora_name": "x/../y", "lora_path": str(adapter)}, 400),
    ):
        assert post(served, "/v1/load_lora_adapter", **body).status_code == status
    assert post(served, "/v1/unload_lora_adapter", lora_name="other").status_code == 404


def test_an_adapter_in_use_stays(served: str, adapter: Path, soon_idle: Idle) -> None:
    post(served, "/v1/load_lora_adapter", lora_name="held", lora_path=str(adapter))
    with client_of(served) as client:
        stream = recite(client, model="held", max_tokens=3000, stream=True)
        next(iter(stream))
        assert post(served, "/v1/unload_lora_adapter", lora_name="held").status_code == 409
        stream.close()
    assert soon_idle(served)
    assert post(served, "/v1/unload_lora_adapter", lora_name="held").status_code == 200


def test_sleep_and_wake(served: str, soon_idle: Idle) -> None:
    with client_of(served) as client:
        stream = recite(client, max_tokens=3000, stream=True)
        next(iter(stream))
        assert post(served, "/sleep").status_code == 409
        stream.close()
        assert soon_idle(served)
        assert post(served, "/sleep?level=1").json()["is_sleeping"] is True
        assert httpx.get(f"{served}/is_sleeping").json() == {"is_sleeping": True}
        assert httpx.get(f"{served}/ready").status_code == 503
        with pytest.raises(openai.InternalServerError, match="asleep"):
            recite(client)
        assert post(served, "/wake_up").json()["is_sleeping"] is False
        assert recite(client).choices[0].text == "zabcd"


def test_a_sleeping_model_can_be_unloaded_and_one_whose_files_changed_sleeps_on(
    served: str, reciter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(reciter, folder)
    assert post(served, "/admin/models/load", name="copy", path=str(folder)).status_code == 200
    assert post(served, "/sleep?model=copy").status_code == 200
    assert httpx.get(f"{served}/health").json()["models"] == {"reciter": "ready", "copy": "asleep"}
    assert httpx.get(f"{served}/ready").status_code == 200
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    refused = post(served, "/wake_up?model=copy")
    assert refused.status_code == 400
    assert "is not what it was" in refused.json()["error"]["message"]
    with client_of(served) as client, pytest.raises(openai.InternalServerError, match="asleep"):
        recite(client, model="copy")
    assert post(served, "/v1/load_lora_adapter", lora_name="x", lora_path="/", base_model_name="copy").status_code == 503
    assert post(served, "/admin/models/unload", name="copy").status_code == 200
    assert httpx.get(f"{served}/health").json()["models"] == {"reciter": "ready"}


def test_a_model_and_an_adapter_of_one_name(reciter: Path) -> None:
    with pytest.raises(ConfigError, match="both named"), running_server(reciter, name="a", adapters={"a": reciter}):
        pass


def test_grpc_beside_rest(reciter: Path) -> None:
    """The same keys and the same books on a second port; its own tests are elsewhere."""
    grpc = pytest.importorskip("grpc")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running_server(reciter, name="reciter", grpc_port=port, api_key="k") as url:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
        assert httpx.get(f"{url}/ready").status_code == 200


def test_sessions_are_listed_and_deleted(served: str) -> None:
    prompt = "abcdefghijklmnopqrstuvwxyz" * 4
    body = {"prompt": prompt, "max_tokens": 2, "session": "talk-1"}
    assert httpx.post(f"{served}/v1/completions", json=body).status_code == 200
    end = time.monotonic() + 10
    while not (kept := httpx.get(f"{served}/v1/sessions").json()["data"]) and time.monotonic() < end:
        time.sleep(0.05)
    assert [each["name"] for each in kept] == ["talk-1"]
    assert kept[0]["num_tokens"] >= 96
    assert httpx.get(f"{served}/v1/sessions", headers=ADMIN).json()["data"] == []
    assert httpx.delete(f"{served}/v1/sessions/talk-1").status_code == 200
    assert httpx.delete(f"{served}/v1/sessions/talk-1").status_code == 404
    assert httpx.get(f"{served}/v1/sessions").json()["data"] == []


def test_adapters_at_the_start_and_a_quality_card(reciter: Path, adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reciter, folder)
    (folder / "card.json").write_text(json.dumps({"method": "lianlu-int8", "perplexity": 1.5}))
    with running_server(folder, name="reciter", adapters={"other": adapter}, metrics_public=True, api_key="k") as url:
        with client_of(url, "k") as client:
            models = {model.id: model.model_dump() for model in client.models.list()}
            assert recite(client, model="other").choices[0].text != recite(client).choices[0].text
        assert set(models) == {"reciter", "other"}
        assert models["reciter"]["quality"] == {"method": "lianlu-int8", "perplexity": 1.5}
        assert models["reciter"]["quantization"] == "lianlu-int8"
        assert "lianlu:num_requests_running{model_name=reciter}" in samples(url)
