"""The server itself: keys and limits, states, overload, sizes, TLS, ports, and what happens without grpcio."""

from __future__ import annotations

import ast
import asyncio
import builtins
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from lianlu.core.errors import ConfigError, MissingExtraError
from lianlu.engine.background import BackgroundEngine
from lianlu.serve.grpc import server as serving_module
from lianlu.serve.grpc.server import serve_grpc
from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.grpc.v1.engine_pb2_grpc import EngineStub
from lianlu.serve.keys import KeyConfig, Keys
from lianlu.serve.service import Limits, Service

SHORT = pb.GenerateRequest(text="Once", sampling=pb.Sampling(max_tokens=3))
LONG = pb.GenerateRequest(text="Once", request_id="long", sampling=pb.Sampling(max_tokens=4000, ignore_eos=True))


def refused(work: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    return caught.value


def soon(holds: Callable[[], bool]) -> bool:
    """Whether something holds in the end; books are kept after the answer."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def test_keys(serving: Callable[..., Service], start: Any, at_rest: Callable[[], bool]) -> None:
    entries = [KeyConfig(name="one", key="1", models=["tiny"]), KeyConfig(name="two", key="2", models=["other"])]
    service = serving(keys=Keys.of(entries=entries), engine=None)
    with start(service) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = EngineStub(channel)
        for metadata in ((), bearer("3"), (("authorization", "1"),), (("authorization", "Basic 1"),)):
            error = refused(lambda metadata=metadata: stub.ListModels(pb.ListModelsRequest(), metadata=metadata))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert stub.ListModels(pb.ListModelsRequest(), metadata=bearer("1")).models
        error = refused(lambda: list(stub.Generate(SHORT, metadata=bearer("2"))))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def test_what_one_key_runs_another_cannot_abort(
    serving: Callable[..., Service], tiny: BackgroundEngine, start: Any, at_rest: Callable[[], bool]
) -> None:
    keys = Keys.of(entries=[KeyConfig(name="one", key="1", max_concurrent=1), KeyConfig(name="two", key="2")])
    with start(serving(tiny, keys=keys)) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = EngineStub(channel)
        call = stub.Generate(LONG, metadata=bearer("1"))
        next(call)
        assert not stub.Abort(pb.AbortRequest(request_id="long"), metadata=bearer("2")).was_running
        error = refused(lambda: list(stub.Generate(SHORT, metadata=bearer("1"))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(error.trailing_metadata())["retry-after"]) >= 1
        assert list(stub.Generate(SHORT, metadata=bearer("2")))
        assert stub.Abort(pb.AbortRequest(request_id="long"), metadata=bearer("1")).was_running
        assert refused(lambda: list(call)).code() is grpc.StatusCode.CANCELLED
    assert at_rest()


def test_a_full_engine_says_when_to_come_back(stub: EngineStub, tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "_max_open", 0)
    error = refused(lambda: list(stub.Generate(SHORT)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after"]) >= 1


def test_loading_and_stopping_are_unavailable(serving: Callable[..., Service], tiny: BackgroundEngine, start: Any) -> None:
    service = serving(engine=None)
    with start(service) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = EngineStub(channel)
        error = refused(lambda: list(stub.Generate(SHORT)))
        assert (error.code(), error.details()[:21]) == (grpc.StatusCode.UNAVAILABLE, "the server is loading")
        assert dict(error.trailing_metadata())["retry-after"]
        assert stub.ListModels(pb.ListModelsRequest()).models[0].state == "loading"
        service.default.engine = tiny
        assert list(stub.Generate(SHORT))
        service.stopping = True
        for work in (lambda: list(stub.Generate(SHORT)), lambda: stub.Embed(pb.EmbedRequest(texts=["a"]))):
            assert refused(work).code() is grpc.StatusCode.UNAVAILABLE


def test_calls_are_in_the_figures_and_in_the_log(
    stub: EngineStub, service: Service, capsys: pytest.CaptureFixture[str], at_rest: Callable[[], bool]
) -> None:
    request = pb.GenerateRequest(text="Once", request_id="noted", sampling=pb.Sampling(max_tokens=3))
    list(stub.Generate(request))
    refused(lambda: list(stub.Generate(pb.GenerateRequest(text="Once", model="other"))))
    entry = service.recent.get("noted", service.keys.anyone)
    shown = 'handler="/lianlu.v1.Engine/Generate",method="POST",status="{}"'
    assert soon(lambda: shown.format(404) in service.metrics.text().decode())
    assert shown.format(200) in service.metrics.text().decode()
    assert entry.status == 200
    assert entry.longest is not None
    assert entry.http_s is not None
    assert entry.http_s >= entry.longest.total_s
    said = capsys.readouterr().err
    assert re.search("gRPC /lianlu.v1.Engine/Generate 200 .* noted\n", said)


def test_a_failure_of_ours_keeps_its_details(stub: EngineStub, tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "submit", lambda request: 1 // 0)
    error = refused(lambda: list(stub.Generate(SHORT)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "zero" not in error.details()


def test_messages_are_bounded(serving: Callable[..., Service], tiny: BackgroundEngine, start: Any) -> None:
    service = serving(tiny, limits=Limits(max_body_bytes=1000))
    with start(service) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = EngineStub(channel)
        error = refused(lambda: stub.Tokenize(pb.TokenizeRequest(text="a" * 2000)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(stub.Tokenize(pb.TokenizeRequest(text="a" * 900)).token_ids) == 900


def test_garbage_is_refused_and_does_no_harm(channel: grpc.Channel, stub: EngineStub) -> None:
    raw = channel.unary_stream("/lianlu.v1.Engine/Generate")
    assert refused(lambda: list(raw(b"\xff\xff\xff"))).code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    unknown = channel.unary_unary("/lianlu.v1.Engine/Nothing")
    assert refused(lambda: unknown(b"")).code() is grpc.StatusCode.UNIMPLEMENTED
    assert list(stub.Generate(SHORT))


def test_stop_cancels_what_runs(
    serving: Callable[..., Service], tiny: BackgroundEngine, start: Any, at_rest: Callable[[], bool]
) -> None:
    with start(serving(tiny)) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        call = EngineStub(channel).Generate(LONG)
        next(call)
    with channel:
        assert refused(lambda: list(call)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert at_rest()


def test_tls(serving: Callable[..., Service], tiny: BackgroundEngine, start: Any, tmp_path: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    with start(serving(tiny), tls=(chain, key)) as server:
        trusted = grpc.ssl_channel_credentials(chain.read_bytes())
        with grpc.secure_channel(f"localhost:{server.port}", trusted) as channel:
            assert list(EngineStub(channel).Generate(SHORT))[-1].finish_reason
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            plain = refused(lambda: EngineStub(channel).ListModels(pb.ListModelsRequest(), timeout=5))
            assert plain.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_ports_and_certificates_that_cannot_be_used(serving: Callable[..., Service], tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            asyncio.run(serve_grpc(serving(), taken.getsockname()[1]))
    for tls, message in (((bad, bad), "cannot listen"), ((tmp_path / "none", bad), "cannot read")):
        with pytest.raises(ConfigError, match=message):
            asyncio.run(serve_grpc(serving(), 0, tls=tls))


def test_without_grpcio_there_is_a_hint(serving: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "grpc":
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingExtraError) as caught:
        asyncio.run(serve_grpc(serving(), 0))
    assert "lianlu[grpc]" in caught.value.hint


def test_nobody_imports_grpcio_unasked() -> None:
    folder = Path(str(serving_module.__file__)).parents[1]
    for path in (*folder.glob("*.py"), folder / "grpc" / "server.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("grpc", "google")), path
                assert not name.startswith("lianlu.serve.grpc.") or name == "lianlu.serve.grpc.server", path
