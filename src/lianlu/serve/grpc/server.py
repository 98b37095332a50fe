"""The gRPC server beside the REST one: same models, same keys, same event loop, a port of its own.

`serve_grpc` starts it; `Server` (serve/server.py) calls it when a port is configured and stops it after the engines have
drained. The interface is v1/engine.proto; `calls` has what the methods share. grpcio is imported only when this is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianlu.core.errors import ConfigError, MissingExtraError
from lianlu.serve.service import Service

if TYPE_CHECKING:
    from lianlu.serve.grpc.health import Health

NAME = "lianlu.v1.Engine"
KEEP_ALIVE_MS = 60_000
OFTEN_MS = 10_000
Tls = tuple[Path, Path]
"""The files with the certificate chain and its private key, in PEM."""


class GrpcServer:
    """A running gRPC server; `port` is the one it listens on."""

    def __init__(self, server: Any, health: Health, port: int) -> None:
        self._server, self._health, self.port = server, health, port

    async def stop(self, grace_s: float = 5.0) -> None:
        """Take no more calls, end the watches, give what runs `grace_s` to finish, and cancel the rest."""
        self._health.over.set()
        await self._server.stop(grace_s)


async def serve_grpc(service: Service, port: int, host: str = "127.0.0.1", tls: Tls | None = None) -> GrpcServer:
    """Serve `service` over gRPC, on a free port if `port` is 0; the models may still be loading.

    Raises: MissingExtraError without grpcio; ConfigError for a port or a certificate that cannot be used.
    """
    try:
        import grpc.aio

        from lianlu.serve.grpc import health as health_service
    except ImportError as error:
        raise MissingExtraError("gRPC needs grpcio and protobuf", hint="pip install lianlu[grpc]") from error
    server = grpc.aio.server(options=_options(service.limits.max_body_bytes))
    health = health_service.Health(service, frozenset({NAME}))
    for name, handlers in ((NAME, _handlers(service)), (health_service.NAME, health.handlers())):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    found = _listen(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tls)
    await server.start()
    return GrpcServer(server, health, found)


def _handlers(service: Service) -> dict[str, Any]:
    """The methods of lianlu.v1.Engine."""
    from lianlu.serve.grpc.calls import Guard
    from lianlu.serve.grpc.generation import Generations
    from lianlu.serve.grpc.methods import Methods
    from lianlu.serve.grpc.v1 import engine_pb2 as pb

    guard, running, methods = Guard(service, NAME), Generations(service), Methods(service)
    return {
        "Generate": guard.stream(running.generate, pb.GenerateRequest, pb.GenerateEvent, is_work=True),
        "Abort": guard.unary(running.abort, pb.AbortRequest, pb.AbortResponse),
        "Embed": guard.unary(methods.embed, pb.EmbedRequest, pb.EmbedResponse, is_work=True),
        "Tokenize": guard.unary(methods.tokenize, pb.TokenizeRequest, pb.TokenizeResponse),
        "Detokenize": guard.unary(methods.detokenize, pb.DetokenizeRequest, pb.DetokenizeResponse),
        "ListModels": guard.unary(methods.list_models, pb.ListModelsRequest, pb.ListModelsResponse),
    }


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Bounded requests, a port of our own, and pings that find out about clients that vanished."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEP_ALIVE_MS // 3),
        ("grpc.http2.min_ping_interval_without_data_ms", OFTEN_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _listen(server: Any, address: str, tls: Tls | None) -> int:
    """Take the port. Raises: ConfigError."""
    import grpc

    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        chain, key = (path.read_bytes() for path in tls)
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)])))
    except OSError as error:
        hint = "check the paths of certificate and key"
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}", hint=hint) from error
    except (RuntimeError, ValueError) as error:
        hint = "choose another port, or 0 for a free one" if tls is None else "check the port, the certificate and its key"
        raise ConfigError(f"gRPC cannot listen on {address}", hint=hint) from error
