"""How long a change takes until clients are served it, with a long list: `python -m tests.bench.publish`.

A server in a process of its own serves a hundred thousand made-up decisions of several origins, with exceptions in
between. It is changed over its REST API and from the command line, and asked for its deny list until that has the
change. A process beside asks for what every client asks for, at a steady pace, and tells what it feels of it.
"""

import argparse
import contextlib
import http.client
import json
import random
import re
import socket
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import load
from tests.server import RunningServer, opened, start_server

DAY_MS = 86_400_000
CONFIG = """
[server]
public_url = "https://btn.example.org"
[limits]
requests_per_minute = 0
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24", "2408:8000:1::/48"]
"""


class Origin(NamedTuple):
    """Who lists a share of the list, for what reason, in prefixes of which lengths (bits)."""

    share: float
    name: str
    code: str
    v4: int = 32
    v6: int = 64


ORIGINS = (
    Origin(0.45, "untrusted_vote", "progress_cheater"),
    Origin(0.20, "over_download", "over_downloader"),
    Origin(0.05, "multi_dial", "multi_dialer", v4=24, v6=56),
    Origin(0.30, "import:partner", "imported"),
)
EXCEPTIONS = 500
# A change must be served within it.
TARGET_S = 2.0
# What others may feel of it.
TARGET_MS = 25.0
POLL_S = 0.02
PROBE_S = 0.005

# --- A list of made-up decisions --------------------------------------------------------------------------------------


def decisions(count: int, now: int) -> Iterator[tuple[object, ...]]:
    """Rows of the decision table, 70 % IPv4."""
    rng = random.Random(1)
    for origin in ORIGINS:
        for _ in range(int(count * origin.share)):
            if rng.random() < 0.3:
                address, prefix = (b"\x24\x0e" + rng.randbytes(6))[: origin.v6 // 8].ljust(16, b"\0"), origin.v6
            else:
                # A provider's networks hold many of them.
                address = bytes((rng.randrange(20, 100), rng.randrange(256), rng.randrange(256), rng.randrange(256)))
                address, prefix = address[: origin.v4 // 8].ljust(4, b"\0"), origin.v4
            expires = now + rng.randrange(DAY_MS, 14 * DAY_MS)
            yield row("deny", origin, address, prefix, told=numbers(rng), expires=expires)
    for _ in range(EXCEPTIONS):
        address = bytes((rng.randrange(20, 100), rng.randrange(256), rng.randrange(256), rng.randrange(256)))
        yield row("allow", Origin(0, "admin", "pardon"), address, 32, told={}, expires=now + 7 * DAY_MS)


def numbers(rng: random.Random) -> dict[str, float]:
    """The numbers of all sentences together."""
    return {
        "people": rng.randrange(3, 40),
        "torrents": rng.randrange(2, 90),
        "days": rng.randrange(1, 14),
        "percent": rng.randrange(250, 5000),
        "taken_bytes": rng.randrange(1 << 31, 1 << 42),
        "size_bytes": rng.randrange(1 << 29, 1 << 36),
        "members": rng.randrange(8, 250),
        "sharing": rng.randrange(8, 250),
        "weight": round(rng.random() * 10, 2),
        "window_days": 14,
    }


def row(
    action: str, origin: Origin, address: bytes, prefix: int, *, told: dict[str, float], expires: int
) -> tuple[object, ...]:
    """One row as the server writes it."""
    text = json.dumps(told, separators=(",", ":"))
    evidence = '{"people":3,"formula":1,"first_seen":1700000000000,"last_seen":1700000000000}'
    category = origin.name.rpartition(":")[2]
    return (address, prefix, action, origin.name, category, origin.code, text, evidence, expires)


def fill(path: Path, count: int) -> None:
    """Write the decisions while no server runs."""
    now = time.time_ns() // 1_000_000
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
            f" created_at, expires_at) VALUES ('ip', ?, ?, ?, 'active', ?, ?, ?, ?, ?, {now}, ?)",
            decisions(count, now),
        )
        connection.execute("UPDATE decision_revision SET number=number+1")
        connection.commit()


# --- What others feel -------------------------------------------------------------------------------------------------


def probe(port: int, requests: Sequence[bytes], seconds: float) -> list[tuple[float, float]]:
    """Send requests in turn at a steady pace for so long: when each was due (s, monotonic), after how long answered.

    One that waits for the one before is late, and counts so.
    """
    found = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.monotonic()
        end = due + seconds
        number = 0
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            sock.sendall(requests[number % len(requests)])
            answer = b""
            while not _whole(answer):
                answer += sock.recv(65536)
            found.append((due, time.monotonic() - due))
            number += 1
            due += PROBE_S
    return found


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) == (int(length[1]) if length else 0)


class Watch:
    """The most memory that the server and its children had, looked at every few milliseconds on a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self.server = self.child = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        tasks = Path(f"/proc/{self._pid}/task")
        while not self._ended.wait(0.01):
            with contextlib.suppress(OSError):
                self.server = max(self.server, _megabytes(self._pid))
                for child in " ".join(one.read_text() for one in tasks.glob("*/children")).split():
                    self.child = max(self.child, _megabytes(int(child)))


def _megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


# --- Changes ----------------------------------------------------------------------------------------------------------


class Changed(NamedTuple):
    """A change: when it was asked for and served (s, monotonic), and s from its commit until it was served."""

    asked: float
    served: float
    after_commit: float


class Site:
    """The server and an administrator of it."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.token = server.run("user", "token", "admin").strip()

    def targets(self, count: int) -> list[str]:
        """Single addresses that are listed."""
        with opened(self.server.database) as connection:
            sql = "SELECT address FROM decision WHERE origin='untrusted_vote' AND prefix=32 ORDER BY random() LIMIT ?"
            return [socket.inet_ntop(socket.AF_INET, bytes(one[0])) for one in connection.execute(sql, (count,))]

    def pardon_over_rest(self, target: str) -> None:
        """As a page does."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = json.dumps({"target": target}).encode()
        answer = self.server.request("POST", "/api/rules/pardon", body, headers)
        assert answer.status == 200, answer.body

    def pardon_by_command(self, target: str) -> None:
        """As an administrator does from the shell; the server has to notice by itself."""
        self.server.run("rules", "pardon", target)

    def changed(self, change: Callable[[str], None], target: str) -> Changed:
        """Make a change and wait until the deny list doesn't have the target any more."""
        before = self.server.get("/ping/ruleIpDenylist")
        assert f"\n{target}\n".encode() in before.body
        asked = time.monotonic()
        thread = threading.Thread(target=change, args=(target,))
        thread.start()
        served = self._wait(before.headers["x-btn-contentversion"], target)
        wall, now = time.time(), time.monotonic()
        thread.join()
        with opened(self.server.database) as connection:
            sql = "SELECT max(created_at) FROM decision WHERE origin='admin'"
            committed = connection.execute(sql).fetchone()[0] / 1000
        return Changed(asked, served, wall - committed - (now - served))

    def _wait(self, version: str, target: str) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {**self.server.app.headers, "Accept-Encoding": "identity"}
        with contextlib.closing(connection):
            while True:
                connection.request("GET", f"/ping/ruleIpDenylist?rev={version}", headers=headers)
                response = connection.getresponse()
                body = response.read()
                if response.status == 200 and f"\n{target}\n".encode() not in body:
                    return time.monotonic()
                time.sleep(POLL_S)

    def probes(self) -> list[bytes]:
        """What is asked for beside: whether the server lives, and the rules that a client has already."""
        version = self.server.get("/ping/rules/retrieve").headers["x-btn-contentversion"]
        head = "".join(f"{name}: {value}\r\n" for name, value in self.server.app.headers.items())
        rules = f"GET /ping/rules/retrieve?rev={version} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode()
        return [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", rules]


def measure(site: Site, rounds: int, idle_s: float) -> None:
    """Make changes of both sorts in turn, probing all the time; print."""
    targets = iter(site.targets(2 * rounds + 1))
    site.changed(site.pardon_over_rest, next(targets))
    port, probes = site.server.port, [site.probes()[0]]
    idle = [took for _, took in load.in_child(probe, port, site.probes(), idle_s)]
    found: dict[str, list[Changed]] = {"over REST": [], "by command": []}
    busy: list[float] = []
    with Watch(site.server.process.pid) as watch:
        for _ in range(rounds):
            sorts = (site.pardon_over_rest, site.pardon_by_command)
            for changes, change in zip(found.values(), sorts, strict=True):
                # The rules change meanwhile, so only the first of the probes is always as cheap.
                probing = load.start_child(probe, port, probes, 2 * TARGET_S + 1)
                time.sleep(0.2)
                changes.append(site.changed(change, next(targets)))
                busy += [took for due, took in probing() if changes[-1].asked <= due <= changes[-1].served]
    for name, changes in found.items():
        after = [one.after_commit for one in changes]
        whole = [one.served - one.asked for one in changes]
        print(
            f"a change {name}: served after {min(after):.2f} to {max(after):.2f} s, median"
            f" {statistics.median(after):.2f} ({len(after)}); since it was asked for, median"
            f" {statistics.median(whole):.2f} s"
        )
    quiet, loaded = load.percentiles(idle, 50, 99, 100), load.percentiles(busy, 50, 99, 100)
    print("other requests, p50 / p99 / max ms: idle", *(f"{ms:.1f}" for ms in quiet), f"({len(idle)}),", end="")
    print(" publishing", *(f"{ms:.1f}" for ms in loaded), f"({len(busy)})")
    print(f"memory at most: server {watch.server:.0f} MB, the process that renders {watch.child:.0f} MB")
    for name, changes in found.items():
        line(f"slowest change {name}, s from commit to served", max(one.after_commit for one in changes), TARGET_S)
    line("p99 of other requests while publishing, ms", loaded[1], TARGET_MS)


def line(name: str, value: float, target: float) -> None:
    """Print one target."""
    print(f"{name}: {value:.3g}, target <= {target:g}: {'met' if value <= target else '**missed**'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.publish", description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=100_000, help="networks listed (default 100000)")
    parser.add_argument("--rounds", type=int, default=10, help="changes of each sort (default 10)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of idle latency (default 10)")
    parser.add_argument("--folder", type=Path, help="where the database goes (default: TMPDIR)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="sparkle-bench-", dir=options.folder) as name,
        start_server(Path(name) / "site", CONFIG) as server,
    ):
        server.stop()
        fill(server.database, options.decisions)
        server.start()
        lines = server.get("/ping/ruleIpDenylist").body.count(b"\n") // 2
        print(f"{options.decisions:,} decisions, {lines:,} lines in the deny list", flush=True)
        measure(Site(server), options.rounds, options.idle)


if __name__ == "__main__":
    main()
