"""Fetching a file by URL, as lists of others and neighbours are: bounded in size and time, and guarded.

Whoever may name a URL could have this program ask what only this machine reaches, the router's page or a cloud's
metadata. So unless that is allowed, every hop's name is resolved once, what it resolves to is checked, and the
connection goes to an address that was checked, while the certificate and the Host header keep to the name. Neither
proxies nor credentials of the environment are used. What arrived in part is an error, never a body.
"""

import asyncio
import errno
import io
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urljoin

import sparkle_lite
from sparkle_lite import clock, net
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import DAY_S, KIB, MIB, SECOND_MS

if TYPE_CHECKING:
    import httpx

# The addresses of a name and port, as texts. Raises OSError where there are none.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
# Called with the bytes received so far, and how many there will be where the answer says so.
Progress = Callable[[int, int | None], None]

# Whether a URL, in plain form, may lead to this machine and to private networks.
Allowance = Callable[[str], bool]

LONGEST_URL = 2048
MOST_ADDRESSES = 8

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{0,5}))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
# A last label of this kind makes a name an IPv4 address in one of its spellings (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,2046}[\x21-\x7e])?")

_REDIRECTS = (301, 302, 303, 307, 308)
_GZIP = ("gzip", "x-gzip")
# At a time, so that inflating never holds up the loop for more than a moment.
_INFLATED_BYTES = 256 * KIB

# IPv6 networks that hold an IPv4 address, and where: packets to them may end there. IPv4-compatible and -mapped
# (RFC 4291, 2.5.5), -translated (RFC 2765), NAT64 (RFC 6052), 6to4 (RFC 3056). Teredo and ISATAP are more involved.
_HOLDING_IPV4 = tuple(
    (net.parse_network(network), first)
    for network, first in (
        ("::/96", 12),
        ("::ffff:0:0:0/96", 12),
        ("64:ff9b::/96", 12),
        ("2002::/16", 2),
    )
)
_TEREDO = net.parse_network("2001::/32")
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
# No peer has them, but a machine may: "this network" (RFC 791), protocol assignments, metadata of a cloud among them
# (RFC 6890), NAT64 of one's own (RFC 8215), the site-local of old (RFC 3879).
_OF_NETWORKS = tuple(map(net.parse_network, ("0.0.0.0/8", "192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10")))
# Nobody's: where a socket can be bound to these, the machine lets it be bound to anything.
_NOBODYS = {4: socket.inet_pton(socket.AF_INET, "240.0.0.1"), 16: socket.inet_pton(socket.AF_INET6, "100::1")}


class Validators(NamedTuple):
    """What a server said of a body, to ask later whether it is still the same (RFC 9110, 8.8); empty where nothing."""

    etag: str = ""
    last_modified: str = ""


class FetchLimits(NamedTuple):
    """How much is taken, and how long is waited.

    `max_bytes` holds for what arrives and for what it inflates to. `connect_s` is for looking a name up, and for each
    of its addresses; `read_s` without a byte ends it, as `total_s` in all does. `redirects` are followed.
    """

    max_bytes: int = 64 * MIB
    connect_s: float = 10
    read_s: float = 30
    total_s: float = 300
    redirects: int = 5


NOTHING_KNOWN = Validators()
USUAL_LIMITS = FetchLimits()


class Fetched(NamedTuple):
    """What a URL gave.

    `url` is the one asked for and `final_url` where redirects led, both in plain form. `body` is None where it hasn't
    changed since the validators that were sent. `media_type` is in lower case and without parameters.
    """

    url: str
    final_url: str
    body: bytes | None
    validators: Validators
    media_type: str


class _Target(NamedTuple):
    """A URL that was checked: `host` is a name in ASCII or an address in canonical text, `rest` path and query."""

    scheme: str
    host: str
    port: int
    rest: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.rest}"

    @property
    def shown(self) -> str:
        """Without the query, which may hold a key."""
        return f"{self.scheme}://{self.authority}{self.rest.partition('?')[0][:200]}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


# --- URLs -------------------------------------------------------------------------------------------------------------


def check_url(url: str, *, allow_private: bool) -> str:
    """A URL that may be fetched, in plain form: names in ASCII, no fragment, no port where it is the scheme's own.

    Looks at its text alone: where a name leads is seen when it is fetched. Raises SparkleError with the mend, which
    never repeats more of the text than its host.
    """
    return _read_url(url, allow_private=allow_private).url


def _read_url(url: str, *, allow_private: bool) -> _Target:
    text = url.strip(" \t\r\n").partition("#")[0]
    _require_short(text)
    # Some programs drop these, others end the host with them: what is checked would not be what is fetched.
    if " " in text or "\\" in text or not text.isprintable():
        raise SparkleError("bad_request", "fetch.bad_character")
    match = _URL.fullmatch(text)
    if match is None:
        raise SparkleError("bad_request", "fetch.bad_scheme")
    scheme, authority, path, query = match[1].lower(), match[2], match[3], match[4]
    if "@" in authority:
        raise SparkleError("bad_request", "fetch.has_credentials")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise SparkleError("bad_request", "fetch.bad_host")
    bracketed, name, digits = match.groups()
    port = int(digits) if digits else _PORTS[scheme]
    if not 0 < port < 65536:
        raise SparkleError("bad_request", "fetch.bad_port")
    host = _read_address(bracketed) if bracketed else _read_name(name)
    if not allow_private:
        _require_public_host(host)
    rest = (_quoted(path) or "/") + (f"?{_quoted(query, '?')}" if query else "")
    target = _Target(scheme=scheme, host=host, port=port, rest=rest)
    _require_short(target.url)
    return target


def _read_allowed(url: str, allows: Allowance) -> _Target:
    target = _read_url(url, allow_private=True)
    if not allows(target.url):
        _require_public_host(target.host)
    return target


def _require_short(url: str) -> None:
    if len(url) > LONGEST_URL:
        raise SparkleError("bad_request", "fetch.url_too_long", most=LONGEST_URL)


def _quoted(text: str, more: str = "") -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe="/:@!$&'()*+,;=~%" + more)


def _read_address(text: str) -> str:
    # A zone names an interface of one machine.
    if ":" not in text or "%" in text:
        raise SparkleError("bad_request", "fetch.bad_address", host=text[:64])
    try:
        return net.address_text(net.address_bytes(text))
    except net.AddressError:
        raise SparkleError("bad_request", "fetch.bad_address", host=text[:64]) from None


def _read_name(text: str) -> str:
    name = (text if text.isascii() else _in_ascii(text)).lower().removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        # 127.1, 0x7f.1 and 2130706433 are addresses to the C library, and to nobody who reads them.
        try:
            return net.address_text(socket.inet_pton(socket.AF_INET, name))
        except OSError:
            raise SparkleError("bad_request", "fetch.bad_address", host=text[:64]) from None
    if not _NAME.fullmatch(name):
        raise SparkleError("bad_request", "fetch.bad_host")
    return name


def _in_ascii(name: str) -> str:
    import httpx

    try:
        return httpx.URL(scheme="http", host=name).raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        raise SparkleError("bad_request", "fetch.bad_host") from None


def _require_public_host(host: str) -> None:
    address = _address_in(host)
    is_local = host == "localhost" or host.endswith(".localhost")
    if is_local or (address is not None and not _is_public(address)):
        raise SparkleError("forbidden", "fetch.private", host=host)


def _address_in(host: str) -> bytes | None:
    """The address that a host is written as; None for a name."""
    try:
        return net.address_bytes(host)
    except net.AddressError:
        return None


# --- Addresses --------------------------------------------------------------------------------------------------------


def _is_public(address: bytes) -> bool:
    """Whether an address is on the Internet, and so is every IPv4 address in it."""
    as_network = net.Network(address, len(address) * 8)
    if not net.is_public(address) or any(each.contains(as_network) for each in _OF_NETWORKS):
        return False
    return len(address) == 4 or all(map(_is_public, _held_in(address)))


def _held_in(address: bytes) -> list[bytes]:
    """The IPv4 addresses that an IPv6 address holds."""
    as_network = net.Network(address, 128)
    held = [address[first : first + 4] for network, first in _HOLDING_IPV4 if network.contains(as_network)]
    if _TEREDO.contains(as_network):
        # The server, and the client with every bit turned (RFC 4380, 4).
        held += [address[4:8], bytes(each ^ 0xFF for each in address[12:])]
    if address[8:12] in _ISATAP:
        # RFC 5214, 6.1
        held.append(address[12:])
    return held


def _is_own(address: bytes) -> bool:
    """Whether an address is one of this machine's: a socket can be bound to it.

    Its own end of a connection wouldn't tell: to a second address of an interface Linux goes from the first.
    """
    if not _can_bind(address):
        return False
    return not _can_bind(_NOBODYS[len(address)]) or _source_towards(address) == address


def _can_bind(address: bytes) -> bool:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((net.address_text(address), 0))
    except OSError:
        return False
    return True


def _source_towards(address: bytes) -> bytes:
    """Where the machine would send from; nothing is sent."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((net.address_text(address), 9))
            return net.address_bytes(sock.getsockname()[0])
    except OSError:
        return b""


async def _look_up(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in entries]


# --- Fetching ---------------------------------------------------------------------------------------------------------


async def fetch(
    url: str,
    *,
    validators: Validators = NOTHING_KNOWN,
    allow_private: bool | Allowance = False,
    headers: Mapping[str, str] = {},
    limits: FetchLimits = USUAL_LIMITS,
    progress: Progress | None = None,
    resolve: Resolver = _look_up,
) -> Fetched:
    """What is at a URL, unless it hasn't changed since the validators.

    `allow_private` holds for every URL that a redirect leads to, each asked for by itself where it is an Allowance.
    `headers` may carry credentials: they go to the URL's own origin, and a redirect to another is refused. A file that
    is gzip by itself stays as it is; a gzip Content-Encoding is taken off. Only a body without a length that ends with
    its connection can be cut off unnoticed (RFC 9112, 8).

    Raises SparkleError: `bad_request` for the URL, `forbidden` for an address of this machine or a private network,
    `upstream` for whatever the other side does, with `retry_after` where it names one. None repeats a query, a header
    or what was sent.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise SparkleError("bad_request", "fetch.bad_header", name=name[:64])
    allows = allow_private if callable(allow_private) else lambda _: allow_private
    target = _read_allowed(url, allows)
    download = _Download(
        validators=validators,
        allows=allows,
        headers=headers,
        limits=limits,
        progress=progress,
        resolve=resolve,
    )
    try:
        async with asyncio.timeout(limits.total_s):
            return await download.run(target)
    except TimeoutError:
        raise SparkleError("upstream", "fetch.slow", url=target.shown, seconds=limits.total_s) from None


class _Download:
    """One fetch, from redirect to redirect."""

    def __init__(
        self,
        *,
        validators: Validators,
        allows: Allowance,
        headers: Mapping[str, str],
        limits: FetchLimits,
        progress: Progress | None,
        resolve: Resolver,
    ) -> None:
        self._validators = validators
        self._allows = allows
        self._headers = headers
        self._limits = limits
        self._progress = progress
        self._resolve = resolve

    async def run(self, first: _Target) -> Fetched:
        """What the URL, or where it leads, gives. Raises SparkleError."""
        target, redirects = first, 0
        while True:
            try:
                async with self._answer(target) as response:
                    if response.status_code not in _REDIRECTS:
                        return await self._take(response, first, target)
                    location = response.headers.get("location", "")
                redirects += 1
                target = self._follow(target, location, redirects)
            except SparkleError as error:
                if not redirects:
                    raise
                raise SparkleError(
                    "forbidden" if error.code == "forbidden" else "upstream",
                    "fetch.redirected",
                    retry_after=error.retry_after,
                    url=first.shown,
                    why=error.said,
                ) from None

    def _follow(self, target: _Target, location: str, redirects: int) -> _Target:
        """Where a redirect leads, which may be relative to the URL that answers it. Raises SparkleError."""
        if redirects > self._limits.redirects:
            raise SparkleError("upstream", "fetch.too_many_redirects", most=self._limits.redirects)
        if not location:
            raise SparkleError("upstream", "fetch.nowhere")
        try:
            url = urljoin(target.url, location)
        except ValueError:
            raise SparkleError("upstream", "fetch.bad_host") from None
        led = _read_allowed(url, self._allows)
        if target.scheme == "https" and led.scheme == "http":
            raise SparkleError("upstream", "fetch.downgrade", url=led.shown)
        if self._headers and led.origin != target.origin:
            raise SparkleError("upstream", "fetch.other_origin", url=led.shown)
        return led

    async def _addresses(self, target: _Target) -> list[str]:
        """Where the host of a URL may be connected to. Raises SparkleError where nowhere."""
        literal = _address_in(target.host)
        found = await self._resolved(target) if literal is None else [literal]
        is_allowed = self._allows(target.url)
        usable = [each for each in found if is_allowed or (_is_public(each) and not _is_own(each))]
        if not usable:
            key = "fetch.private" if literal else "fetch.leads_private"
            raise SparkleError("forbidden", key, host=target.host, address=net.address_text(found[0]))
        return [net.address_text(each) for each in usable[:MOST_ADDRESSES]]

    async def _resolved(self, target: _Target) -> list[bytes]:
        """The addresses of a name, at least one, in the order in which they are to be tried."""
        try:
            async with asyncio.timeout(self._limits.connect_s):
                texts = await self._resolve(target.host, target.port)
        except TimeoutError:
            seconds = self._limits.connect_s
            raise SparkleError("upstream", "fetch.slow_name", host=target.host, seconds=seconds) from None
        except (OSError, UnicodeError) as error:
            is_passing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            key = "fetch.no_resolver" if is_passing else "fetch.no_name"
            raise SparkleError("upstream", key, host=target.host) from None
        if not texts:
            raise SparkleError("upstream", "fetch.no_name", host=target.host)
        return list(dict.fromkeys(map(net.address_bytes, texts)))

    @asynccontextmanager
    async def _answer(self, target: _Target) -> "AsyncIterator[httpx.Response]":
        """The head of the answer, and the way to its body, from the first address that can be connected to."""
        # Before the import below, which is then done.
        trusted = await asyncio.to_thread(_trusted, target.scheme)
        import httpx

        failure: SparkleError | None = None
        for address in await self._addresses(target):
            connection = _Connection(target, address, trusted)
            try:
                try:
                    response = await connection.ask(self._request_headers(target), self._limits)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = failure or _connect_failure(error, target, self._limits)
                    continue
                except (httpx.HTTPError, OSError) as error:
                    raise _read_failure(error, target, self._limits, "fetch.no_answer") from None
                yield response
                return
            finally:
                await connection.close()
        assert failure is not None
        raise failure

    def _request_headers(self, target: _Target) -> dict[str, str]:
        asked = {
            "if-none-match": self._validators.etag,
            "if-modified-since": self._validators.last_modified,
        }
        return {
            **{name.lower(): value for name, value in self._headers.items()},
            "host": target.authority,
            "user-agent": f"Sparkle-Lite/{sparkle_lite.__version__}",
            "accept": "*/*",
            "accept-encoding": "gzip, identity",
            # There is one question on a connection.
            "connection": "close",
            **{name: value for name, value in asked.items() if value},
        }

    async def _take(self, response: "httpx.Response", first: _Target, target: _Target) -> Fetched:
        """The answer that is no redirect, whole."""
        status = response.status_code
        validators = _validators_of(response)
        if status == 304 and any(self._validators):
            body = None
            validators = Validators(*(new or old for new, old in zip(validators, self._validators, strict=True)))
        elif status in (200, 203):
            body = await self._body(response, target)
        else:
            raise _refused(response, target)
        return Fetched(
            url=first.url,
            final_url=target.url,
            body=body,
            validators=validators,
            media_type=response.headers.get("content-type", "").partition(";")[0].strip().lower()[:100],
        )

    async def _body(self, response: "httpx.Response", target: _Target) -> bytes:
        import httpx

        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity", *_GZIP):
            raise SparkleError("upstream", "fetch.encoding", url=target.shown)
        # A body that is chunked has no length beforehand (RFC 9112, 6.3).
        digits = "" if "transfer-encoding" in response.headers else response.headers.get("content-length", "")
        total = int(digits) if re.fullmatch(r"[0-9]{1,18}", digits) else None
        intake = _Intake(target, self._limits.max_bytes, is_gzip=encoding in _GZIP)
        intake.require_room(total or 0)
        received = 0
        try:
            async for chunk in response.aiter_raw():
                received += len(chunk)
                intake.require_room(received)
                await intake.take(chunk)
                if self._progress:
                    self._progress(received, total)
        except (httpx.HTTPError, OSError) as error:
            raise _read_failure(error, target, self._limits, "fetch.cut_off") from None
        return intake.whole()


class _Connection:
    """A connection to one address for one question."""

    def __init__(self, target: _Target, address: str, trusted: ssl.SSLContext) -> None:
        import httpx

        # One for each, for connections are kept by address: another name there has a certificate of its own.
        self._transport = httpx.AsyncHTTPTransport(verify=trusted, trust_env=False)
        self._target = target
        self._address = address
        self._stream: Any = None
        self._response: httpx.Response | None = None

    async def ask(self, headers: Mapping[str, str], limits: FetchLimits) -> "httpx.Response":
        """Connect, ask, and hear the head of the answer. Raises httpx.HTTPError, OSError."""
        import httpx

        target = self._target
        request = httpx.Request(
            "GET",
            httpx.URL(scheme=target.scheme, host=self._address, port=target.port, raw_path=target.rest.encode()),
            headers=headers,
            extensions={
                "timeout": {"connect": limits.connect_s, "read": limits.read_s, "write": limits.read_s},
                "sni_hostname": target.host,
                "trace": self._note,
            },
        )
        self._response = await self._transport.handle_async_request(request)
        return self._response

    async def _note(self, event: str, info: Mapping[str, Any]) -> None:
        # Whoever is cancelled while TLS is agreed on would leave the connection behind.
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]

    async def close(self) -> None:
        """Leave nothing open, however far it came."""
        if self._response is not None:
            await self._response.aclose()
        await self._transport.aclose()
        if self._stream is not None:
            await self._stream.aclose()


class _Intake:
    """A body as it comes in, inflated where it is gzip (RFC 1952: any number of members, perhaps zeros behind)."""

    def __init__(self, target: _Target, most: int, *, is_gzip: bool) -> None:
        self._target = target
        self._most = most
        self._body = io.BytesIO()
        self._is_gzip = is_gzip
        self._member = zlib.decompressobj(wbits=31)

    def require_room(self, size: int) -> None:
        """Raises SparkleError where so many bytes are too many."""
        if size > self._most:
            mib = self._most / MIB
            raise SparkleError("upstream", "fetch.too_large", url=self._target.shown, mib=mib)

    async def take(self, chunk: bytes) -> None:
        """The next bytes as they came. Raises SparkleError."""
        if not self._is_gzip:
            self._add(chunk)
            return
        while chunk:
            if self._member.eof:
                # Between members.
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    return
                self._member = zlib.decompressobj(wbits=31)
            try:
                self._add(self._member.decompress(chunk, _INFLATED_BYTES))
            except zlib.error:
                raise SparkleError("upstream", "fetch.damaged", url=self._target.shown) from None
            chunk = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            await asyncio.sleep(0)

    def whole(self) -> bytes:
        """The whole body. Raises SparkleError where its end is missing."""
        if self._is_gzip and not self._member.eof:
            raise SparkleError("upstream", "fetch.cut_off", url=self._target.shown)
        return self._body.getvalue()

    def _add(self, inflated: bytes) -> None:
        self.require_room(self._body.tell() + len(inflated))
        self._body.write(inflated)


def _trusted(scheme: str) -> ssl.SSLContext:
    """Which certificates are believed: those of the web, and those that this machine trusts besides.

    Takes its time, as the first import of the library does.
    """
    import httpx

    if scheme == "http":
        # None is asked for, and none would be believed.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def _validators_of(response: "httpx.Response") -> Validators:
    """The validators of an answer; what couldn't be sent back as it came is left out."""
    names = ("etag", "last-modified")
    values = (response.headers.get(name, "") for name in names)
    return Validators(*(value if _HEADER_VALUE.fullmatch(value) else "" for value in values))


# --- What went wrong --------------------------------------------------------------------------------------------------


def _refused(response: "httpx.Response", target: _Target) -> SparkleError:
    """What is said of a status that brings no body."""
    status = response.status_code
    seconds = _retry_after(response.headers.get("retry-after", "")) if status in (429, 503) else None
    if seconds is None:
        return SparkleError("upstream", "fetch.status", url=target.shown, status=status)
    return SparkleError(
        "upstream", "fetch.later", retry_after=seconds, url=target.shown, status=status, seconds=seconds
    )


def _retry_after(text: str) -> int | None:
    """Retry-After in s, at most a day: a number of seconds, or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return min(int(text), DAY_S)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0, round(at_s - clock.now_ms() / SECOND_MS)), DAY_S)


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what it was raised from, outermost first."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _connect_failure(error: Exception, target: _Target, limits: FetchLimits) -> SparkleError:
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return SparkleError("upstream", "fetch.slow_connect", url=target.shown, seconds=limits.connect_s)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            return SparkleError("upstream", "fetch.certificate", host=target.host, reason=reason)
        if isinstance(cause, ssl.SSLError):
            return SparkleError("upstream", "fetch.tls", host=target.host, reason=cause.reason or "TLS")
        if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
            return SparkleError("upstream", "fetch.refused", host=target.host, port=target.port)
    return SparkleError("upstream", "fetch.unreachable", host=target.host, port=target.port)


def _read_failure(error: Exception, target: _Target, limits: FetchLimits, key: str) -> SparkleError:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return SparkleError("upstream", "fetch.slow_read", url=target.shown, seconds=limits.read_s)
    return SparkleError("upstream", key, url=target.shown)
