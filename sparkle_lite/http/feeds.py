"""The feeds over HTTP: bytes that were made with the rules, for programs that fetch a list by its URL.

A request for one costs no query: everybody who may have it is known in memory, but for people with a session. Whatever
is asked for below /feeds/ is answered here, and a refusal is plain text: a program that were led to a page would import
that. Nothing of the URL comes back in an answer, because a key may stand anywhere in it.
"""

import logging
from functools import partial

from litestar import Response, route
from litestar.handlers import ASGIRouteHandler, asgi

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.secrets import FEED_KEY_PREFIX
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.admission import Admission
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import MethodNotAllowed, internal, problem
from sparkle_lite.http.ready import REVALIDATE, Ready, choose
from sparkle_lite.http.requests import (
    PlainRequest,
    Receive,
    Scope,
    Send,
    answer,
    client_address,
    header,
    query_value,
    turn_away,
)
from sparkle_lite.http.session import token_of
from sparkle_lite.rules.feeds import NAMES
from sparkle_lite.server import Server
from sparkle_lite.wire.credentials import basic_pair, present
from sparkle_lite.wire.feeds import Feed

KEY = "key"
# What the audit calls a refused request.
_ACTION = "FEEDS_READ"
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_CHALLENGE = (b"www-authenticate", b'Basic realm="Sparkle Lite feeds", charset="UTF-8"')
_HEADERS = (
    (b"cache-control", REVALIDATE.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
# What a browser shows rather than saves.
_SHOWN = (".txt", ".json")
logger = logging.getLogger("sparkle.feeds")


class _NothingShown(SparkleError):
    """The request has nothing that says who asks. Some programs send what stands in a URL only after a challenge."""

    def __init__(self) -> None:
        super().__init__("forbidden", "feeds.nothing_shown")


def handlers(server: Server) -> list[ASGIRouteHandler]:
    """The routes of the feeds, as one server answers them."""
    admission = Admission(server)
    return [asgi(f"/feeds/{name}", copy_scope=False)(partial(_serve, server, admission, name)) for name in NAMES]


@route("/feeds/{name:path}", http_method=["GET", "POST", "PUT", "PATCH", "DELETE"], status_code=404)
async def no_such_feed() -> Response[bytes]:
    """What else is asked for below /feeds/."""
    return unknown_feed()


def is_no_feed(scope: Scope) -> bool:
    """Whether a path is one of `no_such_feed`, for the methods that the framework has no handler for."""
    path = str(scope["path"])
    return path.startswith("/feeds/") and path.removeprefix("/feeds/") not in NAMES


def unknown_feed() -> Response[bytes]:
    """That there is no such feed, and which there are."""
    status, headers, body = _refusal(SparkleError("not_found", "feeds.unknown", names=", ".join(NAMES)))
    return Response(body, status_code=status, headers={name.decode(): value.decode() for name, value in headers})


async def _serve(server: Server, admission: Admission, name: str, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        if scope["method"] != "GET":
            raise MethodNotAllowed(scope["method"], ("GET",))
        await _admit(server, admission, scope)
        feed = await _feed(server, name)
    except SparkleError as error:
        await turn_away(scope, receive, send, *_refusal(error))
        return
    document = Ready(feed.media_type, feed.tag, feed.body, feed.gzip, modified_ms=feed.published_at)
    chosen = choose(scope, document, now_ms=server.timekeeping.clock.settled())
    # Programs that name a file after its URL would make the key a part of the name.
    kind = "inline" if name.endswith(_SHOWN) else "attachment"
    disposition = (b"content-disposition", f'{kind}; filename="{name}"'.encode())
    await answer(send, chosen.status, chosen.body, [*chosen.headers, disposition, *_HEADERS])


async def _feed(server: Server, name: str) -> Feed:
    try:
        return await server.publisher.feed(name)
    except SparkleError:
        raise
    except Exception as error:
        logger.error("the feed %s could not be made", name, exc_info=error)
        raise internal() from error


async def _admit(server: Server, admission: Admission, scope: Scope) -> None:
    """Let a request in. Raises SparkleError: forbidden, too_many."""
    if server.config.feeds.is_open(server.config.analysis.preset):
        return
    named = basic_pair(header(scope, b"authorization").encode("latin-1"))
    if key := _key(scope, named):
        await _admit_key(server, scope, key)
        return
    presented = present(scope["headers"])
    if presented.app_id or presented.installation_id or presented.placeholder:
        await admission.admit(scope, _ACTION)
    elif token := token_of(PlainRequest(scope))[0]:
        await server.sessions.user(token, note=not is_head(scope))
    elif named:
        await admission.admit(scope, _ACTION, by_basic=True)
    else:
        raise _NothingShown


def _key(scope: Scope, named: tuple[str, str] | None) -> str:
    """The feed key of a request, from its query or as the password of HTTP Basic; "" for none."""
    if named and named[1].startswith(FEED_KEY_PREFIX):
        return named[1]
    return query_value(scope, KEY)


async def _admit_key(server: Server, scope: Scope, key: str) -> None:
    address = client_address(scope, server.config.server.trusted_proxies)
    try:
        server.registry.feed_key(key, address, note=not is_head(scope))
    except SparkleError as error:
        if error.code == "forbidden":
            actor = Actor(None, False, address, header(scope, b"user-agent"))
            await server.audit.note_failure(_ACTION, actor, error)
        raise


def _refusal(error: SparkleError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body: a sentence, in both languages."""
    status, headers, _ = problem(error)
    kept = [(name, value) for name, value in headers if name != b"content-type"]
    if isinstance(error, _NothingShown):
        status = 401
        kept.append(_CHALLENGE)
    return status, [_TEXT, *kept], f"{error.said.raw()}\n".encode()
