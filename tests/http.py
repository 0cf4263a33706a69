"""A web server for tests, and a network in which nobody answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.s3 import NOBODY_LISTENS


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's, and a proxy where nobody listens; returns the cache."""
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, NOBODY_LISTENS)
    for exception in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(exception, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@dataclass
class Webhook:
    """A server that takes messages.

    Attributes:
        received: path, content type and content of each request.
        authorization: that of the last request.
        status: what it answers with.
    """

    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    authorization: str | None = None
    status: int = 200
    port: int = 0
    stop: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/T000-B000-XXXX?key=T000-B000-XXXX"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A real server on loopback; it stops with the test."""
    import http.server
    import threading

    hook = Webhook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            hook.authorization = self.headers["Authorization"]
            hook.received.append((self.path, self.headers["Content-Type"], content))
            self.send_response(hook.status, f"no {self.path}")  # servers repeat the request
            self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    hook.port, hook.stop = server.server_port, stop
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hook
    stop()
