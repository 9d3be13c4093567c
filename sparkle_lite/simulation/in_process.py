"""A client's way to a server in the same process: the same literal requests, without a socket in between."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

from sparkle_lite.simulation.connection import Connection, ServerReply, Target

_NOWHERE = Target("http", "127.0.0.1", 80)
_FORWARDED = b"x-forwarded-for"
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class InProcess(Connection):
    """Requests straight to an ASGI application; each comes from the address that stands in its X-Forwarded-For.

    Before each request it waits for `pace_s` seconds.
    """

    def __init__(self, application: Asgi, pace_s: float = 0) -> None:
        super().__init__(_NOWHERE)
        self._application = application
        self._pace_s = pace_s

    async def exchange(self, request: bytes) -> ServerReply:
        """Have the bytes of a request answered."""
        if self._pace_s:
            await asyncio.sleep(self._pace_s)
        head, _, body = request.partition(b"\r\n\r\n")
        scope = _scope(head)
        if (b"transfer-encoding", b"chunked") in scope["headers"]:
            body = _joined(body)
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        reply: dict[str, Any] = {"body": b""}

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.update(message)
            else:
                reply["body"] += message.get("body", b"")

        await self._application(scope, receive, send)
        headers = {name.decode(): value.decode("latin-1") for name, value in reply["headers"]}
        packed = headers.get("content-encoding") == "gzip"
        return ServerReply(reply["status"], headers, gzip.decompress(reply["body"]) if packed else reply["body"])


def _scope(head: bytes) -> dict[str, Any]:
    """What an ASGI server makes of a head."""
    first, *lines = head.split(b"\r\n")
    method, url, _ = first.split(b" ")
    path, _, query = url.partition(b"?")
    pairs = [line.partition(b":") for line in lines]
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    client = next((value.decode() for name, value in headers if name == _FORWARDED), _NOWHERE.host)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.decode(),
        "scheme": "http",
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [pair for pair in headers if pair[0] != _FORWARDED],
        "client": (client, 0),
        "server": (_NOWHERE.host, _NOWHERE.port),
        "state": {},
    }


def _joined(body: bytes) -> bytes:
    """A body without its chunks' framing."""
    pieces = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(pieces)
