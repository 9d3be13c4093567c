"""Signing in and out, and where a member is signed in."""

from litestar import get, post

from sparkle_lite.errors import SparkleError
from sparkle_lite.http import github
from sparkle_lite.http.session import (
    AnyRequest,
    Injected,
    SignedIn,
    is_https,
    require_same_origin,
    server_of,
    set_session_cookie,
    token_of,
    visitor,
)
from sparkle_lite.http.web.access import MEMBERS, look_who_asks, why_out
from sparkle_lite.http.web.render import Page, PostedForm, local, page, see_other
from sparkle_lite.http.web.words import word_card
from sparkle_lite.server import Server

# Where to go after signing in: the way through GitHub, and a link from elsewhere, both end at the first page.
_NEXT_COOKIE = "sparkle-next"
_NEXT_S = 600


async def sign_in_page(request: AnyRequest, error: SparkleError | None) -> Page:
    """How to sign in; with why the last attempt was refused."""
    server = server_of(request)
    wanted = local(request.query_params.get("next", "/"))
    if error is None:
        if await look_who_asks(request, server) is not None:
            return see_other(wanted)
        error = await why_out(request, server)
    with_github = github.is_configured(server.config.auth.github)
    response = page(request, "login.html", refused=error, with_github=with_github)
    if wanted != "/":
        secure = is_https(request, server)
        response.set_cookie(
            _NEXT_COOKIE, wanted, max_age=_NEXT_S, path="/", secure=secure, httponly=True, samesite="lax"
        )
    return response


def wanted_page(request: AnyRequest) -> Page | None:
    """The way to the page that somebody wanted before they signed in."""
    wanted = local(request.cookies.get(_NEXT_COOKIE, "/"))
    if wanted == "/":
        return None
    response = see_other(wanted)
    response.delete_cookie(_NEXT_COOKIE, path="/")
    return response


@post("/logout", status_code=303)
async def log_out(request: AnyRequest, server: Injected[Server]) -> Page:
    """End the session of whoever asks, be it good or not."""
    token, _ = token_of(request)
    require_same_origin(request, server)
    if token:
        await server.sessions.log_out(token, visitor(request, server))
    response = see_other("/login", done="signed_out")
    set_session_cookie(response, "", request, server)
    return response


@get("/account", guards=MEMBERS)
async def account(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """Who one is here, and where one is signed in."""
    sessions = await server.sessions.all(me.token)
    return page(request, "account.html", sessions=sessions, word=await word_card(server, me.user))


@post("/account/name", status_code=303, guards=MEMBERS)
async def rename(server: Injected[Server], me: Injected[SignedIn], form: Injected[PostedForm]) -> Page:
    """Choose the name that others see."""
    await server.users.rename(me.user.id, form.get("name", ""), me.actor)
    return see_other("/account", done="saved")


@post("/account/end-others", status_code=303, guards=MEMBERS)
async def end_others(server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """Sign out everywhere else."""
    await server.sessions.log_out_others(me.token, me.actor)
    return see_other("/account", done="sessions_ended")


HANDLERS = (log_out, account, rename, end_others)
