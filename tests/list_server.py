"""A web server that stands in for those that lists come from: what it serves is set, what it was asked is kept."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Served(NamedTuple):
    """What a path answers: `promised` is the Content-Length where that is a lie, `location` where a redirect leads.

    It waits for so long (s) before it does.
    """

    body: bytes
    status: int = 200
    media_type: str = "text/plain"
    promised: int | None = None
    location: str = ""
    pause_s: float = 0


class ListServer:
    """Serves `files` by path, each with an ETag; `asked` are the paths with the request's If-None-Match."""

    def __init__(self, port: int) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{port}"

    def serve(self, path: str, body: bytes | str, status: int = 200, **more: Any) -> str:
        """Serve something at a path from now on, as Served has it; its URL."""
        data = body.encode() if isinstance(body, str) else body
        self.files[path] = Served(data, status=status, **more)
        return self.url + path


@contextmanager
def list_server() -> Iterator[ListServer]:
    """A server for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.headers.get("If-None-Match")
            state.asked.append((self.path, known))
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            served = state.files.get(self.path.partition("?")[0], Served(b"none", 404))
            time.sleep(served.pause_s)
            tag = f'"{hashlib.sha256(served.body).hexdigest()[:16]}"'
            if served.status == 200 and known == tag:
                self.send_response(304)
                self.send_header("ETag", tag)
                self.end_headers()
                return
            self.send_response(served.status)
            self.send_header("Content-Type", served.media_type)
            self.send_header("ETag", tag)
            if served.location:
                self.send_header("Location", served.location)
            self.send_header("Content-Length", str(len(served.body) if served.promised is None else served.promised))
            if served.promised is not None:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(served.body)
            self.close_connection = served.promised is not None

        def handle(self) -> None:
            # Whoever has seen enough closes the connection.
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state = ListServer(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
