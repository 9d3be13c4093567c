"""How long the server takes for every page of the site: `python -m tests.bench.pages [--rows 1]` (millions of rows).

Fills a database with a week of snapshots and cumulative rows (a segment a day), six weeks of bans, and decisions, of
realistic skew; starts a real server on it and walks the pages as somebody who is signed in, over one connection. Times
are in ms, from the request until the last byte; what takes longer than LIMIT_MS in one of twenty is marked.
"""

import argparse
import asyncio
import http.client
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from sparkle_lite import net
from sparkle_lite.db import decisions
from sparkle_lite.db.database import Database
from tests.bench import load
from tests.bench.query import BODY, MODULES, SWARM_SHARE, Pick, fill_bans, fill_dictionaries, fill_stream
from tests.server import App, RunningServer

LIMIT_MS = 100
TIMES = 40
USERS, APPS, LISTED, AUDIT = 20, 500, 20_000, 20_000
# The last day is still being written.
DAYS = 7.5
_HOUR_MS = 3_600_000


# --- Filling ----------------------------------------------------------------------------------------------------------


def fill_people(path: Path, now: int) -> None:
    """Whom the applications belong to, where they report from, and what was done meanwhile."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE user SET role='admin', name='admin', name_key='admin'")
        connection.executemany(
            "INSERT INTO user (id, name, name_key, role, registered_by, registered_at)"
            " VALUES (?,?1,?1,'user','admin',0)",
            [(number,) for number in range(2, USERS + 1)],
        )
        connection.execute("UPDATE userapp SET user=id%?+1, last_access_at=?-id*60000", (USERS, now))
        connection.executemany(
            "INSERT INTO userapp_address VALUES (?,?,?,?)",
            [(number, bytes((11, 0, number & 255, number >> 8)), 0, now) for number in range(1, APPS + 1)],
        )
        connection.executemany(
            "INSERT INTO audit (at, action, success, user, address, details) VALUES (?,'APP_ADD',1,1,'127.0.0.1','{}')",
            [(now - number * 60_000,) for number in range(AUDIT)],
        )
        connection.executemany(
            "INSERT INTO review (address, asked_at, is_own, listed, message, contact) VALUES (?,?,1,1,'why me','')",
            [(net.address_bytes(load.address(number)), now) for number in range(100)],
        )
    connection.close()


def made_decisions(pick: Pick) -> list[decisions.New]:
    """Addresses that are listed, held and excepted."""
    made = []
    for rank, address in enumerate(pick.addresses[:LISTED]):
        state: decisions.State = "held" if rank % 50 == 7 else "active"
        made.append(
            decisions.New(
                kind="ip",
                network=net.Network(address, len(address) * 8),
                text=None,
                action="allow" if rank % 200 == 3 else "deny",
                state=state,
                origin="untrusted_vote",
                category="untrusted_vote",
                code="progress_cheater",
                numbers={"people": 4, "torrents": 3, "days": 2, "window_days": 14},
                evidence={"version": 1, "people": 4, "first_seen": pick.now - 86_400_000, "last_seen": pick.now},
                held_for="member" if state == "held" else None,
                expires_at=pick.now + (rank % 14 + 1) * 86_400_000,
            )
        )
    return made


async def fill(path: Path, rows: int, now: int) -> None:
    database = Database(path, "normal")
    await database.open()
    fill_dictionaries(path, now)
    fill_people(path, now)
    pick = Pick(path, now)
    for kind, share in (("snapshot", SWARM_SHARE - 1), ("swarm", 1)):
        count = rows * share // SWARM_SHARE
        a_day = int(count / DAYS) // BODY * BODY
        await fill_stream(database, kind, count, pick, a_day)  # type: ignore[arg-type]
    await fill_bans(database, 3 * rows // 10, pick)
    new = made_decisions(pick)
    for at, part in ((now - 5 * _HOUR_MS, new[::2]), (now - _HOUR_MS, new[1::2])):
        numbers = await database.write(partial(decisions.begin, new=part, now_ms=at))
        ends: Any = [(number, "withdrawn") for number in numbers[::10]]
        await database.write(partial(decisions.end, ends=ends, now_ms=at + 60_000))
    await database.close()


# --- Walking ----------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of page: what it is called, and a path of it."""

    name: str
    make: Callable[[random.Random], str]


def _torrent_page(low: int, high: int, rng: random.Random) -> str:
    return f"/torrent/{load.torrent(rng.randrange(low, high))[0]}"


def _path(path: str, **parameters: object) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


def _explore(view: str, name: str, make: Callable[[random.Random], dict[str, Any]]) -> Kind:
    return Kind(f"/explore/{view}: {name}", lambda rng: _path(f"/explore/{view}", **make(rng)))


def _rank(rng: random.Random, low: int, high: int) -> int:
    return rng.randrange(low, min(high, load.ADDRESSES // 4))


def _address(rng: random.Random) -> str:
    return load.address(load.zipf(rng, load.ADDRESSES // 4))


def _network(rng: random.Random) -> str:
    address = net.address_bytes(_address(rng))
    return str(net.network_of(address, 24 if len(address) == 4 else 48))


def _torrent(rng: random.Random) -> str:
    return load.torrent(load.zipf(rng, load.TORRENTS))[0]


def _name(rng: random.Random) -> str:
    return load.client(load.zipf(rng, load.CLIENTS))[1]


def kinds(app: str, now: int) -> Iterator[Kind]:
    """Every page that can be looked at."""
    for path in (
        *("/", "/?span=month", "/?span=year", "/overview.json?span=week", "/overview.json?span=year"),
        *("/apps", "/apps/all", f"/apps/{app}", f"/apps/{app}/connected", "/account", "/ip", "/login"),
        *("/admin/users", "/admin/users/1", "/admin/audit", "/admin/settings"),
        *("/rules", "/rules?state=active&action=deny", "/rules?origin=untrusted_vote", "/rules/held"),
        *("/rules/exceptions", "/rules/deny", "/rules/changes", "/rules/analyses", "/rules/dry-run", "/rules/reviews"),
        *("/welcome", "/welcome/circle", "/welcome/exceptions", "/welcome/connect"),
        *("/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"),
    ):
        yield Kind(path, lambda _, path=path: path)  # type: ignore[misc]
    yield Kind("/rules?ip=", lambda rng: _path("/rules", ip=_network(rng)))
    for name, low, high in (("hot", 0, 10), ("mid", 100, 10_000), ("rare", 100_000, 500_000)):
        yield Kind(f"/ip/ of a {name} address", lambda rng, a=low, b=high: f"/ip/{load.address(_rank(rng, a, b))}")  # type: ignore[misc]
    yield Kind("/ip/ of an unknown address", lambda rng: f"/ip/198.51.{rng.randrange(256)}.{rng.randrange(256)}")
    for name, low, high in (("hot", 0, 5), ("mid", 100, 300), ("rare", 1500, 2000)):
        yield Kind(
            f"/client/ of a {name} client",
            lambda rng, a=low, b=high: (  # type: ignore[misc]
                f"/client/{quote(load.client(rng.randrange(a, b))[1], safe='')}"
            ),
        )
        yield Kind(
            f"/client/ of a {name} client with its id",
            lambda rng, a=low, b=high: (  # type: ignore[misc]
                "/client/{1}?peerId={0}".format(*map(quote, load.client(rng.randrange(a, b))))
            ),
        )
    yield Kind("/client/ that is unknown", lambda rng: f"/client/absent{rng.randrange(1000)}")
    for name, low, high in (("hot", 0, 5), ("mid", 100, 5_000), ("rare", 200_000, 300_000)):
        yield Kind(f"/torrent/ of a {name} one", partial(_torrent_page, low, high))
    yield Kind("/torrent/ that is unknown", lambda rng: f"/torrent/{rng.randbytes(32).hex()}")
    yield from _explorer(now)


def _explorer(now: int) -> Iterator[Kind]:
    for view in ("bans", "snapshots", "swarms", "clients", "torrents"):
        yield _explore(view, "newest", lambda _: {})
    for view in ("bans", "snapshots", "swarms"):
        yield _explore(view, "address", lambda rng: {"peerIp": _address(rng)})
        yield _explore(view, "/24 or /48", lambda rng: {"peerIp": _network(rng)})
        yield _explore(view, "torrent", lambda rng: {"torrentIdentifier": _torrent(rng)})
        yield _explore(
            view, "client", lambda rng: {"peerClientName": _name(rng), "peerClientNameCompareMethod": "EQUALS"}
        )
        yield _explore(view, "client contains", lambda rng: {"peerClientName": _name(rng)[:6]})
        yield _explore(view, "no such client", lambda _: {"peerClientName": "absent"})
        yield _explore(view, "a day", lambda rng: _day(rng, now))
        yield _explore(view, "port", lambda rng: {"peerPort": rng.randrange(1024, 65536)})
        yield _explore(
            view, "much traffic", lambda _: {"toPeerTraffic": "1 GiB", "toPeerTrafficCompareMethod": "GREATER_THAN"}
        )
        yield _explore(view, "sorted by traffic", lambda _: {"sortBy": "toPeerTraffic"})
        yield _explore(view, "sorted by traffic, a day", lambda rng: {**_day(rng, now), "sortBy": "toPeerTraffic"})
        yield _explore(view, "sorted by address", lambda _: {"sortBy": "peerIp"})
        yield _explore(view, "500 rows", lambda _: {"pageSize": 500})
    yield _explore("bans", "module", lambda rng: {"module": rng.choice(MODULES)})
    yield _explore("bans", "rule contains", lambda rng: {"rule": f"{rng.randrange(300)}"})
    yield _explore("clients", "name contains", lambda rng: {"peerClientName": _name(rng)[:6]})
    yield _explore("clients", "sorted by last seen", lambda _: {"sortBy": "lastSeenAt"})
    yield _explore("torrents", "identifier", lambda rng: {"identifier": _torrent(rng)})
    yield _explore(
        "torrents",
        "identifier contains",
        lambda rng: {"identifier": _torrent(rng)[:5], "identifierCompareMethod": "CONTAINS"},
    )
    yield _explore("torrents", "size", lambda _: {"sizeFrom": "60 GiB"})


def _day(rng: random.Random, now: int) -> dict[str, Any]:
    start = now - rng.randrange(24, 7 * 24) * _HOUR_MS
    return {"timeFrom": start, "timeTo": start + 24 * _HOUR_MS}


class Visitor:
    """A signed-in administrator on one connection."""

    def __init__(self, server: RunningServer) -> None:
        token = server.run("user", "token", "admin").strip()
        self.headers = {"Cookie": f"X-BTN-Token={token}", "Accept": "text/html", "Accept-Encoding": "gzip"}
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def ask(self, path: str, method: str = "GET") -> tuple[float, int, int, str]:
        """Seconds, status, bytes as sent, and where it leads."""
        headers = self.headers if method == "GET" else {**self.headers, "Sec-Fetch-Site": "same-origin"}
        started = time.perf_counter()
        self._connection.request(method, path, None, headers)
        response = self._connection.getresponse()
        body = response.read()
        return time.perf_counter() - started, response.status, len(body), response.getheader("location") or ""


def measure(visitor: Visitor, kind: Kind) -> bool:
    """One line; whether it is quick enough."""
    rng = random.Random(kind.name)
    paths = [kind.make(rng) for _ in range(TIMES)]
    times, sizes, refused, first = [], [], 0, 0.0
    for number, path in enumerate(paths):
        took, status, size, to = visitor.ask(path)
        if status in (302, 303) and "/explore/" in path:
            # The canonical form of the same page.
            paths[number] = to
            took, status, size, _ = visitor.ask(to)
        first = first or took
        times.append(took)
        sizes.append(size)
        refused += status >= 400
    p50, p95, p99 = load.percentiles(times, 50, 95, 99)
    mark = "" if p95 < LIMIT_MS else f"  over {LIMIT_MS} ms"
    print(
        f"{kind.name:46}{first * 1000:9.1f}{p50:9.1f}{p95:9.1f}{p99:9.1f}{max(sizes) // 1024:6} KiB{mark}"
        + (f"  {refused} refused" if refused else ""),
        flush=True,
    )
    return not mark


def walk(server: RunningServer, now: int, only: str) -> None:
    visitor = Visitor(server)
    visitor.ask("/welcome/done", "POST")
    print(f"{'':46}{'first':>9}{'p50':>9}{'p95':>9}{'p99':>9}")
    quick = [measure(visitor, kind) for kind in kinds("app-0", now) if only in kind.name]
    print(f"{len(quick)} kinds of pages, {len(quick) - sum(quick)} of them over {LIMIT_MS} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1, help="millions of snapshots and cumulative rows (default 1)")
    parser.add_argument("--folder", type=Path, help="where to put the database, or where one was put before")
    parser.add_argument("--only", default="", help="only the kinds whose name contains this")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sparkle-pages-"))
    path = folder / "data" / "sparkle.db"
    now = int(time.time() * 1000)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            asyncio.run(fill(path, int(options.rows * 1_000_000), now))
            print(f"filled in {time.time() - now / 1000:.0f} s", flush=True)
        (folder / "config.toml").write_text("[limits]\nrequests_per_minute = 0\n", "utf-8")
        with RunningServer(folder, "", {}) as server:
            server.app = App("-", "-")
            server.start()
            time.sleep(8)  # The first run of its jobs.
            walk(server, now, options.only)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
