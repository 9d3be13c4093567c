"""How many pages and answers of the REST API one place may ask for: whoever asks without end holds up everybody else.

Clients are counted by application, where they are let in. Whoever comes from this machine itself isn't counted: that
may be a proxy that nobody has told us of, with all the world behind it.
"""

from typing import Any

from sparkle_lite import net
from sparkle_lite.clock import now_ms
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.requests import Receive, Scope, Send, client_address, refuse
from sparkle_lite.rate_limits import Buckets, client_key
from sparkle_lite.server import Server

_UNCOUNTED = ("/ping/", "/static/", "/healthz", "/readyz", "/metrics")


class LimitVisitors:
    """An ASGI application that answers one place `limits.requests_per_minute` requests a minute."""

    def __init__(self, app: Any, server: Server) -> None:
        self._app = app
        self._server = server
        self._rate = 0
        self._by_address = Buckets(burst=0, per_minute=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 429."""
        rate = self._server.config.limits.requests_per_minute
        if rate and scope["type"] == "http" and not scope["path"].startswith(_UNCOUNTED):
            if rate != self._rate:
                self._rate, self._by_address = rate, Buckets(burst=rate, per_minute=rate)
            address = client_address(scope, self._server.config.server.trusted_proxies)
            if not net.is_loopback(address) and (wait := self._by_address.take(client_key(address), now_ms())):
                error = SparkleError("too_many", "request.too_many", seconds=wait, retry_after=wait)
                await refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)
