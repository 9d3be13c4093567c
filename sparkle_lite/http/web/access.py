"""Who may see a page. Every handler of a page says one: `guards=MEMBERS`, `guards=ADMINS` or `guards=ANYBODY`.

A handler for members or administrators is given who asks as `me: Injected[SignedIn]`, one for anybody as
`reader: Injected[SignedIn | None]`; templates know them as `me`.
"""

from typing import cast

from litestar.handlers import BaseRouteHandler

from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import (
    COOKIE,
    AnyRequest,
    Connection,
    SignedIn,
    requires_admin,
    requires_sign_in,
    server_of,
    signed_in,
    user_of,
)
from sparkle_lite.http.web.render import SignInFirst, here
from sparkle_lite.server import Server


async def _leads_to_sign_in(connection: Connection, handler: BaseRouteHandler) -> None:
    """Only who is signed in; the browser of anybody else is led to the sign-in page.

    Raises SignInFirst; SparkleError (forbidden) for a change that another site asks for.
    """
    request = cast(AnyRequest, connection)
    try:
        await requires_sign_in(connection, handler)
    except SparkleError:
        if await why_out(request, server_of(request)) is None and request.cookies.get(COOKIE):
            raise
        raise SignInFirst(here(request) if request.method == "GET" else "/") from None


async def _looks_who_asks(connection: Connection, _: BaseRouteHandler) -> None:
    """Everybody; the page knows who is signed in."""
    request = cast(AnyRequest, connection)
    await look_who_asks(request, server_of(request))


MEMBERS = [_leads_to_sign_in]
ADMINS = [_leads_to_sign_in, requires_admin]
ANYBODY = [_looks_who_asks]


async def look_who_asks(request: AnyRequest, server: Server) -> SignedIn | None:
    """Who is signed in, if anybody, for a page to show."""
    request.state.me = None
    if not request.cookies.get(COOKIE) and not request.headers.get("authorization"):
        return None
    try:
        return await signed_in(request, server)
    except SparkleError:
        return None


def reader(request: AnyRequest) -> SignedIn | None:
    """Who is signed in, if anybody, where a page is for everybody: the dependency `reader`."""
    return cast(SignedIn | None, request.state.me)


async def why_out(request: AnyRequest, server: Server) -> SparkleError | None:
    """Why the session that a browser still has is no good; None where it has none, or a good one."""
    token = request.cookies.get(COOKIE, "")
    if not token:
        return None
    try:
        await user_of(token, request, server)
    except SparkleError as error:
        return error
    return None
