"""What one application at its worst does to another: `python -m tests.bench.fairness [--seconds 20] [--only NAME]`.

A member posts a single peer over and over, opens pages, and asks about addresses: first alone, then while another
member's application sends everything that was ever found to hurt, all of it at once, without a limit of requests. Told
are the member's times (ms) and what became of the attacker's requests. Ratios are worth more than times.
"""

import argparse
import gzip
import http.client
import itertools
import json
import random
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.bench import load
from tests.server import App, RunningServer, start_server

# What promise 10 allows: how many times as long as alone.
RATIO = 5.0
CONFIG = "[limits]\nrequests_per_minute = 0\n"
_PACE_S = 0.01
_TIMES = itertools.count(load.FIRST_TIME)
_MIB = 1 << 20
_ROW = b'{"ip_address":"%s","torrent_identifier":"a","uploaded":%s}'


class Seen(NamedTuple):
    """What the member saw: latencies of POSTs and of everything else (s), and the statuses of both."""

    posts: list[float]
    others: list[float]
    statuses: Counter[str]


class Report(NamedTuple):
    """What the member saw alone and under attack, and how the attacker's requests were answered, by kind."""

    alone: Seen
    attacked: Seen
    attacker: Counter[str]


# --- The attacker -----------------------------------------------------------------------------------------------------


def _rows(row: bytes, size: int) -> bytes:
    return b'{"populate_time":%d,"peers":[' + b",".join([row] * (size // len(row))) + b"]}"


def _large(rng: random.Random) -> bytes:
    """Fifty thousand sound rows that don't compress well."""
    rows = ",".join(load.rows(rng, 50_000, {}))
    return b'{"populate_time":%d,"peers":[' + rows.replace("%", "").encode() + b"]}"


def _bans() -> bytes:
    """Bans with as much text as one can have."""
    peer = json.loads(_ROW % (b"203.0.113.9", b"1"))
    bans = [
        {"module": "x", "rule": "r" * 1024, "ban_unique_id": f"@{n}", "description": "d" * 4096, "peer": peer}
        for n in range(400)
    ]
    return b'{"populate_time":%d,"bans":' + json.dumps(bans).encode() + b"}"


# Bodies by name: how many are always on their way, and the plain body, with %d where each differs from the others.
BODIES: dict[str, tuple[int, Callable[[], bytes]]] = {
    "string": (8, lambda: b'{"populate_time":%d,"peers":["' + b"a" * 60_000_000 + b'"]}'),
    "small string": (4, lambda: b'{"populate_time":%d,"peers":["' + b"a" * (8 * _MIB - 100) + b'"]}'),
    "brackets": (4, lambda: b'{"populate_time":%d,"peers":' + b"[" * 30_000_000),
    "NaN rows": (4, lambda: _rows(_ROW % (b"1.2.3.4", b"NaN"), _MIB)),
    "NaN alone": (4, lambda: b'{"populate_time":%d,"peers":[' + b"NaN," * 250_000 + b"1]}"),
    "empty rows": (4, lambda: _rows(b"{}", 2 * _MIB - 4096)),
    "few bad rows": (4, lambda: _rows(_ROW % (b"1.2.3.4", b'"x"'), 25_000)),
    "damaged": (4, lambda: _rows(_ROW % (b"1.2.3.4", b"[[}"), _MIB)),
    "large": (2, lambda: _large(random.Random(load.SEED))),
    "medium": (4, lambda: b'{"populate_time":%d,"peers":[' + _sound_rows(4_500) + b"]}"),
    "bans": (2, _bans),
}
OTHERS = ("silent", "searches")
SEARCHES = 40


def _sound_rows(count: int) -> bytes:
    return ",".join(load.rows(random.Random(count), count, {})).replace("%", "").encode()


class Attacker:
    """All kinds of one application's worst, each on connections of its own until it is stopped."""

    def __init__(self, port: int, app: App, token: str) -> None:
        self._port = port
        self._app = app
        self._token = token
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()

    def run(self, kinds: list[str], seconds: float, ready: Callable[[], None]) -> Counter[str]:
        """Attack for so long; how the requests were answered. `ready` is called when it begins."""
        made = {kind: BODIES[kind][1]() for kind in kinds if kind in BODIES}
        threads = [
            threading.Thread(target=self._send, args=(kind, body), daemon=True)
            for kind, body in ((kind, _Varied(body)) for kind, body in made.items())
            for _ in range(BODIES[kind][0])
        ]
        threads += [threading.Thread(target=self._search, daemon=True) for _ in range(SEARCHES * ("searches" in kinds))]
        threads += [threading.Thread(target=self._hold, daemon=True) for _ in range(4 * ("silent" in kinds))]
        for thread in threads:
            thread.start()
        ready()
        time.sleep(seconds)
        self._stop.set()
        return self.answers

    def _connect(self) -> http.client.HTTPConnection:
        source = (self._app.source, 0) if self._app.source else None
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60, source_address=source)

    def _ask(self, kind: str, method: str, path: str, bodies: Iterator[bytes], headers: dict[str, str]) -> None:
        connection = self._connect()
        while not self._stop.is_set():
            try:
                connection.request(method, path, next(bodies), headers)
                response = connection.getresponse()
                response.read()
                self.answers[f"{kind}: {response.status}"] += 1
                if response.status in (429, 503):
                    time.sleep(0.05)
            except OSError as error:
                self.answers[f"{kind}: {type(error).__name__}"] += 1
                connection.close()

    def _send(self, kind: str, body: "_Varied") -> None:
        headers = {**self._app.headers, "Content-Encoding": "gzip"}
        path = "/ping/bans/submit" if kind == "bans" else "/ping/peers/submit"
        self._ask(kind, "POST", path, iter(body.another, None), headers)

    def _search(self) -> None:
        query = {
            "peerClientName": "e",
            "peerClientNameCompareMethod": "CONTAINS",
            "sortBy": ["toPeerTraffic"],
            "pageSize": 100,
        }
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._ask("searches", "POST", "/api/snapshot/query", itertools.repeat(json.dumps(query).encode()), headers)

    def _hold(self) -> None:
        """Send all of a large body but its last byte."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._app.headers.items())
        size = 16 * _MIB
        head = f"POST /ping/peers/submit HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {size}\r\n\r\n".encode()
        while not self._stop.is_set():
            with socket.create_connection(("127.0.0.1", self._port), 60) as sock:
                try:
                    sock.sendall(head + b" " * (size - 1))
                    self.answers["silent: sent"] += 1
                    self._stop.wait()
                except OSError:
                    self.answers["silent: refused"] += 1
                    self._stop.wait(0.5)


class _Varied:
    """A body that was compressed once, and differs each time by a stored block at its beginning."""

    def __init__(self, plain: bytes) -> None:
        head, _, rest = plain.partition(b"%d")
        self._head = head
        self._lock = threading.Lock()
        # A member of its own for what differs: the server joins members as gzip does.
        self._rest = gzip.compress(rest, 9)

    def another(self) -> bytes:
        """The next one."""
        with self._lock:
            number = next(_TIMES)
        return gzip.compress(self._head + b"%d" % number, 0) + self._rest


def _attack(port: int, app: App, token: str, work: tuple[list[str], float, str]) -> Counter[str]:
    kinds, seconds, begun = work
    return Attacker(port, app, token).run(kinds, seconds, Path(begun).touch)


# --- The member -------------------------------------------------------------------------------------------------------


class Member:
    """Somebody whose client reports, and who looks at pages meanwhile."""

    def __init__(self, server: RunningServer, app: App, token: str) -> None:
        self._port = server.port
        self._app = app
        self._cookie = {"Cookie": f"X-BTN-Token={token}", "Sec-Fetch-Site": "same-origin"}
        with closing(self._connection()) as connection:
            self._one(connection, "POST", "/welcome/done", None, self._cookie)

    def _connection(self) -> http.client.HTTPConnection:
        source = (self._app.source, 0) if self._app.source else None
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60, source_address=source)

    def _one(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, head: dict[str, str]
    ) -> tuple[float, int]:
        started = time.monotonic()
        connection.request(method, path, body, head)
        response = connection.getresponse()
        response.read()
        return time.monotonic() - started, response.status

    def watch(self, seconds: float) -> Seen:
        """What it is like for so long."""
        seen = Seen([], [], Counter())
        end = time.monotonic() + seconds
        looking = threading.Thread(target=self._look, args=(seen, end))
        looking.start()
        with closing(self._connection()) as connection:
            head = {**self._app.headers, "Content-Encoding": "gzip"}
            while time.monotonic() < end:
                row = _ROW % (b"203.0.113.7", b"1")
                body = gzip.compress(b'{"populate_time":%d,"peers":[%b]}' % (next(_TIMES), row), 1)
                took, status = self._one(connection, "POST", "/ping/peers/submit", body, head)
                seen.posts.append(took)
                seen.statuses[f"post {status}"] += 1
                time.sleep(_PACE_S)
        looking.join()
        return seen

    def _look(self, seen: Seen, end: float) -> None:
        asked: tuple[tuple[str, dict[str, str]], ...] = (
            ("/ping/queryIp?ip=203.0.113.7", self._app.headers),
            ("/explore/snapshots?peerClientName=Transmission", self._cookie),
            ("/explore/bans", self._cookie),
            ("/healthz", {}),
        )
        with closing(self._connection()) as connection:
            for path, head in itertools.cycle(asked):
                if time.monotonic() >= end:
                    return
                took, status = self._one(connection, "GET", path, None, head)
                seen.others.append(took)
                seen.statuses[f"{path.partition('?')[0]} {status}"] += 1
                # Not over thirty questions a minute.
                time.sleep(0.5)


def measure(server: RunningServer, seconds: float, kinds: list[str], rows: int = 20_000) -> Report:
    """Watch a member for so long alone, and for so long while somebody else attacks, on a server with so many rows."""
    for name in ("alice", "mallory"):
        server.run("user", "add", name)
    alice, mallory = server.add_app("alice"), server.add_app("mallory")
    for number in range(rows // 5_000):
        body = b'{"populate_time":%d,"peers":[%b]}' % (number, _sound_rows(5_000 + number))
        assert server.post(gzip.compress(body, 1), mallory, Content_Encoding="gzip").status == 200
    member = Member(server, alice, server.token("alice"))
    alone = member.watch(seconds)
    begun = server.folder / "begun"
    # Longer than it is watched, so that it lasts to the end.
    work = (kinds, seconds + 1.5, str(begun))
    attack = load.start_child(_attack, server.port, mallory, server.token("mallory"), work)
    while not begun.exists():
        time.sleep(0.05)
    time.sleep(1)
    attacked = member.watch(seconds)
    return Report(alone, attacked, attack())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long each of the two parts lasts")
    parser.add_argument("--only", action="append", choices=(*BODIES, *OTHERS), help="only this of what hurts; again")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sparkle-fairness-"))
    try:
        with start_server(folder / "server", CONFIG) as server:
            tell(measure(server, options.seconds, options.only or [*BODIES, *OTHERS]))
            print(f"memory at the most: {server.resident('VmHWM') // _MIB} MiB")
    finally:
        shutil.rmtree(folder)


def tell(report: Report) -> None:
    """Print what came out."""
    print(f"{'':12}{'posts':>7}{'p50':>9}{'p90':>9}{'p99':>9}{'most':>9}   pages, look-ups: p50, most")
    for name, seen in (("alone", report.alone), ("attacked", report.attacked)):
        times = "".join(f"{each:9.1f}" for each in load.percentiles(seen.posts, 50, 90, 99, 100))
        others = "".join(f"{each:9.1f}" for each in load.percentiles(seen.others, 50, 100))
        print(f"{name:12}{len(seen.posts):7}{times}   {others}")
    [before], [after] = (load.percentiles(seen.posts, 99) for seen in (report.alone, report.attacked))
    print(f"p99 {after / before:.1f} times as long as alone; {RATIO:.0f} times is allowed")
    print("member:  ", dict(sorted(report.attacked.statuses.items())))
    print("attacker:", dict(sorted(report.attacker.items())))


if __name__ == "__main__":
    main()
