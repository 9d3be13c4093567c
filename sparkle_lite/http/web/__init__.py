"""The pages for people with a browser."""

from litestar import MediaType, Response, Router, get
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.http.ready import FOR_EVER, respond
from sparkle_lite.http.session import is_https
from sparkle_lite.http.web import admin, analyses, apps, explore, home, render, rules, sign_in, welcome, why
from sparkle_lite.http.web.render import Asked, Page, Pages
from sparkle_lite.http.web.sign_in import sign_in_page

__all__ = ["Pages", "routes", "sign_in_page"]

# The longest form is a list of addresses.
_FORM_BYTES = 65_536
_YEAR_S = 365 * 86_400


def routes(pages: Pages) -> list[Router]:
    """The handlers of one server's pages."""
    handlers: list[HTTPRouteHandler] = []
    for module in (sign_in, home, welcome, apps, admin, explore, why, rules, analyses):
        handlers += module.routes(pages)
    return [
        Router(
            "/",
            route_handlers=[*handlers, _language(pages), _static()],
            include_in_schema=False,
            request_max_body_size=_FORM_BYTES,
        )
    ]


def _language(pages: Pages) -> HTTPRouteHandler:
    @get("/language")
    async def language(request: Asked) -> Page:
        """Choose a language and go back to the page."""
        chosen = request.query_params.get("to", "")
        response = render.see_other(render.local(request.query_params.get("next", "/")))
        if chosen in render.LANGUAGES:
            secure = is_https(request, pages.runtime)
            response.set_cookie(
                render.LANGUAGE_COOKIE, chosen, max_age=_YEAR_S, path="/", secure=secure, samesite="lax"
            )
        return response

    return language


def _static() -> HTTPRouteHandler:
    @get("/static/{name:path}")
    async def static(request: Asked, name: str) -> Response[bytes]:
        """A file of the package by its hashed name; what it holds never changes under that name."""
        asset = render.assets().get(name.removeprefix("/"))
        if asset is None:
            return Response(b"", status_code=404, media_type=MediaType.TEXT)
        return respond(request.scope, asset, FOR_EVER)

    return static
