"""The page at /docs that shows the OpenAPI document: RapiDoc 9.3.8 (MIT) in one file, unchanged, loading nothing else.

The bundle knows addresses of web fonts, which the page switches off, and its policy would stop it anyway.
"""

import asyncio
from functools import cache
from importlib import resources
from typing import NamedTuple

from litestar import Response, get

from sparkle_lite.http.problems import nothing_here
from sparkle_lite.http.ready import FOR_EVER, Ready, ready, respond
from sparkle_lite.http.session import AnyRequest

_BUNDLE = "rapidoc-min.js"
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
    bundle: Ready
    page: Ready


@cache
def _files() -> _Files:
    """The bundle under a name that changes with its content, and the page that names it."""
    folder = resources.files(__package__)
    bundle = ready("text/javascript; charset=utf-8", (folder / _BUNDLE).read_bytes())
    name = f"rapidoc.{bundle.version[:10]}.js"
    page = (folder / "page.html").read_text("utf-8").replace("{bundle}", f"/docs/{name}")
    return _Files(name, bundle, ready("text/html; charset=utf-8", page.encode(), packed=False))


@get("/docs", include_in_schema=False)
async def page(request: AnyRequest) -> Response[bytes]:
    """The page itself."""
    files = await asyncio.to_thread(_files)
    return respond(request.scope, files.page, _PAGE_HEADERS)


@get("/docs/{name:str}", include_in_schema=False)
async def bundle(request: AnyRequest, name: str) -> Response[bytes]:
    """Its script, under the name that this content has."""
    files = await asyncio.to_thread(_files)
    if name != files.name:
        raise nothing_here()
    return respond(request.scope, files.bundle, FOR_EVER)


HANDLERS = (page, bundle)
