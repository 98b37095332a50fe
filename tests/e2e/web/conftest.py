"""What the tests of the chat page share: a headless Chromium, the page over a scripted API, and visitors.

The scripted API says what a test wrote, at the pace the test wants, and keeps what it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lianlu.serve import page as served_page
from lianlu.serve.service import Service

playwright_api: Any = None
with contextlib.suppress(ImportError):
    playwright_api = importlib.import_module("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MODELS = [{"id": "small", "context_length": 2048, "state": "ready"}, {"id": "law", "parent": "small", "context_length": 2048}]


@dataclass
class Script:
    """What the API says to a user's message, and what it was asked."""

    replies: dict[str, list[str]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    num_gone: int = 0
    refusal: tuple[int, str] | None = None
    breaks_off: bool = False

    async def models(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization", ""))
        if self.refusal is not None and self.refusal[0] == 401:
            return self._refuse()
        return JSONResponse({"object": "list", "data": MODELS})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.refusal is not None:
            return self._refuse()
        pieces = self.replies.get(body["messages"][-1]["content"], ["Hello ", "there."])
        return StreamingResponse(self._chunks(body["model"], pieces), media_type="text/event-stream")

    async def _chunks(self, model: str, pieces: list[str]) -> AsyncIterator[str]:
        try:
            yield sse(model, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            for piece in pieces:
                await asyncio.sleep(self.pause_s)
                yield sse(model, choices=[{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
            if self.breaks_off:
                yield 'data: {"error": {"message": "the server stopped before the reply was complete"}}\n\n'
                return
            yield sse(model, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
            counts = {"prompt_tokens": 100, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 64}}
            yield sse(model, choices=[], usage=counts) + "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.num_gone += 1
            raise

    def _refuse(self) -> Response:
        assert self.refusal is not None
        return JSONResponse({"error": {"message": self.refusal[1]}}, self.refusal[0])


def sse(model: str, **fields: Any) -> str:
    return f"data: {json.dumps({'model': model, **fields})}\n\n"


@pytest.fixture(scope="session")
def api() -> Iterator[tuple[Script, str]]:
    """The page over a scripted API."""
    script = Script()
    routes = [Route("/v1/models", script.models), Route("/v1/chat/completions", script.chat, methods=["POST"])]
    app = Starlette(routes=[*routes, *served_page.routes(Service())])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield script, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium for the tests of a file; while it runs, asyncio.run is not to be had in this thread."""
    if playwright_api is None:
        pytest.skip("needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@dataclass
class Visit:
    """A tab on the page; `troubles` are console errors, exceptions and violations of the policy."""

    page: Any
    troubles: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.page.locator("#input").fill(text)
        self.page.locator("#input").press("Enter")

    def reply(self, index: int = -1) -> Any:
        return self.page.locator("article.assistant .body").nth(index)

    def settle(self) -> None:
        """Wait until no reply is under way."""
        self.page.locator("#send").wait_for(state="visible")

    def ask(self, text: str) -> str:
        self.say(text)
        self.settle()
        return str(self.reply().inner_text())

    def open(self, identity: str) -> Any:
        """An element of the settings."""
        if self.page.locator("#settings").is_hidden():
            self.page.locator("#settings-button").click()
        return self.page.locator(identity)


def opened(browser: Any, url: str, **options: Any) -> tuple[Any, Visit]:
    context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1200, "height": 800}} | options)
    context.set_default_timeout(8000)
    visit = Visit(context.new_page())
    visit.page.on("console", lambda said: visit.troubles.append(said.text) if said.type == "error" else None)
    visit.page.on("pageerror", lambda error: visit.troubles.append(str(error)))
    visit.page.goto(url)
    visit.page.locator("#model option[value]").first.wait_for(state="attached")
    return context, visit


@pytest.fixture
def script(api: tuple[Script, str]) -> Script:
    """The scripted API as new."""
    fresh = Script()
    api[0].__dict__.update(fresh.__dict__)
    return api[0]


@pytest.fixture
def visit(browser: Any, api: tuple[Script, str], script: Script) -> Iterator[Visit]:
    """A new visitor; nothing may be wrong with the page when the test is over."""
    context, made = opened(browser, api[1])
    yield made
    context.close()
    assert made.troubles == []
