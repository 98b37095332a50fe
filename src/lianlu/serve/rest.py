"""The REST API as a small Starlette application: the files of routes put together, errors, pages from other origins.

    POST /v1/chat/completions  /v1/completions  /v1/embeddings  /v1/tokenize  ...    see the files of routes
    GET  /v1/models   /health   /ready   /metrics   /debug/why/{id}                   `listing`, `why`

Every answer that is not a success has the shape {"error": {message, type, param, code}}. A stream that fails midway says
so in an event of its own. `front` stands before the routes.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from lianlu.core.errors import LianluError
from lianlu.serve import admin, complete, embed, generate, listing, page, responses, tokens, why
from lianlu.serve.exchange import ClientGoneError
from lianlu.serve.failures import ApiError, log_failure, reason_of
from lianlu.serve.front import CLIENT_GONE, Front, error_response
from lianlu.serve.service import Service

PREFLIGHT_S = 600
EXPOSED = ["X-Request-Id", "Retry-After"] + [
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
]


def app(service: Service, cors_origins: Sequence[str] = ()) -> Starlette:
    """The application that serves `service`, also to pages of `cors_origins`; its models may still be loading."""
    parts = (generate, complete, responses, listing, embed, tokens, why, admin, page)
    routes = [route for part in parts for route in part.routes(service)]
    patterns = {route.endpoint: route.path for route in routes}
    kinds: tuple[type[Exception], ...] = (LianluError, HTTPException, ClientGoneError)
    return Starlette(
        routes=routes,
        middleware=[*_cors(cors_origins), Middleware(Front, service=service, patterns=patterns)],
        exception_handlers=dict.fromkeys(kinds, _refused),
    )


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Lets pages from other origins ask and read the headers of answers; the outermost layer, as preflights carry no key."""
    if not origins:
        return []
    methods = ("GET", "POST", "DELETE", "OPTIONS")
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=methods,
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_S,
        )
    ]


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to what a route raised on purpose."""
    if isinstance(error, ClientGoneError):
        return Response(status_code=CLIENT_GONE)
    if isinstance(error, HTTPException):
        hint = "the API lies at /v1/chat/completions, /v1/completions and /v1/models" if error.status_code == 404 else ""
        error = ApiError(f"{request.method} {request.url.path}: {error.detail.lower()}", status=error.status_code, hint=hint)
    log_failure(error, f"{request.method} {request.url.path}")
    request.scope["lianlu.reason"] = reason_of(error)
    return error_response(error)
