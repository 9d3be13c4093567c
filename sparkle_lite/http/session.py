"""Who is signed in, of a request: the session in its header or its cookie; and the cookie itself.

A handler names what it needs as parameters, `server: Injected[Server]` and `me: Injected[SignedIn]`. Who may ask at all
is for guards to say, which run before anything of the request is read: `guards=[requires_sign_in]`, `[requires_admin]`.
"""

from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from litestar import MediaType, Request, Response
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.params import SkipValidation

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.users import UserRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.requests import base_url, client_address
from sparkle_lite.server import Server

T = TypeVar("T")
# What a handler is given by the name of its parameter; a name that nobody provides stops the start.
Injected: TypeAlias = NamedDependency[SkipValidation[T]]
AnyRequest = Request[Any, Any, Any]
Connection = ASGIConnection[Any, Any, Any, Any]

COOKIE = "X-BTN-Token"
# Of an answer that holds a token, or sets one.
TOKEN_HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
# Where in a request's state its session stands once it was looked up.
_STATE = "me"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443}


class SignedIn(NamedTuple):
    """The user of a request, the token that proved it, and the same as whoever acts."""

    user: UserRow
    token: str
    actor: Actor

    @property
    def is_admin(self) -> bool:
        """Whether this user may see and change what is others'."""
        return self.user.role == "admin"


def server_of(request: Connection) -> Server:
    """The server that a request came to: the dependency `server`."""
    return cast(Server, request.app.state.server)


def token_of(request: AnyRequest) -> tuple[str, bool]:
    """The session token, and whether it came by cookie. A header wins; URLs are never read: they end up in logs."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip(), False
    token = request.headers.get("x-btn-token", "").strip()
    if token:
        return token, False
    return request.cookies.get(COOKIE, ""), True


async def signed_in(request: AnyRequest, server: Injected[Server]) -> SignedIn:
    """The session of a request, looked up once: the dependency `me`.

    Raises SparkleError("forbidden") without one, for a banned user, and for a change that another site's page asked
    for: a browser sends the cookie along with those too.
    """
    me: SignedIn | None = request.scope["state"].get(_STATE)
    if me is None:
        token, by_cookie = token_of(request)
        user = await user_of(token, request, server)
        if by_cookie and request.method not in _SAFE:
            require_same_origin(request, server)
        me = SignedIn(user, token, Actor.of(user, *_whence(request, server)))
        request.scope["state"][_STATE] = me
    return me


async def user_of(token: str, request: AnyRequest, server: Server) -> UserRow:
    """Whose session a token is. Raises SparkleError("forbidden") for none, and for a banned user."""
    return await server.sessions.user(token, note=not is_head(request.scope))


async def requires_sign_in(connection: Connection, _: BaseRouteHandler) -> None:
    """A guard: only who is signed in. Raises as `signed_in` does."""
    await _session_of(connection)


async def requires_admin(connection: Connection, _: BaseRouteHandler) -> None:
    """A guard: only administrators. Raises as `signed_in` and `require_admin` do."""
    me = await _session_of(connection)
    if me is not None:
        await require_admin(_request(connection), me)


async def require_admin(request: AnyRequest, me: SignedIn) -> None:
    """Refuse who is no administrator, and audit that it was tried."""
    try:
        me.actor.require_admin()
    except SparkleError as error:
        details = {"method": request.method, "path": request.url.path[:200]}
        await server_of(request).audit.note_failure("ADMIN", me.actor, error, **details)
        raise


async def _session_of(connection: Connection) -> SignedIn | None:
    """Who asks through a guarded route; None for OPTIONS, which is answered to anybody."""
    request = _request(connection)
    return None if request.method == "OPTIONS" else await signed_in(request, server_of(request))


def _request(connection: Connection) -> AnyRequest:
    # The framework hands guards the very request that the handler gets.
    return cast(AnyRequest, connection)


def visitor(request: AnyRequest, server: Server) -> Actor:
    """Whoever asks, when nobody is signed in or it doesn't matter."""
    return Actor(None, False, *_whence(request, server))


def _whence(request: AnyRequest, server: Server) -> tuple[str, str | None]:
    address = client_address(request.scope, server.config.server.trusted_proxies)
    return address, request.headers.get("user-agent")


def require_same_origin(request: AnyRequest, server: Server) -> None:
    """Refuse what another site's page asks a browser to do.

    Browsers say so themselves in Sec-Fetch-Site, which no page can forge; over plain http to another machine they
    leave it out, and Origin decides. What carries neither is no browser of today and can send the token as a header.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    same = site in ("same-origin", "none") if site is not None else _is_ours(origin or "", request, server)
    if not same:
        raise SparkleError("forbidden", "session.other_site")


def _is_ours(origin: str, request: AnyRequest, server: Server) -> bool:
    """Whether an origin is this server, by its public URL or by the name that this request calls it."""
    section = server.config.server
    urls = {base_url(request.scope, public, section.trusted_proxies) for public in (section.public_url, "")}
    try:
        place = _place(urlsplit(origin))
        return place[1] is not None and place in {_place(urlsplit(url)) for url in urls}
    except ValueError:
        return False


def _place(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


def set_session_cookie(response: Response[Any], token: str, request: AnyRequest, server: Server) -> None:
    """Give the browser a session's token, out of reach of scripts; no token ends what it has."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=server.config.auth.session_lifetime // 1000 if token else 0,
        path="/",
        secure=is_https(request, server),
        httponly=True,
        samesite="lax",
    )


async def enter(request: AnyRequest, server: Server, actor: Actor, token: str) -> Response[str]:
    """Lead the browser to the first page with a session of its own; the one that it had ends."""
    response = redirect("/", status=303 if request.method == "POST" else 302)
    await change_session(response, request, server, actor, token)
    return response


async def change_session(
    response: Response[Any], request: AnyRequest, server: Server, actor: Actor, token: str
) -> None:
    """Give the browser another session's token; the session that it had ends."""
    before = request.cookies.get(COOKIE, "")
    if before and not is_head(request.scope):
        await server.sessions.log_out(before, actor)
    set_session_cookie(response, token, request, server)


def redirect(url: str, status: int = 302) -> Response[str]:
    """Lead a browser elsewhere; nobody keeps the way or is told where it came from."""
    headers = {"location": url, **TOKEN_HEADERS}
    return Response("", status_code=status, headers=headers, media_type=MediaType.TEXT)


def own_url(request: AnyRequest, server: Server) -> str:
    """The URL under which the client reaches this server, without a trailing slash. Raises as `base_url` does."""
    section = server.config.server
    return base_url(request.scope, section.public_url, section.trusted_proxies)


def is_https(request: AnyRequest, server: Server) -> bool:
    """Whether the client reaches this server by https, so that cookies may be bound to it."""
    return own_url(request, server).startswith("https://")


# `me` asks for `server`, so that the two are found one after the other: for those that don't depend on each other the
# framework makes a group of tasks, which costs more than both.
DEPENDENCIES = {"server": Provide(server_of, sync_to_thread=False), "me": Provide(signed_in)}
