"""Who is signed in: the session of a request, from its header or its cookie; and the cookie itself."""

from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from litestar import Request, Response

from sparkle_lite.accounts import Actor
from sparkle_lite.db.accounts import UserRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.requests import base_url, client_address
from sparkle_lite.runtime import Runtime

COOKIE = "X-BTN-Token"
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


def token_of(request: Request[Any, Any, Any]) -> tuple[str, bool]:
    """The session token, and whether it came by cookie. A header wins; URLs are never read: they end up in logs."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip(), False
    token = request.headers.get("x-btn-token", "").strip()
    if token:
        return token, False
    return request.cookies.get(COOKIE, ""), True


async def signed_in(request: Request[Any, Any, Any], runtime: Runtime) -> SignedIn:
    """The session of a request.

    Raises SparkleError("forbidden") without one, for a banned user, and for a change that another site's page asked
    for: a browser sends the cookie along with those too.
    """
    token, by_cookie = token_of(request)
    user = await user_of(token, request, runtime)
    if by_cookie and request.method not in _SAFE:
        require_same_origin(request, runtime)
    return SignedIn(user, token, Actor.of(user, *_whence(request, runtime)))


async def user_of(token: str, request: Request[Any, Any, Any], runtime: Runtime) -> UserRow:
    """Whose session a token is. Raises SparkleError("forbidden") for none, and for a banned user."""
    return await runtime.accounts.session_user(token, note=not is_head(request.scope))


def visitor(request: Request[Any, Any, Any], runtime: Runtime) -> Actor:
    """Whoever asks, when nobody is signed in or it doesn't matter."""
    return Actor(None, False, *_whence(request, runtime))


def _whence(request: Request[Any, Any, Any], runtime: Runtime) -> tuple[str, str | None]:
    address = client_address(request.scope, runtime.config.server.trusted_proxies)
    return address, request.headers.get("user-agent")


def require_same_origin(request: Request[Any, Any, Any], runtime: Runtime) -> None:
    """Refuse what another site's page asks a browser to do.

    Browsers say so themselves in Sec-Fetch-Site, which no page can forge; over plain http to another machine they
    leave it out, and Origin decides. What carries neither is no browser of today and can send the token as a header.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    same = site in ("same-origin", "none") if site is not None else _is_ours(origin or "", request, runtime)
    if not same:
        raise SparkleError(
            "forbidden",
            "This change was asked for by another site; use this server's own pages, or send the token as a header.",
            "该操作来自其他站点，请使用本服务器的页面，或通过请求头发送令牌。",
        )


def _is_ours(origin: str, request: Request[Any, Any, Any], runtime: Runtime) -> bool:
    """Whether an origin is this server, by its public URL or by the name that this request calls it."""
    server = runtime.config.server
    urls = {base_url(request.scope, public, server.trusted_proxies) for public in (server.public_url, "")}
    try:
        asked = _place(urlsplit(origin))
        return asked[1] is not None and asked in {_place(urlsplit(url)) for url in urls}
    except ValueError:
        return False


def _place(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


def set_session_cookie(response: Response[Any], token: str, request: Request[Any, Any, Any], runtime: Runtime) -> None:
    """Give the browser a session's token, out of reach of scripts; no token ends what it has."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=runtime.config.auth.session_lifetime // 1000 if token else 0,
        path="/",
        secure=is_https(request, runtime),
        httponly=True,
        samesite="lax",
    )


def is_https(request: Request[Any, Any, Any], runtime: Runtime) -> bool:
    """Whether the client reaches this server by https, so that cookies may be bound to it."""
    server = runtime.config.server
    return base_url(request.scope, server.public_url, server.trusted_proxies).startswith("https://")


def require_admin(me: SignedIn) -> None:
    """Refuse who is no administrator."""
    if not me.is_admin:
        raise SparkleError("forbidden", "Access denied: this is for administrators.", "拒绝访问")
