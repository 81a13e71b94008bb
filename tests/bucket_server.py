"""A bucket service on loopback, for tests: gcp-storage-emulator, started and ended by the test that uses it.

It knows no rights and answers a request for one generation with any other, so refusals come from a server of our own that
answers everything alike, and a changed object is told by its bytes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Files = dict[str, bytes]


class Bucket:
    """One bucket of the emulator, for a test to fill."""

    def __init__(self, name: str) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        self.name = name
        self.client = storage.Client(project="test", credentials=AnonymousCredentials())
        self.client.create_bucket(name)

    def put(self, files: Files) -> None:
        """Write objects; one that is there is replaced, under a new generation."""
        for name, content in files.items():
            self.client.bucket(self.name).blob(name).upload_from_string(content)

    def remove(self, name: str) -> None:
        """Delete an object."""
        self.client.bucket(self.name).blob(name).delete()


@contextmanager
def bucket_server(name: str, cache: Path, monkeypatch: Any) -> Iterator[Bucket]:
    """Serve an empty bucket on a free port, and point this process's client at it, with an empty cache."""
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        use_service(f"http://127.0.0.1:{server._api._httpd.server_port}", cache, monkeypatch)
        yield Bucket(name)
    finally:
        server.stop()


@contextmanager
def refusing_service(status: int, cache: Path, monkeypatch: Any) -> Iterator[None]:
    """Serve the same refusal to every request."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps({"error": {"code": status, "message": "refused by the test"}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815
        log_message = lambda *_: None  # noqa: E731

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        use_service(f"http://127.0.0.1:{server.server_port}", cache, monkeypatch)
        yield
        server.shutdown()


def use_service(address: str, cache: Path, monkeypatch: Any) -> None:
    """Point this process's client at a service; what it fetches goes below `cache`."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
