"""What a request says of itself: who sent it from where, by which address it reached us, and its body."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote

from litestar import Request
from litestar.datastructures import FormMultiDict
from litestar.types import Empty

from sparkle_lite import net
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import problem
from sparkle_lite.net import Network
from sparkle_lite.texts import phrase
from sparkle_lite.units import KIB, MIB
from sparkle_lite.wire.bodies import inflate, utf8

if TYPE_CHECKING:
    from sparkle_lite.ingest.memory import OwnRoom

Headers = Sequence[tuple[bytes, bytes]]
# Each framework has ASGI types of its own; only the plain ones fit uvicorn's and Litestar's.
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Scope = Any
# What is taken of a refused request's body.
_LINGER_S = 2
_LINGER_BYTES = 64 * MIB
# Of cookies: the browser sends those of other servers on this machine as well. Of a form: the longest has some thirty.
_COOKIE_BYTES, _MOST_FIELDS = 16 * KIB, 256
_ESCAPE = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)
# Of a client's query; the longest, of the widget, has some 300.
_QUERY_BYTES = 4 * KIB
_NO_WEIGHT = re.compile(r"q\s*=\s*0(\.0*)?")
# Of proxies, load balancers and the networks that stand before servers, each with its way to say who asks.
_PROXY_HEADER = re.compile(
    r"forwarded|via|cdn-loop|cf-.*|x-(original-)?forwarded(-.*)?|x-real-(ip|port)|x-(cluster-)?client-ip|true-client-ip"
    r"|client-ip|x-(original-)?(host|url)|x-proxyuser-ip|x-remote-(ip|addr)|x-(envoy|azure|arr|appengine|vercel|amz-cf)-.*"
    r"|x-amzn-trace-id|x-cloud-trace-context|fastly-.*|fly-.*|akamai-.*|x-akamai-.*|x-nf-.*|x-sucuri-.*|x-scheme"
)
_HOST = re.compile(r"[A-Za-z0-9._~-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


class ClientGone(SparkleError):
    """Nobody is there any more to be answered."""

    def __init__(self) -> None:
        super().__init__("bad_request", "request.gone")


def header(scope: Scope, name: bytes) -> str:
    """The value of a header (lower-case name), "" if it is absent."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1").strip()
    return ""


def query_value(scope: Scope, name: str) -> str:
    """The first value of a query parameter, "" if it is absent; of a long query no more than its beginning is read."""
    query = str(scope["query_string"][:_QUERY_BYTES], "latin-1")
    return next((value for key, value in parse_qsl(query, keep_blank_values=True) if key == name), "")


_NO_PARAMETERS = phrase("request.no_parameters")


def only(given: Iterable[tuple[str, str]], known: Mapping[str, object]) -> None:
    """Refuse query parameters that mean nothing here: a mistyped filter must not return everything.

    `given` is what the query says, `known` maps each name to the value that was read. Raises SparkleError for another
    name, one that comes twice, and one that was read as nothing (the framework takes the text "null" for that).
    """
    seen: set[str] = set()
    for name, _ in given:
        if name not in known:
            names = phrase("request.known_parameters", names=", ".join(known)) if known else _NO_PARAMETERS
            raise _invalid("request.no_parameter", name=name[:64], names=names)
        if name in seen:
            raise _invalid("request.parameter_twice", name=name)
        if known[name] is None:
            raise _invalid("request.parameter_without_value", name=name)
        seen.add(name)


def _invalid(key: str, /, **values: Any) -> SparkleError:
    return SparkleError("bad_request", key, **values)


def takes_gzip(scope: Scope) -> bool:
    """Whether the client wants its answer compressed: gzip is named, and not ruled out by a weight of zero."""
    for part in header(scope, b"accept-encoding").lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return _NO_WEIGHT.fullmatch(weight.strip()) is None
    return False


def _is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    try:
        address = net.address_bytes(text)
    except net.AddressError:
        return False
    single = Network(address, len(address) * 8)
    return any(network.contains(single) for network in trusted)


def is_from_proxy(scope: Scope, trusted: Sequence[Network]) -> bool:
    """Whether the socket's other end is a trusted proxy."""
    client = scope.get("client")
    return bool(trusted) and client is not None and _is_trusted(client[0], trusted)


def forwarded_addresses(scope: Scope) -> list[str]:
    """The addresses of X-Forwarded-For from the right, up to what is none; whether to believe it is not looked at."""
    forwarded = ",".join(v.decode("latin-1") for k, v in scope["headers"] if k == b"x-forwarded-for")
    found: list[str] = []
    for part in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        try:
            # Some proxies write the port of the connection behind an address.
            net.address_bytes(part)
        except net.AddressError:
            break
        found.append(part)
    return found


def is_proxy_header(name: str) -> bool:
    """Whether a header (any case) is one that nobody but a proxy sends."""
    return bool(_PROXY_HEADER.fullmatch(name.lower()))


def came_by(scope: Scope, trusted: Sequence[Network]) -> Literal["direct", "proxy", "silent_proxy", "unknown_proxy"]:
    """How a request came: from a trusted proxy that says who asks, from one that doesn't, from one nobody named."""
    if is_from_proxy(scope, trusted):
        return "proxy" if forwarded_addresses(scope) else "silent_proxy"
    has_sign = any(is_proxy_header(name.decode("latin-1")) for name, _ in scope["headers"])
    return "unknown_proxy" if has_sign else "direct"


def client_address(scope: Scope, trusted: Sequence[Network]) -> str:
    """The address a request came from, as canonical text ("" where the socket has none).

    X-Forwarded-For is read from the right, and only as far as trusted proxies wrote it: whatever a client put there
    itself stays to the left of what the first trusted proxy added.
    """
    client = scope.get("client")
    address = client[0] if client else ""
    if is_from_proxy(scope, trusted):
        for part in forwarded_addresses(scope):
            address = part
            if not _is_trusted(part, trusted):
                break
    try:
        return net.address_text(net.address_bytes(address))
    except net.AddressError:
        return address


def base_url(scope: Scope, public_url: str, trusted: Sequence[Network]) -> str:
    """The URL under which this client reaches the server, without a trailing slash.

    Raises SparkleError for a Host header that can't be one: it would go straight into a document.
    """
    if public_url:
        return public_url.rstrip("/")
    scheme, host = scope.get("scheme", "http"), header(scope, b"host")
    if is_from_proxy(scope, trusted):
        scheme = header(scope, b"x-forwarded-proto").partition(",")[0].strip().lower() or scheme
        host = header(scope, b"x-forwarded-host").partition(",")[0].strip() or host
    if not host and (server := scope.get("server")):
        name = f"[{server[0]}]" if ":" in server[0] else server[0]
        host = f"{name}:{server[1]}"
    if scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise SparkleError("bad_request", "request.bad_host")
    return f"{scheme}://{host}"


class PlainRequest(Request[Any, Any, Any]):
    """A request to the framework's handlers, whose body may come in any way in which a submission may.

    That is gzip, told by its magic bytes, and UTF-8 or UTF-16 with or without a byte order mark. The limit of a body
    counts for what it inflates to as well.
    """

    _is_plain = False

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies. The framework takes seconds for thousands of escapes, and keeps what it has read."""
        if self._cookies is Empty:
            self._cookies = read_cookies(header(self.scope, b"cookie")[:_COOKIE_BYTES])
        return self._cookies

    async def form(self) -> FormMultiDict:
        """The fields of a form. Raises SparkleError (bad_request) for more than anybody has: their texts are kept."""
        if (await self.body()).count(b"&") > _MOST_FIELDS:
            raise SparkleError("bad_request", "request.many_fields", limit=_MOST_FIELDS)
        return await super().form()

    async def body(self) -> bytes:
        """The body as UTF-8. Raises SparkleError: unsupported, bad_request (damaged), too_large."""
        body = await super().body()
        if body and not self._is_plain:
            limit = self.route_handler.resolve_request_max_body_size() or sys.maxsize - 1
            body, cut_off = inflate(body, header(self.scope, b"content-encoding"), limit)
            if cut_off:
                raise SparkleError("too_large", "request.body_inflates", limit=limit)
            self._body = self._connection_state.body = body = utf8(body)
            self._is_plain = True
        return body


def read_cookies(text: str) -> dict[str, str]:
    """The cookies of a Cookie header; of those of one name the last."""
    cookies = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = _ESCAPE.sub(lambda match: chr(int(match[1], 8)) if match[1] else match[2], value[1:-1])
        cookies[name.strip()] = unquote(value)
    return cookies


async def read_body(scope: Scope, receive: Receive, memory: "OwnRoom", limit: int, timeout_s: float) -> bytes:
    """The whole body, for which memory is acquired; the caller releases it when the body is done with.

    Raises SparkleError: too_large (before reading where the length is declared), timeout, overloaded, or ClientGone;
    then nothing is held.
    """
    declared = header(scope, b"content-length")
    if declared.isdecimal() and len(declared) < 19 and int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    held = 0
    try:
        # Not wait_for: before Python 3.12 it makes a task for each chunk.
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message["body"] if message["type"] == "http.request" else b""
                if chunk:
                    if held + len(chunk) > limit:
                        raise _too_large(limit)
                    await memory.acquire(len(chunk))
                    held += len(chunk)
                    chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        memory.release(held)
        raise SparkleError("timeout", "request.body_slow", seconds=timeout_s) from None
    except BaseException:
        memory.release(held)
        raise


def _too_large(limit: int) -> SparkleError:
    return SparkleError("too_large", "request.body_large", limit=limit)


async def answer(send: Send, status: int, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole answer; the length is added (but not to a 204 or 304, which have none)."""
    length = () if status in (204, 304) else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def refuse(scope: Scope, receive: Receive, send: Send, error: SparkleError) -> None:
    """Answer with a refusal, perhaps before the body has come.

    Where the connection ends with this answer, the rest of the body is taken first: closing with bytes unread would
    reset the connection, and a proxy would report that instead of our sentence.
    """
    await turn_away(scope, receive, send, *problem(error))


async def turn_away(
    scope: Scope, receive: Receive, send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    """The same with a refusal that is made already; its length is added."""
    if header(scope, b"connection").lower() != "close" or header(scope, b"expect"):
        await answer(send, status, body, headers)
        return
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            left = _LINGER_BYTES
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    break
                left -= len(message["body"])
    await send({"type": "http.response.body", "body": b"", "more_body": False})
