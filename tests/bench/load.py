"""What clients send, and processes that send it: a made-up swarm of peers, and a closed loop over raw sockets.

Every request must be a body that the server has never seen, and making one may cost next to nothing. A body is one gzip
member whose deflate stream begins with a stored block, the only part that changes: it holds `populate_time`. The rest
was compressed beforehand; the checksum of the two together follows from theirs.
"""

import itertools
import multiprocessing
import random
import select
import socket
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

SEED = 20_240_607
ADDRESSES, TORRENTS, CLIENTS, FLAGS = 2_000_000, 300_000, 2_000, 40
# Different bodies made beforehand, by peers in each: caches must meet new addresses and torrents all the time.
BODIES = {50: 6_000, 500: 1_200, 5_000: 150}
# 13 digits, as clients send it.
FIRST_TIME, TIMES_OF_A_PROCESS = 1_700_000_000_000, 10_000_000
_turns = itertools.count(FIRST_TIME, TIMES_OF_A_PROCESS)
SOCKET_BUFFER = 1 << 20

T = TypeVar("T")


class Body(NamedTuple):
    """A body without its first bytes: the deflate stream, checksum and length of the rest, x^(8 length)."""

    deflated: bytes
    checksum: int
    length: int
    shift: int


class Load(NamedTuple):
    """What clients saw: answers within the measured time, and when (s, monotonic) and after how long (s) each came."""

    seconds: float
    answers: int
    refused: int
    at: "array[float]"
    latency: "array[float]"

    def percentiles(self, *which: float) -> list[float]:
        """Latencies in ms."""
        return percentiles(self.latency, *which)


def percentiles(latencies: Sequence[float], *which: float) -> list[float]:
    """Percentiles of latencies given in s, in ms."""
    ordered = sorted(latencies) or [0.0]
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] * 1000 for share in which]


# --- The swarm --------------------------------------------------------------------------------------------------------


def zipf(rng: random.Random, size: int) -> int:
    """A rank below `size`, the k-th about k times as rare as the first."""
    return int((size + 1) ** rng.random()) - 1


def address(rank: int) -> str:
    """The address of a rank: 70 % IPv4, all public."""
    mixed = (rank + 1) * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF
    if rank % 10 < 7:
        return f"{20 + (mixed >> 58)}.{mixed >> 48 & 255}.{mixed >> 40 & 255}.{mixed >> 32 & 255}"
    return f"240e:{mixed >> 48:x}:{mixed >> 32 & 65535:x}:{mixed >> 16 & 65535:x}::{mixed & 65535:x}"


def torrent(rank: int) -> tuple[str, int]:
    """Identifier and size in bytes of the torrent of a rank."""
    identifier = sha256(b"torrent %d" % rank).hexdigest()
    return identifier, (int(identifier[:8], 16) << 4) + 1_000_000


def client(rank: int) -> tuple[str, str]:
    """Peer id and name of the client of a rank."""
    kind, name = (("qB", "qBittorrent"), ("TR", "Transmission"), ("UT", "µTorrent"), ("LT", "libtorrent"))[rank % 4]
    return f"-{kind}{rank // 4:04d}-", f"{name}/{rank // 400}.{rank // 40 % 10}.{rank // 4 % 10}"


def flags(rank: int) -> str:
    """The peer flags of a rank."""
    return " ".join(letter for bit, letter in enumerate("DUKHEP") if rank + 1 >> bit & 1)


_ROW = (
    '{"ip_address":"%s","peer_port":%d,"peer_id":"%s","client_name":"%s","torrent_identifier":"%s",'
    '"torrent_is_private":false,"torrent_size":%d,"downloaded":%d,"rt_download_speed":%d,"uploaded":%d,'
    '"rt_upload_speed":%d,"peer_progress":%.4f,"downloader_progress":%.4f,"peer_flag":"%s"}'
)


def rows(rng: random.Random, count: int, known: dict[int, tuple[str, int]]) -> Iterator[str]:
    """Peers as JSON objects, about three to a torrent; `known` keeps the torrents that were needed."""
    here = [zipf(rng, TORRENTS) for _ in range(count // 3 + 1)]
    for rank in here:
        if rank not in known:
            known[rank] = torrent(rank)
    for _ in range(count):
        rank = rng.choice(here)
        down, up = rng.randrange(1 << 31), rng.randrange(1 << 31)
        yield _ROW % (
            address(zipf(rng, ADDRESSES)),
            1024 + down % 60_000,
            *client(zipf(rng, CLIENTS)),
            *known[rank],
            # Much of what clients see stands still.
            down if down & 3 == 0 else 0,
            up >> 12 if down & 3 == 0 else 0,
            up if up & 1 else 0,
            down >> 12 if up & 1 else 0,
            (up & 0x3FF) / 0x3FF,
            (down & 0xFF) / 0xFF,
            flags(zipf(rng, FLAGS)),
        )


def bodies(peers: int, count: int, part: int = 0) -> list[Body]:
    """Bodies of so many peers each."""
    rng = random.Random(SEED + peers * 100 + part)
    known: dict[int, tuple[str, int]] = {}
    made = []
    for _ in range(count):
        rest = ('"peers":[' + ",".join(rows(rng, peers, known)) + "]}").encode()
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        made.append(Body(deflate.compress(rest) + deflate.flush(), zlib.crc32(rest), len(rest), _power(len(rest) * 8)))
    return made


def make_bodies(sizes: Sequence[int], share: float, processes: int) -> dict[int, list[Body]]:
    """All bodies by size, made in several processes."""
    counts = {peers: max(processes, int(BODIES[peers] * share)) for peers in sizes}
    work = [(peers, counts[peers] // processes, part) for peers in sizes for part in range(processes)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        parts = pool.starmap(bodies, work, chunksize=1)
    found: dict[int, list[Body]] = {peers: [] for peers in sizes}
    for part, (peers, _, _) in zip(parts, work, strict=True):
        found[peers] += part
    return found


# --- Bodies that differ -----------------------------------------------------------------------------------------------

_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_PREFIX = b'{"populate_time":%d,'
_PREFIX_LENGTH = len(_PREFIX % FIRST_TIME)
_STORED = _GZIP_HEAD + struct.pack("<BHH", 0, _PREFIX_LENGTH, _PREFIX_LENGTH ^ 0xFFFF)
_TAIL = struct.Struct("<II")


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo that of CRC-32, bits reversed."""
    product, bit = 0, 1 << 31
    while a:
        if a & bit:
            product ^= b
            a ^= bit
        bit >>= 1
        b = b >> 1 ^ 0xEDB8_8320 if b & 1 else b >> 1
    return product


def _power(exponent: int) -> int:
    """x to that power."""
    power, square = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            power = _times(square, power)
        square = _times(square, square)
        exponent >>= 1
    return power


def compressed(body: Body, populate_time: int) -> bytes:
    """The body of a request, gzipped."""
    prefix = _PREFIX % populate_time
    checksum = _times(body.shift, zlib.crc32(prefix)) ^ body.checksum
    return b"".join((_STORED, prefix, body.deflated, _TAIL.pack(checksum, body.length + _PREFIX_LENGTH)))


def size(body: Body) -> int:
    """Bytes of the body once it is compressed."""
    return len(_STORED) + _PREFIX_LENGTH + len(body.deflated) + _TAIL.size


# --- Clients ----------------------------------------------------------------------------------------------------------


def head(path: str, credentials: tuple[str, str]) -> bytes:
    """A request up to the value of its last header, as PeerBanHelper sends it."""
    app_id, secret = credentials
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "User-Agent: PeerBanHelper/9.0.1 BTN-Protocol/11 BTN-Protocol-Version/11",
        "Content-Type: application/json",
        "Content-Encoding: gzip",
        f"X-BTN-AppID: {app_id}",
        f"X-BTN-AppSecret: {secret}",
        f"BTN-AppID: {app_id}",
        f"BTN-AppSecret: {secret}",
        f"Authentication: Bearer {app_id}@{secret}",
        "Content-Length: ",
    )
    return "\r\n".join(lines).encode()


class _Client:
    """One connection of the closed loop."""

    __slots__ = ("head", "left", "sent_at", "sock")

    def __init__(self, port: int, start: bytes) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.head = start
        self.sent_at = 0.0
        self.left: bytes | memoryview = b""

    def send(self, data: bytes) -> bool:
        """Begin a request; whether all of it went."""
        self.sent_at = time.monotonic()
        return self.go_on(memoryview(data))

    def go_on(self, data: memoryview) -> bool:
        """Send what is left; whether all of it went."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        self.left = data[sent:]
        return not self.left


def _ends(made: Sequence[Body], first: int) -> Iterator[bytes]:
    """Endlessly: what follows the head of a request; no two are the same."""
    for number in itertools.count(first):
        body = made[number % len(made)]
        yield b"%d\r\n\r\n%b" % (size(body), compressed(body, number))


def _loop(
    port: int, heads: Sequence[bytes], made: Sequence[Body], number: int, window: tuple[float, float]
) -> "tuple[int, array[float], array[float]]":
    clients = {}
    poll = select.epoll()
    ends = _ends(made, number)
    for start in heads:
        one = _Client(port, start)
        clients[one.sock.fileno()] = one
        poll.register(one.sock, select.EPOLLIN if one.send(start + next(ends)) else select.EPOLLOUT)
    at, latency, refused = array("d"), array("d"), 0
    begin, end = window
    while True:
        for number, event in poll.poll(1.0):
            one = clients[number]
            if event & select.EPOLLOUT:
                if one.go_on(memoryview(one.left)):
                    poll.modify(number, select.EPOLLIN)
                continue
            answer = one.sock.recv(4096)
            now = time.monotonic()
            if not answer:
                raise ConnectionError("the server closed a connection")
            if begin <= now < end:
                at.append(now)
                latency.append(now - one.sent_at)
                refused += not answer.startswith(b"HTTP/1.1 200")
            if now < end and not one.send(one.head + next(ends)):
                poll.modify(number, select.EPOLLOUT)
        if time.monotonic() > end + 0.05:
            # What is still on its way is answered before the next measurement begins.
            time.sleep(0.5)
            return refused, at, latency


def drive(
    port: int,
    made: Sequence[Body],
    credentials: Sequence[tuple[str, str]],
    *,
    connections: int,
    seconds: float,
    warm_up: float = 1.0,
    processes: int = 1,
    path: str = "/ping/peers/submit",
    meanwhile: Callable[[float], T] | None = None,
) -> tuple[Load, T | None]:
    """Keep `connections` requests on their way for so long; `meanwhile` is called when the measured time begins."""
    processes = min(processes, connections)
    begin = time.monotonic() + warm_up + 0.2
    window = (begin, begin + seconds)
    heads = [head(path, credentials[number % len(credentials)]) for number in range(connections)]
    running = [
        start_child(_loop, port, heads[process::processes], made, next(_turns), window) for process in range(processes)
    ]
    time.sleep(max(0.0, begin - time.monotonic()))
    extra = meanwhile(seconds) if meanwhile else None
    found = [finish() for finish in running]
    at = reduce(lambda a, b: a + b, (one[1] for one in found))
    latency = reduce(lambda a, b: a + b, (one[2] for one in found))
    return Load(seconds, len(at), sum(one[0] for one in found), at, latency), extra


def start_child(work: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """Begin work in a process of its own; the result is a function that waits for its outcome."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()

    def finish() -> T:
        try:
            outcome: T = ours.recv()
        except EOFError:
            raise RuntimeError(f"{work.__name__} failed, see above") from None
        finally:
            process.join()
        return outcome

    return finish


def in_child(work: Callable[..., T], *arguments: Any) -> T:
    """Do work in a process of its own."""
    return start_child(work, *arguments)()


def _child(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pipe.send(work(*arguments))
    pipe.close()
