"""What is served, and how it is: the list of models, health, readiness, figures.

GET /v1/models          every model and every adapter, with what can be said of it
GET /v1/models/{name}   one of them
GET /health             the process lives; how busy it is (no key needed)
GET /ready              200 if the default model takes requests, else 503 (no key needed)
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lianlu.serve import replies
from lianlu.serve.exchange import json_response
from lianlu.serve.metrics import CONTENT_TYPE
from lianlu.serve.replies import Json
from lianlu.serve.service import Service


def routes(service: Service) -> list[Route]:
    """The list of models, health, readiness and figures."""

    async def models(_request: Request) -> Response:
        return json_response({"object": "list", "data": [card(service, name) for name in (*service.models, *service.adapters)]})

    async def model(request: Request) -> Response:
        return json_response(card(service, request.path_params["name"]))

    async def health(_request: Request) -> Response:
        states = {served.name: served.state for served in service.models.values()}
        return json_response({"status": service.state} | service.load() | {"models": states})

    async def ready(_request: Request) -> Response:
        service.ready()
        return json_response({"status": service.state})

    async def metrics(_request: Request) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return [
        Route("/metrics", metrics, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
    ]


def card(service: Service, name: str) -> Json:
    """What the list of models says of a model or an adapter. Raises: ApiError (404)."""
    served, adapter = service.find(name)
    fields = served.card_fields()
    if adapter:
        return replies.model_card(adapter, service.adapters[adapter].created, fields | {"parent": served.name})
    return replies.model_card(served.name or name, served.created, fields)
