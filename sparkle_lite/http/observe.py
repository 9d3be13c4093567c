"""Around every request: one line in the log, one count in the metrics. Query strings are never written anywhere."""

import time
from typing import Any

from sparkle_lite import logs
from sparkle_lite.http.requests import Receive, Scope, Send, client_address
from sparkle_lite.server import Server


class Observe:
    """An ASGI application that watches another one."""

    def __init__(self, app: Any, server: Server) -> None:
        self._app = app
        self._server = server
        # Looking a label up costs more than counting.
        self._counters: dict[tuple[str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status, bytes_in = 500, 0

        async def watch_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def watch_receive() -> Any:
            nonlocal bytes_in
            message = await receive()
            if message["type"] == "http.request":
                bytes_in += len(message["body"])
            return message

        state = scope.setdefault("state", {})
        try:
            await self._app(scope, watch_receive, watch_send)
        finally:
            seconds = time.perf_counter() - started
            self._count(scope, status, seconds)
            logs.access(
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=seconds * 1000,
                bytes_in=bytes_in,
                client=state.get("client") or client_address(scope, self._server.config.server.trusted_proxies),
                app_id=state.get("app_id"),
            )

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # Only our own paths become labels: a client could invent any number of others.
        route = scope["path"] if status != 404 and scope["path"].startswith("/ping/") else _family(scope["path"])
        pair = self._counters.get((route, status))
        if pair is None:
            metrics = self._server.metrics
            pair = metrics.requests.labels(route, str(status)), metrics.request_seconds.labels(route)
            self._counters[route, status] = pair
        pair[0].inc()
        pair[1].observe(seconds)


def _family(path: str) -> str:
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return f"/{first}" if first in _FAMILIES else "other"


_FAMILIES = frozenset(
    {"", "ping", "api", "auth", "docs", "static", "feeds", "ip", "login", "healthz", "healthcheck", "readyz", "metrics"}
)
