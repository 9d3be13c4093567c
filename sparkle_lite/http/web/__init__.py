"""The pages for people with a browser."""

from litestar import MediaType, Response, Router, get
from litestar.di import Provide

from sparkle_lite.http.ready import FOR_EVER, respond
from sparkle_lite.http.session import AnyRequest, Injected
from sparkle_lite.http.web import (
    access,
    admin,
    analyses,
    apps,
    backups,
    explore,
    feeds,
    home,
    imports,
    manual,
    render,
    rules,
    sign_in,
    welcome,
    why,
)
from sparkle_lite.http.web.once import OnceForms
from sparkle_lite.http.web.render import Page
from sparkle_lite.http.web.sign_in import sign_in_page
from sparkle_lite.server import Server
from sparkle_lite.texts import languages
from sparkle_lite.units import KIB

__all__ = ["router", "sign_in_page"]

# The longest form is a list of addresses.
_FORM_BYTES = 64 * KIB


@get("/language")
async def choose_language(request: AnyRequest, server: Injected[Server]) -> Page:
    """Choose a language and go back to the page."""
    response = render.see_other(render.local(request.query_params.get("next", "/")))
    render.keep_language(response, request.query_params.get("to", ""), request, server)
    return response


@get("/static/{name:path}")
async def static_file(request: AnyRequest, name: str) -> Response[bytes]:
    """A file of the package by its hashed name; what it holds never changes under that name."""
    asset = render.assets().get(name.removeprefix("/"))
    if asset is None:
        return Response(b"", status_code=404, media_type=MediaType.TEXT)
    return respond(request.scope, asset, FOR_EVER)


HANDLERS = (
    *(choose_language, static_file),
    *sign_in.HANDLERS,
    *home.HANDLERS,
    *welcome.HANDLERS,
    *apps.HANDLERS,
    *feeds.HANDLERS,
    *admin.HANDLERS,
    *backups.HANDLERS,
    *explore.HANDLERS,
    *why.HANDLERS,
    *rules.HANDLERS,
    *imports.HANDLERS,
    *analyses.HANDLERS,
    *manual.HANDLERS,
)


def router() -> Router:
    """The pages of one server."""
    for language in languages():
        render.environment(language)
    return Router(
        "/",
        route_handlers=HANDLERS,
        dependencies={
            "form": Provide(render.posted),
            "reader": Provide(access.reader, sync_to_thread=False),
            # Made once and kept.
            "lookups": Provide(why.lookup_limit, use_cache=True, sync_to_thread=False),
            "once": Provide(OnceForms, use_cache=True, sync_to_thread=False),
            "dry_run": Provide(analyses.one_dry_run, use_cache=True, sync_to_thread=False),
        },
        include_in_schema=False,
        request_max_body_size=_FORM_BYTES,
    )
