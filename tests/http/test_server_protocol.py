"""The HTTP server against raw sockets: what arrives in the application is what the client sent, however it sent it."""

import contextlib
import gzip
import hashlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import Answer

from sparkle_lite.errors import SparkleError
from sparkle_lite.http.connection import Protocol
from sparkle_lite.http.lifecycle import HttpServer
from sparkle_lite.http.sockets import bind

# What java.net.http adds to every request over plain http.
JDK = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAA\r\n"


class Impatient(Protocol):
    head_timeout = 0.4
    linger = 0.3
    write_timeout = 0.3


class Small(Protocol):
    max_connections = 4


class Running(NamedTuple):
    server: HttpServer
    address: tuple[str, int]
    seen: dict[str, Any]


def echo(seen: dict[str, Any]) -> Any:
    """Answers what it was sent; paths ask for other behaviour."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            seen["stopped"] = True
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, whole = b"", scope["path"] == "/early"
        while not whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen["disconnected"] = True
                return
            body += message.get("body", b"")
            whole = not message.get("more_body")
        if scope["path"] == "/slow":
            import asyncio

            seen["running"] = True
            await asyncio.sleep(0.6)
        answer: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            "client": scope["client"][0],
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        data = b"x" * 30_000_000 if scope["path"] == "/large" else json.dumps(answer).encode()
        headers = [(b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return app


@contextlib.contextmanager
def serving(protocol: type[Protocol] = Protocol, host: str = "127.0.0.1") -> Iterator[Running]:
    seen: dict[str, Any] = {}
    ready = threading.Event()
    server = HttpServer(echo(seen), host=host, port=0, on_ready=lambda url: ready.set(), protocol=protocol)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(10)
    try:
        yield Running(server, ("127.0.0.1", int(server.url.rpartition(":")[2])), seen)
    finally:
        server.stop()
        thread.join(12)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving() as started:
        yield started


def connect(running: Running, source: str = "127.0.0.1") -> socket.socket:
    sock = socket.create_connection(running.address, timeout=10, source_address=(source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def answer(sock: socket.socket) -> Answer:
    """The next response, taking no byte of the one behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            pytest.fail(f"the connection ended after {head!r}")
        head += byte
    status, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = b""
    while len(body) < int(headers["content-length"]):
        body += sock.recv(int(headers["content-length"]) - len(body))
    return Answer(int(status.split()[1]), headers, body)


def chunked(body: bytes, sizes: Iterator[int]) -> bytes:
    out, at = [], 0
    while at < len(body):
        piece = body[at : at + next(sizes)]
        out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += len(piece)
    return b"".join(out) + b"0\r\n\r\n"


def request(
    body: bytes | None, *, method: str = "POST", path: str = "/echo", upgrade: bool = True, sizes: Any = None
) -> bytes:
    """A request as the JDK client writes it; `sizes` makes it chunked."""
    head = f"{method} {path} HTTP/1.1\r\n{JDK if upgrade else ''}Host: btn.example\r\nBTN-AppID: me\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    if sizes is None:
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    return f"{head}Transfer-encoding: chunked\r\n\r\n".encode() + chunked(body, sizes)


def send_in_pieces(sock: socket.socket, data: bytes, cuts: list[int]) -> None:
    for start, end in itertools.pairwise([0, *sorted(set(cuts)), len(data)]):
        sock.sendall(data[start:end])
        time.sleep(0.0005)


def is_echo_of(reply: Answer, body: bytes) -> bool:
    seen = reply.json()
    return reply.status == 200 and seen["length"] == len(body) and seen["sha256"] == hashlib.sha256(body).hexdigest()


BODIES = [b"", b"x", b'{"populate_time":1,"peers":[]}', gzip.compress(b"peer " * 400)]


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("sizes", [None, 7])
@pytest.mark.parametrize("body", BODIES, ids=len)
@pytest.mark.parametrize("cut", ["one packet", "body in a later packet", "byte by byte"])
def test_the_body_arrives_whole(running: Running, body: bytes, sizes: int | None, upgrade: bool, cut: str) -> None:
    data = request(body, upgrade=upgrade, sizes=itertools.repeat(sizes) if sizes else None)
    cuts = {"one packet": [], "body in a later packet": [data.index(b"\r\n\r\n") + 4]}.get(cut, list(range(len(data))))
    with connect(running) as sock:
        send_in_pieces(sock, data, cuts[:1500])
        assert is_echo_of(answer(sock), body)
        sock.sendall(request(None, method="GET", upgrade=upgrade))
        assert is_echo_of(answer(sock), b"")


def test_an_upgrade_is_taken_out_and_every_other_header_kept(running: Running) -> None:
    head = (
        "POST /ping/x%20y?rev=%41&b HTTP/1.1\r\nHost: btn.example\r\nconnection: keep-alive, Upgrade\r\n"
        "Connection: http2-settings\r\nUPGRADE: h2c\r\nHTTP2-Settings: AAAA\r\nX-Empty:\r\n"
        "Authentication: Bearer a@b\r\nX-Two: 1\r\nX-Two: \xe9\r\nContent-Length: 2\r\n\r\nab"
    )
    with connect(running) as sock:
        sock.sendall(head.encode("latin-1"))
        reply = answer(sock)
    seen = reply.json()
    assert (reply.status, seen["method"], seen["path"], seen["query"]) == (200, "POST", "/ping/x y", "rev=%41&b")
    assert seen["headers"] == [
        ["host", "btn.example"],
        ["connection", "keep-alive"],
        ["x-empty", ""],
        ["authentication", "Bearer a@b"],
        ["x-two", "1"],
        ["x-two", "\xe9"],
        ["content-length", "2"],
    ]


def test_a_websocket_upgrade_is_a_plain_request(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(b"GET /w HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        reply = answer(sock)
    assert reply.status == 200
    assert ["upgrade", "websocket"] not in reply.json()["headers"]


def test_connection_close_beside_an_upgrade_still_closes(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n")
        assert answer(sock).status == 200
        assert sock.recv(1) == b""


@pytest.mark.parametrize("upgrade", [True, False])
def test_a_client_that_expects_100_continue_gets_it_and_its_body_arrives(running: Running, upgrade: bool) -> None:
    head = f"POST /e HTTP/1.1\r\nHost: x\r\n{JDK if upgrade else ''}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with connect(running) as sock:
        sock.sendall(head.encode())
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert is_echo_of(answer(sock), b"hello")
        sock.sendall(request(b"again", upgrade=upgrade))
        assert is_echo_of(answer(sock), b"again")


def test_an_answer_before_100_continue_ends_the_connection(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert answer(sock).status == 200
        assert sock.recv(1) == b""


def test_an_early_answer_lets_the_client_finish_its_body_and_go_on(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(request(b"a" * 200_000, path="/early")[:1000])
        assert answer(sock).status == 200
        sock.sendall(request(b"a" * 200_000, path="/early")[1000:] + request(b"next"))
        assert is_echo_of(answer(sock), b"next")


@pytest.mark.parametrize("pair", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("path", ["/echo", "/slow"])
def test_pipelined_requests_are_answered_in_order(running: Running, pair: tuple[bool, bool], path: str) -> None:
    first = request(b"first", path=path, upgrade=pair[0], sizes=itertools.repeat(2))
    second = request(b"second body", upgrade=pair[1])
    with connect(running) as sock:
        sock.sendall(first + second + request(None, method="GET", upgrade=pair[0]))
        assert [is_echo_of(answer(sock), body) for body in (b"first", b"second body", b"")] == [True] * 3


def test_any_number_of_pipelined_requests_is_answered(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Also those that come in one packet with a body before them, and while the first of them is slow."""
    get = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
    for first in (request(None, method="GET"), request(b"a" * 20_000, path="/slow")):
        for count in (130, 1_500):
            with connect(running) as sock:
                sending = threading.Thread(target=sock.sendall, args=(first + get * count + request(b"last"),))
                sending.start()
                assert [answer(sock).status for _ in range(1 + count)] == [200] * (1 + count)
                assert is_echo_of(answer(sock), b"last")
                sending.join()
    assert caplog.records == []


def test_what_came_before_a_bad_request_is_answered(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    cut, no_chunk = request(b"a" * 100)[:-10], request(b"x", sizes=iter([1]))[:-6] + b"zz"
    for bad in (b"GARBAGE\r\n\r\n", cut, no_chunk):
        with connect(running) as sock:
            sock.sendall(request(b"one", path="/slow") + request(b"two") + bad)
            sock.shutdown(socket.SHUT_WR)
            assert is_echo_of(answer(sock), b"one")
            assert is_echo_of(answer(sock), b"two")
            assert sock.recv(1) == b""
    assert caplog.records == []


@pytest.mark.parametrize("count", [1, 2, 300])
def test_a_client_that_closes_its_end_still_gets_its_answers(running: Running, count: int) -> None:
    """As `nc -N` does."""
    with connect(running) as sock:
        sock.sendall(request(b"whole", path="/slow") + request(b"more") * (count - 1))
        sock.shutdown(socket.SHUT_WR)
        assert is_echo_of(answer(sock), b"whole")
        for _ in range(count - 1):
            assert is_echo_of(answer(sock), b"more")
        assert sock.recv(1) == b""


def test_a_client_that_closes_its_end_within_a_request_is_gone(running: Running) -> None:
    for part in (request(b"a" * 1000)[:-10], b"GET / HTTP/1.1\r\nHo", b""):
        with connect(running) as sock:
            sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""


@pytest.mark.parametrize("upgrade", [JDK, ""], ids=["upgrade", "plain"])
@pytest.mark.parametrize(
    ("version", "headers", "status"),
    [
        ("1.1", "", 400),
        ("1.1", "Host: a\r\nHost: b\r\n", 400),
        ("1.1", "Host: a\r\nhost: a\r\n", 400),
        ("1.0", "Host: a\r\nHost: b\r\n", 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        ("1.1", "Host: x\r\nTransfer-Encoding: identity\r\n", 400),
        ("1.1", "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", 400),
    ],
)
def test_fields_that_rfc_9112_refuses_are_refused(
    running: Running, version: str, headers: str, status: int, upgrade: str
) -> None:
    with connect(running) as sock:
        sock.sendall(f"POST /e HTTP/{version}\r\n{upgrade}{headers}\r\n".encode())
        assert answer(sock).refusal(status)


def test_http_1_0_needs_no_host(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(b"GET /echo HTTP/1.0\r\n\r\n")
        assert answer(sock).status == 200


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_way_to_split_the_bytes_changes_what_arrives(running: Running, data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.binary(max_size=300), min_size=1, max_size=3))
    sent = b""
    for body in bodies:
        sizes = data.draw(st.none() | st.integers(1, 50))
        repeated = itertools.repeat(sizes) if sizes else None
        sent += request(body, upgrade=data.draw(st.booleans()), sizes=repeated)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=12))
    with connect(running) as sock:
        send_in_pieces(sock, sent, cuts)
        assert [is_echo_of(answer(sock), body) for body in bodies] == [True] * len(bodies)


@pytest.mark.parametrize("upgrade", [True, False])
def test_a_megabyte_of_gzip_in_odd_chunks_arrives_whole(running: Running, upgrade: bool) -> None:
    rng = random.Random(20)
    body = gzip.compress(rng.randbytes(1_000_000), 1)
    sizes = iter(lambda: rng.choice([1, 3, 17, 255, 4093, 65537]), None)
    data = request(body, upgrade=upgrade, sizes=sizes)
    with connect(running) as sock:
        for at in range(0, len(data), 12_347):
            sock.sendall(data[at : at + 12_347])
        assert is_echo_of(answer(sock), body)


SMUGGLED = [
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    b"Content-Length: 3\r\nContent-Length: 4\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"X: a\r\n folded\r\nContent-Length: 3\r\n",
]


@pytest.mark.parametrize("upgrade", [JDK.encode(), b""], ids=["upgrade", "plain"])
@pytest.mark.parametrize("headers", SMUGGLED)
def test_ambiguous_lengths_are_refused_the_same_with_and_without_upgrade(
    running: Running, headers: bytes, upgrade: bytes
) -> None:
    with connect(running) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + upgrade + headers + b"\r\nabcGET /smuggled HTTP/1.1\r\n\r\n")
        reply = answer(sock)
        assert reply.refusal(400)
        assert reply.headers["connection"] == "close"
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
def test_what_is_no_plain_request_gets_one_refusal(running: Running, garbage: bytes) -> None:
    with connect(running) as sock:
        sock.sendall(garbage)
        assert answer(sock).status in (400, 405)
        assert sock.recv(1) == b""


def test_garbage_behind_a_request_does_not_take_its_answer(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(request(b"kept", path="/slow") + b"\x00\x00garbage\r\n\r\n")
        assert is_echo_of(answer(sock), b"kept")
        assert sock.recv(1) == b""


def test_a_broken_chunk_is_refused_and_the_application_told(running: Running) -> None:
    running.seen.pop("disconnected", None)
    with connect(running) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\n" + JDK.encode() + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
        )
        assert answer(sock).status == 400
        deadline = time.monotonic() + 5
        while "disconnected" not in running.seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_trailers_do_not_become_headers(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
        )
        reply = answer(sock)
    assert reply.status == 200
    assert "x-forwarded-for" not in dict(reply.json()["headers"])


@pytest.mark.parametrize("upgrade", [JDK, ""], ids=["upgrade", "plain"])
@pytest.mark.parametrize("piece", [1_000_000, 10_000])
def test_a_head_above_64_kib_is_refused(running: Running, piece: int, upgrade: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: x\r\n{upgrade}X: {'a' * 70_000}\r\n\r\n".encode()
    with connect(running) as sock:
        for at in range(0, len(head), piece):
            sock.sendall(head[at : at + piece])
            time.sleep(0.002)
        assert answer(sock).status == 431


@pytest.mark.parametrize("upgrade", [JDK, ""], ids=["upgrade", "plain"])
def test_a_head_below_64_kib_behind_a_large_body_is_served(running: Running, upgrade: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: x\r\n{upgrade}X: {'a' * 60_000}\r\n\r\n".encode()
    data = request(b"b" * 150_000) + head
    with connect(running) as sock:
        sock.sendall(data[:-30_000])
        time.sleep(0.05)
        sock.sendall(data[-30_000:])
        assert is_echo_of(answer(sock), b"b" * 150_000)
        assert is_echo_of(answer(sock), b"")


@pytest.mark.parametrize("noise", [b"X: %b", b"1;ext=%b"], ids=["trailer", "chunk extension"])
def test_endless_noise_in_a_chunked_body_is_cut(running: Running, noise: bytes) -> None:
    start = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + (
        b"0\r\n" if noise[:1] == b"X" else b""
    )
    with connect(running) as sock:
        sock.sendall(start)
        with contextlib.suppress(OSError):
            sock.sendall(noise % (b"a" * 3_000_000))
        assert re.match(rb"HTTP/1.1 431|$", sock.recv(12))


@pytest.mark.parametrize("path", ["/" + "a" * 9_000, "/?" + "a=1&" * 300])
def test_a_very_long_url_is_refused(running: Running, path: str) -> None:
    with connect(running) as sock:
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        assert answer(sock).refusal(431)


def test_a_head_of_very_many_fields_is_refused(running: Running) -> None:
    for count, status in ((200, 200), (5_000, 431)):
        fields = b"".join(b"x%d: 1\r\n" % number for number in range(count))
        with connect(running) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
            assert answer(sock).status == status


def test_a_slow_head_is_closed_and_a_finished_one_is_not() -> None:
    with serving(Impatient) as running:
        begin = time.monotonic()
        for started in (b"", b"GET / HT", b"\r\n", request(b"x") + b"GET / HTTP/1.1\r\nHost:"):
            with connect(running) as sock:
                sock.sendall(started)
                if len(started) > 50:
                    assert is_echo_of(answer(sock), b"x")
                assert sock.recv(1) == b""
        assert 1.5 < time.monotonic() - begin < 10
        with connect(running) as sock:
            sock.sendall(request(b"y", path="/slow"))
            assert is_echo_of(answer(sock), b"y")
            time.sleep(0.6)
            sock.sendall(request(b"idle connections stay"))
            assert is_echo_of(answer(sock), b"idle connections stay")


def test_dribbling_a_head_does_not_extend_its_time() -> None:
    with serving(Impatient) as running, connect(running) as sock, contextlib.suppress(OSError):
        begin = time.monotonic()
        for byte in request(None, method="GET") * 100:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
            if time.monotonic() - begin > 2:
                pytest.fail("the connection is still open")


def test_a_client_that_never_reads_its_answer_is_cut_off() -> None:
    with serving(Impatient) as running, connect(running) as sock:
        sock.sendall(request(None, method="GET", path="/large"))
        deadline = time.monotonic() + 5
        while running.server.server_state.connections or not running.server.server_state.total_requests:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_connections_beyond_the_bound_get_503_with_retry_after() -> None:
    with serving(Small) as running, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(running)) for _ in range(4)]
        for sock in held:
            sock.sendall(request(b"in"))
            assert is_echo_of(answer(sock), b"in")
        extra = stack.enter_context(connect(running))
        extra.sendall(request(b"out"))
        reply = answer(extra)
        assert reply.refusal(503)
        assert int(reply.headers["retry-after"]) >= 1
        with stack.enter_context(connect(running)) as cut, contextlib.suppress(ConnectionError):
            assert cut.recv(1) == b""
        for sock in (*held, extra):
            sock.close()
        time.sleep(0.1)
        with connect(running) as sock:
            sock.sendall(request(b"room again"))
            assert is_echo_of(answer(sock), b"room again")


@pytest.mark.skipif(sys.platform != "linux", reason="needs the loopback addresses beside 127.0.0.1")
def test_whoever_takes_all_connections_makes_room_for_others() -> None:
    with serving(Small) as running, contextlib.ExitStack() as stack:
        greedy = [stack.enter_context(connect(running, "127.0.0.2")) for _ in range(4)]
        greedy[0].sendall(request(b"slow", path="/slow"))
        for sock in greedy[1:]:
            sock.sendall(request(b"in"))
            assert is_echo_of(answer(sock), b"in")
        for source in ("127.0.0.3", "127.0.0.4"):
            other = stack.enter_context(connect(running, source))
            other.sendall(request(b"other"))
            assert is_echo_of(answer(other), b"other")
        # What is being answered stays.
        assert is_echo_of(answer(greedy[0]), b"slow")
        assert is_gone(greedy[1])
        assert is_gone(greedy[2])
        # Two of it are left, and nobody has more.
        again = stack.enter_context(connect(running, "127.0.0.2"))
        again.sendall(request(b"again"))
        assert answer(again).refusal(503)
        other.sendall(request(b"other"))
        assert is_echo_of(answer(other), b"other")


def is_gone(sock: socket.socket) -> bool:
    """Whether the server has cut a connection."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_a_client_that_leaves_in_the_middle_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as running:
        for part in (30, 200, 330):
            sock = connect(running)
            sock.sendall(request(b"z" * 1000, path="/slow")[:part])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        with connect(running) as sock:
            sock.sendall(request(b"", path="/large"))
            sock.recv(1)
        time.sleep(0.1)
    assert [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []


def test_a_graceful_stop_finishes_the_running_request() -> None:
    with serving() as running, connect(running) as sock, connect(running) as idle:
        sock.sendall(request(b"committed", path="/slow"))
        while "running" not in running.seen:
            time.sleep(0.01)
        running.server.stop()
        assert is_echo_of(answer(sock), b"committed")
        assert idle.recv(1) == b""
    assert running.seen["stopped"]


PROGRAM = """
import asyncio, sys
from sparkle_lite.http.lifecycle import run

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("closed", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    print("begun", flush=True)
    await asyncio.sleep(float(scope["path"][1:]))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})

async def hup():
    print("hup", flush=True)

run(app, port=0, graceful_timeout=int(sys.argv[1]), on_ready=lambda url: print(url, flush=True), on_hup=hup)
print("end", flush=True)
"""


@contextlib.contextmanager
def spawned(graceful_timeout: int) -> Iterator[tuple["subprocess.Popen[str]", tuple[str, int]]]:
    command = [sys.executable, "-c", PROGRAM, str(graceful_timeout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            port = int(process.stdout.readline().rpartition(":")[2])
            yield process, ("127.0.0.1", port)
        finally:
            process.kill()


def stop_during_a_request(process: "subprocess.Popen[str]", sock: socket.socket, seconds: float) -> None:
    """SIGTERM while a request runs that takes so long."""
    assert process.stdout
    sock.sendall(f"GET /{seconds} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs_and_exits_cleanly(sig: signal.Signals) -> None:
    with spawned(8) as (process, address), socket.create_connection(address, timeout=10) as sock:
        assert process.stdout
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "hup\n"
        sock.sendall(b"GET /0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert process.stdout.readline() == "begun\n"
        process.send_signal(sig)
        begin = time.monotonic()
        reply = answer(sock)
        assert (reply.status, reply.body) == (200, b"done")
        output, errors = process.communicate(timeout=10)
        assert (output, errors, process.returncode) == ("closed\nend\n", "", 0)
        assert time.monotonic() - begin < 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_hanging_request_is_cancelled_and_the_application_still_stopped() -> None:
    with spawned(1) as (process, address), socket.create_connection(address, timeout=10) as sock:
        stop_during_a_request(process, sock, seconds=60)
        output, _ = process.communicate(timeout=5)
        assert (output, process.returncode) == ("closed\nend\n", 0)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_signal_does_not_wait() -> None:
    with spawned(8) as (process, address), socket.create_connection(address, timeout=10) as sock:
        stop_during_a_request(process, sock, seconds=60)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=3)


def test_a_port_in_use_is_a_sentence_that_says_what_to_do(running: Running) -> None:
    with pytest.raises(SparkleError, match=r"in use.*server\.port") as refused:
        bind("127.0.0.1", running.address[1])
    assert refused.value.code == "conflict"
    assert refused.value.text("zh")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_a_sentence_that_says_what_to_do(host: str) -> None:
    with pytest.raises(SparkleError, match=r"no address.*--host"):
        bind(host, 0)


def test_the_ipv6_wildcard_serves_ipv4_too_and_shows_its_plain_address() -> None:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
        for sock in bind("::", 0):
            sock.close()
    except (OSError, SparkleError):
        pytest.skip("no IPv6 here")
    with serving(host="::") as running, connect(running) as sock:
        assert running.server.url.startswith("http://[::1]:")
        sock.sendall(request(b"four"))
        assert answer(sock).json()["client"] == "127.0.0.1"


def test_what_stops_the_start_up_is_raised_and_nothing_listens() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback ..."})
        raise SparkleError("conflict", "database.in_use", path="data")

    (sock,) = bind("127.0.0.1", 0)
    address = sock.getsockname()
    with pytest.raises(SparkleError, match="Another server"):
        HttpServer(app, sockets=[sock]).run()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=2)
