"""A web server in this process that serves bytes, knows ranges, and can break off on purpose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lianlu.model import download


class FileServer:
    """`files` maps paths to content; `cuts` maps a path to the byte counts after which its next answers break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.status: dict[str, int] = {}
        self.knows_ranges = True
        self.requests: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path, handler.headers.get("Range", "")
        self.requests.append((path, wanted))
        body = self.files.get(path)
        if body is None or path in self.status:
            handler.send_error(self.status.get(path, 404))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.knows_ranges else 0
        if wanted and self.knows_ranges and start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if wanted and self.knows_ranges else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        handler.end_headers()
        cuts = self.cuts.get(path, [])
        end = start + cuts.pop(0) if cuts else len(body)
        handler.wfile.write(body[start:end])
        if end < len(body):
            handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    running = FileServer()
    yield running
    running.close()
