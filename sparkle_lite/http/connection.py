"""The protocol of one connection: uvicorn's, with what old PeerBanHelper, slow senders and floods need.

Whatever reaches the ASGI application is a plain HTTP/1.x request whose body is whole.
"""

import asyncio
import json
import logging
from asyncio import TimerHandle
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast
from weakref import WeakKeyDictionary

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sparkle_lite.rate_limits import client_key
from sparkle_lite.texts import phrase
from sparkle_lite.units import KIB

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
    from uvicorn.server import ServerState

logger = logging.getLogger("sparkle.server")
_JSON = b"application/json; charset=utf-8"
_UPGRADE_TOKENS = frozenset({b"upgrade", b"http2-settings"})
_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


def _envelope(message: str) -> bytes:
    return json.dumps({"success": False, "message": message, "data": None}, ensure_ascii=False).encode()


_BUSY = _envelope(phrase("server.too_many_connections").raw())
_UNREADABLE = phrase("server.unreadable").raw()
_HEAD_TOO_LARGE = phrase("server.head_large").raw()
_NO_TUNNEL = phrase("server.no_tunnel").raw()
_BAD_HOST = phrase("server.bad_host").raw()
_BAD_CODING = phrase("server.bad_coding").raw()
RETRY_AFTER_S = 10

_MOST_FIELDS, _LONGEST_URL = 256, 8 * KIB

# Bytes that are parsed before the requests in them are counted, and that may wait unparsed.
_PIECE, _MOST_BEHIND = 4 * KIB, 1024 * KIB


class _Refusal(Exception):
    """Raised while parsing: go no further and answer with this status and sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _NoTrailers(list[tuple[bytes, bytes]]):
    """What a request's trailers go to: the application's header list must not change or grow once it has it."""

    def append(self, item: tuple[bytes, bytes], /) -> None:
        pass


_NO_TRAILERS = _NoTrailers()


async def _answer_busy(scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
    headers = [
        (b"content-type", _JSON),
        (b"content-length", str(len(_BUSY)).encode()),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _BUSY, "more_body": False})


class _Crowd:
    """The open connections of one server, by where they come from, the oldest first."""

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[Protocol, None]] = {}

    def add(self, connection: "Protocol") -> None:
        self._of.setdefault(connection.whence, {})[connection] = None

    def remove(self, connection: "Protocol") -> None:
        """Forget a connection that may have been forgotten already."""
        mine = self._of.get(connection.whence, {})
        mine.pop(connection, None)
        if not mine:
            self._of.pop(connection.whence, None)

    def one_too_many(self, newcomer: "Protocol") -> "Protocol":
        """Who is to go where there is no room for a newcomer: of those who come from where most do.

        That is the newcomer where nobody has more, else one of whom nothing is being answered, or the oldest.
        """
        most = max(self._of.values(), key=len)
        if len(most) <= len(self._of[newcomer.whence]):
            return newcomer
        return next((one for one in most if one.is_idle), next(iter(most)))


_crowds: "WeakKeyDictionary[ServerState, _Crowd]" = WeakKeyDictionary()


class Protocol(HttpToolsProtocol):
    """uvicorn's httptools protocol, for clients that are old, slow or hostile.

    - An `Upgrade` is read as the plain request that it is. PeerBanHelper before 8.0.5-beta2 (JDK client) offers h2c on
      every plain-http request; uvicorn alone would hand over an empty body and take the real one for a bad request.
    - A request head must be complete `head_timeout` s after it began (after connecting, for the first).
    - Heads above `max_head` bytes are refused, and so is as much noise around a body (trailers, chunk extensions).
    - A client that takes nothing of its answer for `write_timeout` s is cut off; a slow one isn't.
    - Beyond `max_connections` one of those gives way who come from where most come from. Who comes from there gets 503
      with Retry-After as the answer; a quarter above that, connections are cut.
    - Of what is pipelined some `max_pipelined` requests are taken up at once; the rest waits as the bytes that it is.
    - A client that has sent all it wants and closed its end still gets its answers.
    """

    head_timeout: float = 15.0
    write_timeout: float = 30.0
    max_head: int = 64 * KIB
    max_connections: int = 4096
    max_pipelined: int = 128
    # How long a refused client may go on sending: closing at once would reset the connection and lose our answer.
    linger: float = 2.0

    # Slots, because uvicorn's class has 28 attributes: from 30 on CPython gives up its fast attribute access.
    __slots__ = (
        "_behind",
        "_crowd",
        "_ended",
        "_ending",
        "_noise",
        "_pieces",
        "_received",
        "_refusal",
        "_refused",
        "_timer",
        "_write_timer",
        "whence",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = _crowds.setdefault(self.server_state, _Crowd())
        # What counts as one place that connections come from.
        self.whence: Hashable = ""
        self._refused = False
        self._refusal: _Refusal | None = None
        self._received = 0  # bytes of the packet in work
        self._noise = 0  # bytes in whole packets since the last head was complete or body bytes came
        self._timer: TimerHandle | None = None  # closes the connection unless a head completes
        self._write_timer: TimerHandle | None = None
        self._pieces: list[bytes] = []  # of a body, as they stand in the packet in work
        self._behind = b""  # what came behind more requests than are taken up at once
        self._ended = False  # the client has closed its end
        self._ending = False  # nothing more is taken from the client; what it asked before is answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Register the connection, or turn it away when there are too many."""
        super().connection_made(transport)
        if self.client is not None and self.client[0].startswith("::ffff:"):
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        self.whence = client_key(self.client[0] if self.client else "")
        self._crowd.add(self)
        if len(self.connections) > self.max_connections:
            self._make_room()
        self._timer = self.loop.call_later(self.head_timeout, self._on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its timers, whatever ended it."""
        super().connection_lost(exc)
        self._crowd.remove(self)
        self._unset_keepalive_if_required()
        self._stop_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse one packet; this runs for every one of them, so what isn't parsing is a few comparisons."""
        if self._refused or self._ending:
            return
        self._unset_keepalive_if_required()
        if self._behind:
            self._behind += data
            self.flow.pause_reading()
            if len(self._behind) > _MOST_BEHIND:
                self._refuse(_Refusal(400, _UNREADABLE))
        elif len(data) > _PIECE or self.pipeline:
            self._parse_in_pieces(data)
        else:
            self._parse(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # as the loop has it
        """The client sends no more (transport callback): whether the connection is kept for what it still waits for."""
        self._ended = True
        if self._behind or self._ending:
            return True
        is_answering = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if self._refused or not (self.pipeline or is_answering):
            return False
        self._take_no_more()
        return True

    def on_response_complete(self) -> None:
        """An answer is out: end, or go on with what waits behind it."""
        if self._ending and not self.pipeline:
            self.transport.close()
        super().on_response_complete()
        if self._behind and len(self.pipeline) < self.max_pipelined // 2:
            data, self._behind = self._behind, b""
            self._parse_in_pieces(data)
            if self._ended and not self._behind:
                self._take_no_more()
        if self._behind:
            # Else the next packets would pile up behind those that wait.
            self.flow.pause_reading()

    def _parse_in_pieces(self, data: bytes) -> None:
        """Parse as much of some bytes as there is room for requests; what is a body all at once."""
        at = 0
        while at < len(data) and not self._refused:
            if len(self.pipeline) >= self.max_pipelined:
                self._behind = data[at:]
                self.flow.pause_reading()
                return
            is_body = self.cycle is not None and self.cycle.more_body and self.headers is _NO_TRAILERS
            piece = data[at:] if is_body else data[at : at + _PIECE]
            at += len(piece)
            self._parse(piece)

    def _parse(self, data: bytes) -> None:
        self._received = len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as pause:
                self._parse_without_upgrade(memoryview(data)[pause.args[0] :])
            self._pass_body_on()
        except (httptools.HttpParserError, _Refusal):
            self._refuse(self._refusal or _Refusal(400, _UNREADABLE))
            return
        self._noise += self._received
        if self._noise > self.max_head:
            self._refuse(_Refusal(431, _HEAD_TOO_LARGE))
        elif self.headers is not _NO_TRAILERS or self.cycle.response_complete:
            if self._timer is None:
                self._timer = self.loop.call_later(self.head_timeout, self._on_head_timeout)
        elif self._timer is not None:
            self._stop_timer()

    def on_headers_complete(self) -> None:
        """A head is complete (parser callback): check it and start the request, unless it asks for an upgrade."""
        # Counting costs, and few heads come in more than one packet.
        if self._noise or self._received > self.max_head:
            self._check_head_size()
        self._check_fields()
        super().on_headers_complete()
        if self.parser.should_upgrade():
            return
        self._noise = -self._received
        self.headers = _NO_TRAILERS
        if self._timer is not None:
            self._stop_timer()
        if self.expect_100_continue:
            self.cycle.on_response = self._on_answer_to_expecting

    def on_body(self, body: bytes) -> None:
        """Body bytes (parser callback): the client waits for no `100 Continue`, or no longer."""
        self._noise = -self._received
        self.expect_100_continue = False
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """A request is there (parser callback)."""
        self._pass_body_on()
        super().on_message_complete()

    def _pass_body_on(self) -> None:
        """Hand over what came of a body, a whole packet at once: one may hold thousands of the smallest chunks."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            super().on_body(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def pause_writing(self) -> None:
        """The client takes its answer slower than it is made (transport callback)."""
        super().pause_writing()
        self._watch_writing()

    def _should_upgrade(self) -> bool:
        # uvicorn asks this of requests with the parser's upgrade flag only, and then leaves them alone.
        return True

    def _parse_without_upgrade(self, rest: memoryview) -> None:
        """Go on behind a head that asked for an upgrade; more of the kind may follow in the same packet."""
        while True:
            self._restart_without_upgrade()
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as pause:
                rest = rest[pause.args[0] :]

    def _restart_without_upgrade(self) -> None:
        """Give the head in hand to a fresh parser, as its client would have written it without the upgrade.

        The first parser has taken the head and none of the body, and the fresh one applies every check again (both
        lengths, bad encodings), so each byte counts once and by the same rules as in any other request.
        """
        if self.parser.get_method() == b"CONNECT":
            self._stop(405, _NO_TUNNEL)
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in _plain_headers(self.headers)]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")

    def _check_head_size(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.max_head:
            self._stop(431, _HEAD_TOO_LARGE)

    def _check_fields(self) -> None:
        """Refuse what RFC 9112 has a server refuse: anything but one Host (3.2), codings that it doesn't know (6.1).

        And a longer URL or more fields than anybody sends: thousands of small ones take milliseconds to read each time
        that somebody looks at them, and what is read of a query is kept by the framework.
        """
        if len(self.headers) > _MOST_FIELDS or len(self.url) > _LONGEST_URL or self.url.count(b"&") > _MOST_FIELDS:
            self._stop(431, _HEAD_TOO_LARGE)
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and (coding := value.strip().lower()) != b"chunked":
                self._stop(501 if coding.endswith(b"chunked") else 400, _BAD_CODING)
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            self._stop(400, _BAD_HOST)

    def _stop(self, status: int, message: str) -> NoReturn:
        # Kept as well, because the parser raises an error of its own when a callback raises.
        self._refusal = _Refusal(status, message)
        raise self._refusal

    @property
    def is_idle(self) -> bool:
        """Whether no whole request is there that waits for its answer, or for somebody to take it."""
        is_answered = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        return is_answered and not self.pipeline and not self.transport.get_write_buffer_size()

    def _make_room(self) -> None:
        leaving = self._crowd.one_too_many(self)
        if leaving is self:
            self._turn_away()
            return
        # At once, because who comes next counts as well.
        self._crowd.remove(leaving)
        self.connections.discard(leaving)
        leaving.transport.abort()

    def _turn_away(self) -> None:
        if len(self.connections) > self.max_connections * 5 // 4:
            self.transport.abort()
        self.app = cast("Any", _answer_busy)
        self.timeout_keep_alive = 1

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer in place of the application and part; never into the middle of another answer."""
        self._refused = True
        logger.info("refused a request", extra={"status": refusal.status, "client": self.client and self.client[0]})
        cycle = self.cycle
        if self.pipeline:
            self._take_no_more()
        elif cycle is None or cycle.response_complete:
            self._write_refusal(refusal)
        elif not cycle.more_body:
            # What came behind a whole request is bad: that request still gets its answer, then the connection ends.
            self._take_no_more()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
            else:
                self._write_refusal(refusal)

    def _take_no_more(self) -> None:
        """End with the answer to the last request that came whole."""
        self._ending = True
        self._behind = b""
        last = self.cycle
        if self.pipeline:
            if last.more_body:
                self.pipeline.popleft()
            if not self.pipeline:
                # The one that is being answered is known to nobody here; the connection ends behind it.
                return
            last = self.pipeline[0][0]
        last.keep_alive = False
        if last.response_complete:
            self.transport.close()

    def _write_refusal(self, refusal: _Refusal) -> None:
        body = _envelope(refusal.message)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", _JSON),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[refusal.status] + lines + b"\r\n" + body)
        self._part()

    def _part(self) -> None:
        """Send what is written and our end of the stream, then ignore the client until it goes or `linger` is over."""
        self._refused = True
        # What nobody needs any more may be much, and the client may take its time to go.
        self.scope = cast("Any", None)
        self.headers, self.url, self._behind, self._refusal = [], b"", b"", None
        self._unset_keepalive_if_required()
        self._stop_timer()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(self.linger, self.transport.abort)
        if not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def _on_answer_to_expecting(self) -> None:
        self.on_response_complete()
        if self.expect_100_continue and self.cycle.response_complete and self.cycle.more_body:
            # Whether this client will send its body after all is unknown: its next request couldn't be told from it.
            self._part()

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # A request is being answered while the next head waits, perhaps because we don't read: look again later.
            self._timer = self.loop.call_later(self.head_timeout, self._on_head_timeout)
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch_writing(self) -> None:
        pending = self.transport.get_write_buffer_size()
        if pending and self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout, self._cut_if_stuck, pending)

    def _cut_if_stuck(self, pending: int) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() == pending:
            self.transport.abort()
        else:
            self._watch_writing()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _plain_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without an upgrade and the Connection tokens that announce it."""
    plain = []
    for name, value in headers:
        if name in _UPGRADE_HEADERS:
            continue
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() not in _UPGRADE_TOKENS)
            if not value:
                continue
        plain.append((name, value))
    return plain
