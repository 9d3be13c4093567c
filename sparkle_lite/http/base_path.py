"""The path under which a proxy serves us, such as "/btn", put before every URL that leaves.

The proxy takes it away from what comes in, so the program knows its own paths alone: handlers, templates and scripts
write "/rules". Every answer passes here on its way out, and what a browser follows in it (attributes of pages, where a
redirect leads, the path of a cookie) gets the path that `server.public_url` has. So nobody who writes a page has to
think of it. What must be whole URLs, for clients and in documents, is made of `requests.base_url`.
"""

import html
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from sparkle_lite.http.requests import Receive, Scope, Send, header
from sparkle_lite.server import Server

# What a browser follows, or asks for by a script of ours. No text can look like it: its quotation marks are escaped.
_ATTRIBUTES = re.compile(
    rb"""(\s(?:href|src|action|formaction|poster|data-chart|spec-url|hx-(?:get|post|put|patch|delete))=["'])/(?!/)"""
)
# In these the URL is all of the value.
_URL_HEADERS = frozenset({b"location", b"content-location", b"hx-redirect", b"hx-location", b"hx-push-url"})
_COOKIE_PATH = re.compile(rb"(;\s*path=)(/[^;]*)", re.IGNORECASE)
_SLASHES = re.compile("/{2,}")


@lru_cache(16)
def base_path(public_url: str) -> str:
    """The path of a public URL as URLs hold it, "" for none; it has no slash at its end.

    It never begins with two: a browser would take what follows for another host.
    """
    # A semicolon would end the path of a cookie.
    path = quote(urlsplit(public_url).path, safe="/%:@!$&'()*+=~").rstrip("/")
    return _SLASHES.sub("/", path)


class BasePath:
    """An ASGI application whose URLs are put below the path of the server's public URL."""

    def __init__(self, app: Any, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        base = base_path(self._server.config.server.public_url)
        if base and scope["type"] == "http":
            await self._below(base.encode(), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _below(self, base: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        start: Any = None
        page: list[bytes] = []

        async def send_below(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = [(name, _header_below(base, name.lower(), value)) for name, value in message["headers"]]
                message = {**message, "headers": headers}
                if _is_page(headers):
                    # Its length is known when all of it is here.
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                page.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = _page_below(base, b"".join(page))
                message = {"type": "http.response.body", "body": body, "more_body": False}
                await send({**start, "headers": _with_length(start["headers"], len(body))})
            await send(message)

        scope["headers"] = _as_if_alone(scope)
        await self._app(scope, receive, send_below)


def _header_below(base: bytes, name: bytes, value: bytes) -> bytes:
    if name in _URL_HEADERS and value.startswith(b"/") and not value.startswith(b"//"):
        return base + value
    if name == b"set-cookie":
        return _COOKIE_PATH.sub(lambda found: found[1] + base + found[2].rstrip(b"/"), value)
    return value


def _page_below(base: bytes, body: bytes) -> bytes:
    path = html.escape(base.decode()).encode()
    return _ATTRIBUTES.sub(lambda found: found[1] + path + b"/", body)


def _is_page(headers: list[tuple[bytes, bytes]]) -> bool:
    names = {name.lower(): value for name, value in headers}
    return names.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in names


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """The headers of a changed page: its tag named other bytes."""
    kept = [(name, value) for name, value in headers if name.lower() not in (b"content-length", b"etag")]
    return [*kept, (b"content-length", b"%d" % length)]


def _as_if_alone(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What a browser sent, without what it has from neighbours or from before there was a path.

    Of cookies with one name the first is ours: browsers send those of the longest path first (RFC 6265, 5.4). A tag of
    a page may be that of the same page with other links.
    """
    headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
    if "text/html" in header(scope, b"accept"):
        headers = [(name, value) for name, value in headers if name != b"if-none-match"]
    mine: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name == b"cookie":
            for cookie in value.split(b";"):
                mine.setdefault(cookie.partition(b"=")[0].strip(), cookie.strip())
    return [*headers, (b"cookie", b"; ".join(mine.values()))] if mine else headers
