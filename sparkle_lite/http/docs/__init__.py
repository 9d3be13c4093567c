"""The page at /docs that shows the OpenAPI document: RapiDoc 9.3.8 (MIT) in one file, unchanged, loading nothing else.

The bundle knows addresses of web fonts, which the page switches off, and its policy would stop it anyway.
"""

import asyncio
import gzip
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from litestar import MediaType, Response, get

from sparkle_lite.http.problems import nothing_here
from sparkle_lite.http.requests import takes_gzip
from sparkle_lite.http.session import AnyRequest

_BUNDLE = "rapidoc-min.js"
_YEAR_S = 365 * 86_400
_PAGE_HEADERS = {
    "cache-control": "no-cache",
    # RapiDoc writes style attributes and <style> elements of its own, so inline styles have to be allowed: nothing else
    # is, and no style can be loaded from anywhere.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _Files(NamedTuple):
    name: str
    bundle: bytes
    compressed: bytes
    page: bytes


@cache
def _files() -> _Files:
    """The bundle under a name that changes with its content, and the page that names it."""
    folder = resources.files(__package__)
    bundle = (folder / _BUNDLE).read_bytes()
    name = f"rapidoc.{hashlib.sha256(bundle).hexdigest()[:10]}.js"
    page = (folder / "page.html").read_text("utf-8").replace("{bundle}", f"/docs/{name}")
    return _Files(name, bundle, gzip.compress(bundle, 9, mtime=0), page.encode())


@get("/docs", include_in_schema=False)
async def page() -> Response[bytes]:
    """The page itself."""
    files = await asyncio.to_thread(_files)
    return Response(files.page, media_type=MediaType.HTML, headers=_PAGE_HEADERS)


@get("/docs/{name:str}", include_in_schema=False)
async def bundle(request: AnyRequest, name: str) -> Response[bytes]:
    """Its script, under the name that this content has."""
    files = await asyncio.to_thread(_files)
    if name != files.name:
        raise nothing_here()
    headers = {
        "cache-control": f"public, max-age={_YEAR_S}, immutable",
        "vary": "Accept-Encoding",
        "x-content-type-options": "nosniff",
    }
    if takes_gzip(request.scope):
        headers["content-encoding"] = "gzip"
        return Response(files.compressed, media_type="text/javascript", headers=headers)
    return Response(files.bundle, media_type="text/javascript", headers=headers)


HANDLERS = (page, bundle)
