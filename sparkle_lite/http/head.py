"""HEAD for every route that takes GET: the same status and headers, no body, and nothing is changed by it.

What answers a GET answers the HEAD too: it finds an empty body, and the one that it sends is dropped. Where a GET
changes something (it ends a session, begins a login, registers a client), its handler asks `is_head` and leaves that
out; a refusal is in the audit all the same, because a HEAD can guess a secret too. Cookies are not sent: to a browser
they would be a change.
"""

from typing import Any

from sparkle_lite.http.requests import Receive, Scope, Send


def is_head(scope: Scope) -> bool:
    """Whether it is a HEAD that this GET answers."""
    return bool(scope["state"].get("head"))


class Head:
    """An ASGI application that knows no HEAD, made to answer it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; a HEAD as its GET."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._head(scope, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, send: Send) -> None:
        scope.setdefault("state", {})["head"] = True
        # A copy: the server below knows by the method that no body is to come.
        as_get = {**scope, "method": "GET"}
        is_read = is_started = False

        async def receive_nothing() -> Any:
            nonlocal is_read
            if is_read:
                # A stream ends here before its first row is read.
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send_head(message: Any) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"set-cookie"]
                await send({**message, "headers": kept})

        try:
            await self._app(as_get, receive_nothing, send_head)
        finally:
            # The router puts the path into its plain form, by which requests are counted and logged.
            scope["path"] = as_get["path"]
        if is_started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
