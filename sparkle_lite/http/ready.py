"""Documents that are made before they are asked for, and what a request gets of them.

Each has an entity tag, which is its version; the packed form has one of its own, because a tag names bytes (RFC 9110,
8.8.3). A client that has by its If-None-Match what it would be sent is told so with 304 and no body (13.1.2); one that
knows no tags by its If-Modified-Since, where the document tells since when it is as it is.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import NamedTuple

from litestar import Response

from sparkle_lite.http.requests import Scope, header, takes_gzip

JSON = "application/json; charset=utf-8"
# Whoever keeps a document may use it after asking whether it is still that.
REVALIDATE = "private, no-cache"
# For what is served under a name that changes with its content.
FOR_EVER = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
_TAG = re.compile(rb'(?:W/)?("[^"]*")')


class Ready(NamedTuple):
    """A document: its media type, a version that changes with the content, the bytes, and the same as gzip, if kept.

    `modified_ms` is since when its content is that, where that is told.
    """

    media_type: str
    version: str
    body: bytes
    gzip: bytes = b""
    modified_ms: int | None = None


class Representation(NamedTuple):
    """What a request gets: 200 with a form of the document or 304 without, and the headers that follow from it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def ready(media_type: str, body: bytes, *, packed: bool = True) -> Ready:
    """A document whose version is a hash of its content (16 hex digits), `packed` as small as it gets."""
    version = hashlib.sha256(body).hexdigest()[:16]
    return Ready(media_type, version, body, gzip.compress(body, 9, mtime=0) if packed else b"")


def choose(scope: Scope, document: Ready, *, now_ms: int = 0) -> Representation:
    """The answer to a GET of a document; `now_ms` is needed where that tells since when it is as it is."""
    is_packed = bool(document.gzip) and takes_gzip(scope)
    tag = f'"{document.version}{"-gzip" if is_packed else ""}"'.encode()
    headers = [(b"etag", tag)]
    if document.gzip:
        headers.append((b"vary", b"Accept-Encoding"))
    if document.modified_ms is not None:
        headers.append((b"last-modified", formatdate(document.modified_ms // 1000, usegmt=True).encode()))
    if _has(scope, tag, document.modified_ms, now_ms):
        return Representation(304, headers, b"")
    headers.append((b"content-type", document.media_type.encode()))
    if is_packed:
        headers.append((b"content-encoding", b"gzip"))
    return Representation(200, headers, document.gzip if is_packed else document.body)


def respond(scope: Scope, document: Ready, headers: Mapping[str, str]) -> Response[bytes]:
    """The same as a response of the framework, with more headers."""
    chosen = choose(scope, document)
    more = {name.decode(): value.decode() for name, value in chosen.headers}
    return Response(chosen.body, status_code=chosen.status, headers={**headers, **more})


def _has(scope: Scope, tag: bytes, modified_ms: int | None, now_ms: int) -> bool:
    """Whether the client has a document already.

    If-None-Match, which counts alone where it is given (13.1.3), is compared weakly: a proxy that packs an answer
    itself weakens its tag. A date later than now is none.
    """
    given = [value for name, value in scope["headers"] if name == b"if-none-match"]
    if given or modified_ms is None:
        tags = b",".join(given)
        return tags.strip() == b"*" or tag in _TAG.findall(tags)
    since = header(scope, b"if-modified-since")
    try:
        return bool(since) and modified_ms // 1000 <= parsedate_to_datetime(since).timestamp() <= now_ms / 1000
    except (ValueError, OverflowError):
        # What is no date doesn't count.
        return False
