"""Signing in and out, and where a member is signed in."""

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from sparkle_lite.errors import SparkleError
from sparkle_lite.http import github
from sparkle_lite.http.problems import STATUS
from sparkle_lite.http.session import (
    COOKIE,
    is_https,
    require_same_origin,
    set_session_cookie,
    token_of,
    user_of,
    visitor,
)
from sparkle_lite.http.web.render import Asked, Page, Pages, form, language_of, local, said, see_other

# Where to go after signing in: the way through GitHub, and a link from elsewhere, both end at the first page.
_NEXT_COOKIE = "sparkle-next"
_NEXT_S = 600


async def sign_in_page(pages: Pages, request: Asked, error: SparkleError | None) -> Page:
    """How to sign in; with why the last attempt was refused."""
    if error is None:
        if await pages.me(request) is not None:
            return see_other(local(request.query_params.get("next", "/")))
        error = await _why_out(pages, request)
    page = pages.page(
        request,
        "login.html",
        status=200 if error is None else STATUS[error.code],
        reason="" if error is None else said(error, language_of(request)),
        with_github=github.is_configured(pages.runtime.config.auth.github),
    )
    wanted = local(request.query_params.get("next", "/"))
    if wanted != "/":
        secure = is_https(request, pages.runtime)
        page.set_cookie(_NEXT_COOKIE, wanted, max_age=_NEXT_S, path="/", secure=secure, httponly=True, samesite="lax")
    if error is not None and error.retry_after is not None:
        page.headers["retry-after"] = str(max(1, error.retry_after))
    return page


async def _why_out(pages: Pages, request: Asked) -> SparkleError | None:
    """Why the session that a browser still has is no good; None where it has none."""
    token = request.cookies.get(COOKIE, "")
    if not token:
        return None
    try:
        await user_of(token, request, pages.runtime)
    except SparkleError as error:
        return error
    return None


def wanted_page(request: Asked) -> Page | None:
    """The way to the page that somebody wanted before they signed in."""
    wanted = local(request.cookies.get(_NEXT_COOKIE, "/"))
    if wanted == "/":
        return None
    response = see_other(wanted)
    response.delete_cookie(_NEXT_COOKIE, path="/")
    return response


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    runtime = pages.runtime

    @post("/logout", status_code=303)
    async def log_out(request: Asked) -> Page:
        token, _ = token_of(request)
        require_same_origin(request, runtime)
        if token:
            await runtime.accounts.log_out(token, visitor(request, runtime))
        response = see_other("/login", done="signed_out")
        set_session_cookie(response, "", request, runtime)
        return response

    @get("/account")
    async def account(request: Asked) -> Page:
        me = await pages.member(request)
        return pages.page(request, "account.html", sessions=await runtime.accounts.sessions(me.token))

    @post("/account/name", status_code=303)
    async def rename(request: Asked) -> Page:
        me = await pages.member(request)
        await runtime.accounts.rename(me.user.id, (await form(request)).get("name", ""), me.actor)
        return see_other("/account", done="saved")

    @post("/account/end-others", status_code=303)
    async def end_others(request: Asked) -> Page:
        me = await pages.member(request)
        await runtime.accounts.log_out_others(me.token, me.actor)
        return see_other("/account", done="sessions_ended")

    return [log_out, account, rename, end_others]
