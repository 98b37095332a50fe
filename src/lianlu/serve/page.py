"""The chat page at GET /: a few files of the package, sent as they are.

The page talks to this server's own API and to nothing else; its Content-Security-Policy lets it load nothing from elsewhere
and lets no text become script (`require-trusted-types-for`). There is no build chain: what is in the folder `web` is what a
browser gets. The files are read once; a browser that has them is answered with 304.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lianlu.serve.failures import ApiError
from lianlu.serve.service import Service

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class File:
    """A file as it is sent."""

    body: bytes
    media_type: str
    tag: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 to a browser that has it."""
        headers = HEADERS | {"ETag": self.tag}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def routes(_service: Service) -> list[Route]:
    """The page, its files below /web/, and its icon."""
    files = read_files()

    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    async def icon(request: Request) -> Response:
        return files["icon.svg"].answer(request)

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise ApiError(f"the chat page has no file {name[:100]!r}", status=404, hint="the page itself is at /")
        return files[name].answer(request)

    return [
        Route("/", page, methods=["GET"]),
        Route("/favicon.ico", icon, methods=["GET"]),
        Route("/web/{name}", part, methods=["GET"]),
    ]


def read_files() -> dict[str, File]:
    """The files of the page by name."""
    found = {}
    for entry in resources.files("lianlu.serve").joinpath("web").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in MEDIA_TYPES:
            body = entry.read_bytes()
            found[entry.name] = File(body, MEDIA_TYPES[suffix], f'"{hashlib.sha256(body).hexdigest()[:24]}"')
    return found
