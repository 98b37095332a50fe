"""Where did the time of a request go: GET /debug/why/ID, and the latest ids at GET /debug/why.

The id is in the reply, in X-Request-Id and in the access line. `?format=text` gives lines to read instead of JSON.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lianlu.serve.exchange import json_response
from lianlu.serve.keys import caller_of
from lianlu.serve.recent import Entry, sentence
from lianlu.serve.service import Service


def routes(service: Service) -> list[Route]:
    """GET /debug/why and /debug/why/{id}."""

    async def why(request: Request) -> Response:
        entry = service.recent.get(request.path_params["id"], caller_of(request))
        if request.query_params.get("format") == "text":
            return PlainTextResponse(as_text(entry))
        return json_response(entry.as_json())

    async def last(request: Request) -> Response:
        entries = service.recent.last(caller_of(request))
        return json_response(
            {"object": "list", "data": [{"id": e.id, "model": e.model, "sentence": sentence(e)} for e in entries]}
        )

    return [Route("/debug/why", last, methods=["GET"]), Route("/debug/why/{id}", why, methods=["GET"])]


def as_text(entry: Entry) -> str:
    """An entry as lines to read."""
    lines = [f"{entry.id}: {sentence(entry)}"]
    known = entry.as_json()
    lines += [f"  {name:<18}{known[name]}" for name in ("model", "key", "state", "num_ahead", "http_s", "outside_s")]
    for number, sequence in enumerate(known["sequences"]):
        lines += [f"  sequence {number}", *(f"    {name:<18}{value}" for name, value in sequence.items())]
    return "\n".join(lines) + "\n"
