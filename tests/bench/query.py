"""How long pages of the REST API take to find: `python -m tests.bench.query [--rows 10]` (millions of snapshots).

Fills a database with snapshots, cumulative rows and 300 thousand bans of realistic skew, through the store's own
functions, and asks what people ask: in process, without HTTP, first alone and then while clients submit. Times are in
ms and hold the page and its total; "+" means that a total was cut off at count_time.
"""

import argparse
import asyncio
import gzip
import json
import platform
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from sparkle_lite import net
from sparkle_lite.config import LimitsSection, Size
from sparkle_lite.db import bans, segments
from sparkle_lite.db.database import Database
from sparkle_lite.db.search import Search
from sparkle_lite.db.segments import SEGMENT_ROWS, Kind, Rows, SubmissionRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.metrics import Metrics
from sparkle_lite.observations import query
from sparkle_lite.observations.presentation import Viewer
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect
from tests.bench import load

ADMIN = Viewer(1, True)
AGENT = detect("PeerBanHelper/7.4.0 BTN-Protocol/0.0.1")
BODY = 50
BANS = 300_000
BAN_BODY = 20
SWARM_SHARE = 5  # one cumulative row for so many snapshots
KEYS = 400_000
WEEK_MS = 7 * 86_400_000
NOW = 1_800_000_000_000
MODULES = ("ProgressCheatBlocker", "PeerIdBlacklist", "ClientNameBlacklist", "MultiDialingBlocker", "AutoRangeBan")


# --- Filling ----------------------------------------------------------------------------------------------------------


def _unlimited() -> LimitsSection:
    """Nobody's day is over."""
    return LimitsSection(rows_per_day=0, text_per_day=Size(0))


def fill_dictionaries(path: Path, now: int = NOW) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO user (id, name, name_key, role, registered_by, registered_at)"
            " VALUES (1,'a','a','user','admin',0)"
        )
        connection.executemany(
            "INSERT INTO userapp (id, app_id, secret_hash, user, comment, created_at) VALUES (?,?,x'00',1,'',0)",
            [(n + 1, f"app-{n}") for n in range(500)],
        )
        connection.executemany(
            "INSERT INTO torrent VALUES (?,?,?,-1,0)",
            [(n + 1, bytes.fromhex(name), size) for n in range(load.TORRENTS) for name, size in [load.torrent(n)]],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO client_identity VALUES (?,?,?,?,1,?,1)",
            [(n + 1, *load.client(n), now - n, now) for n in range(load.CLIENTS)],
        )
        connection.executemany(
            "INSERT INTO label VALUES (?,?)", enumerate(dict.fromkeys(map(load.flags, range(40))), 1)
        )
        connection.executemany("INSERT INTO label (text) VALUES (?)", [(name,) for name in MODULES])
    connection.close()


class Pick:
    """The columns of made-up rows, of the weeks until `now` (ms)."""

    def __init__(self, path: Path, now: int = NOW) -> None:
        self.now = now
        self.rng = random.Random(load.SEED)
        self.addresses = [net.address_bytes(load.address(rank)) for rank in range(load.ADDRESSES // 4)]
        connection = sqlite3.connect(path)
        self.clients = [row[0] for row in connection.execute("SELECT id FROM client_identity ORDER BY id")]
        self.labels = connection.execute("SELECT count(*) FROM label").fetchone()[0] - len(MODULES)
        connection.close()

    def peer(self) -> tuple[Any, ...]:
        """Address, port, client, torrent."""
        rng = self.rng
        return (
            self.addresses[load.zipf(rng, len(self.addresses))],
            rng.randrange(1024, 65536),
            self.clients[load.zipf(rng, len(self.clients))],
            load.zipf(rng, load.TORRENTS) + 1,
        )

    def traffic(self) -> int:
        return int(self.rng.paretovariate(0.3)) % (1 << 36)

    def snapshot(self, submission: int) -> tuple[Any, ...]:
        rng = self.rng
        traffic, progress = self.traffic(), rng.random()
        speed = traffic & 0xFFFFF
        flag = rng.randrange(self.labels) + 1
        return (submission, *self.peer(), 0, 0, traffic, speed, progress, 1.0, flag)

    def swarm(self, submission: int) -> tuple[Any, ...]:
        rng = self.rng
        address, port, client, torrent = self.peer()
        key = load.zipf(rng, KEYS) * 0x9E37_79B9_7F4A_7C15 & 0x7FFF_FFFF_FFFF_FFFF
        to_peer = self.traffic()
        head = (submission, key, 1, address, port, client, torrent, None, 0, 0, to_peer, 0)
        return (*head, 0, 0, 9, 9, 0.5, 1.0, self.now - WEEK_MS, self.now, 1)

    def ban(self, submission: int, at: int, number: int) -> bans.Report:
        rng = self.rng
        values: dict[str, Any] = dict.fromkeys(bans.Report.__annotations__, 0)
        values |= zip(("peer_ip", "peer_port", "client", "torrent"), self.peer(), strict=True)
        values |= {
            "submission": submission,
            "received_at": at,
            "userapp": rng.randrange(500) + 1,
            "ban_at": at,
            "to_peer_traffic": self.traffic(),
            "peer_progress": 0.1,
            "downloader_progress": 1.0,
            "flags": 1,
            "module": self.labels + 1 + load.zipf(rng, len(MODULES)),
            "rule": f"rule {load.zipf(rng, 300)}",
            "description": "the peer says it has less than it was sent " * 2,
            "ban_unique_id": rng.randbytes(32).hex(),
            "structured_data": '{"a": 1, "b": "' + "x" * 150 + '"}',
            "dedupe": number,
            "kind": "id",
            "last_ban_at": at,
        }
        return cast("bans.Report", values)


async def fill_stream(database: Database, kind: Kind, rows: int, pick: Pick, segment_rows: int = SEGMENT_ROWS) -> None:
    stream, make = database.streams()[kind], getattr(pick, kind)
    await stream.open(database.main, pick.now - WEEK_MS)
    done = 0
    while done < rows:
        values: list[Any] = []
        submissions: list[SubmissionRow] = []
        for _ in range(200):
            submission = stream.submissions + len(submissions) + 1
            for _ in range(BODY):
                values.extend(make(submission))
            at = pick.now - WEEK_MS + WEEK_MS * done // rows
            who = pick.rng.randrange(500) + 1
            submissions.append(submission_row(submission, at, who, pick.rng.randbytes(16), rows=BODY))
            done += BODY
        await stream.append(partial(Rows, values, submissions))
        await stream.commit(len(submissions) * BODY, submissions)
        if stream.rows >= segment_rows:
            await stream.roll(database.main, pick.now)
    await stream.close()
    for segment in await segments.catalogue(database.main, "state='closed'"):
        size = await segments.build_indexes(database.segment_folder, segment, "normal")
        await segments.mark_indexed(database.main, segment.id, size or 0)


async def index(database: Database, ingest: Ingest) -> None:
    """Index what is closed meanwhile, as the server's own job does."""
    while True:
        await asyncio.sleep(1)
        async with database.reader() as reader:
            closed = await segments.catalogue(reader, "state='closed'")
        for segment in closed:
            with suppress(SparkleError):  # somebody reads it; the next turn will do
                size = await segments.build_indexes(database.segment_folder, segment, "normal")
                await database.write(partial(segments.mark_indexed, segment=segment.id, size=size or 0))


def submission_row(number: int, at: int, userapp: int, digest: bytes, *, rows: int) -> SubmissionRow:
    """A body that came from nowhere, `at` (ms)."""
    return SubmissionRow(
        id=number,
        received_at=at,
        userapp=userapp,
        address=None,
        populate_time=at,
        digest=digest,
        rows=rows,
        rejected=0,
    )


async def fill_bans(database: Database, rows: int, pick: Pick) -> None:
    for start in range(0, rows, 5_000):
        made: list[bans.Report] = []
        submissions = []
        for first in range(start, start + 5_000, BAN_BODY):
            number = first // BAN_BODY + 1
            at = pick.now - 6 * WEEK_MS + 6 * WEEK_MS * first // rows
            submissions.append(submission_row(number, at, 1, pick.rng.randbytes(16), rows=BAN_BODY))
            made += [pick.ban(number, at, first + n) for n in range(BAN_BODY)]
        await database.write(partial(bans.add_bans, reports=made, submissions=submissions))


# --- Asking -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A kind of question: what it is called, its table, and a body of it."""

    name: str
    table: Any
    make: Callable[[random.Random], dict[str, Any]]
    times: int = 50


def _address(rng: random.Random) -> str:
    return load.address(load.zipf(rng, load.ADDRESSES // 4))


def _network(rng: random.Random, v4: int, v6: int) -> str:
    address = net.address_bytes(_address(rng))
    return str(net.network_of(address, v4 if len(address) == 4 else v6))


def _torrent(rng: random.Random) -> str:
    return load.torrent(load.zipf(rng, load.TORRENTS))[0]


def _name(rng: random.Random) -> str:
    return load.client(load.zipf(rng, load.CLIENTS))[1]


def _day(rng: random.Random) -> dict[str, Any]:
    start = NOW - WEEK_MS + rng.randrange(WEEK_MS - 86_400_000)
    return {"timeFrom": start, "timeTo": start + 86_400_000}


def cases(rows: int) -> Iterator[Case]:
    deep = min(1_000, rows // 100 - 1)
    yield Case("snapshot: recent page", "snapshot", lambda rng: {})
    yield Case(f"snapshot: page {deep:,}", "snapshot", lambda rng: {"page": deep})
    yield Case("snapshot: 3,000 rows", "snapshot", lambda rng: {"pageSize": 3000, "page": rng.randrange(10)}, 30)
    yield Case("snapshot: a day", "snapshot", _day)
    yield Case("snapshot: address", "snapshot", lambda rng: {"peerIp": _address(rng)})
    yield Case("snapshot: /24 or /48", "snapshot", lambda rng: {"peerIp": _network(rng, 24, 48)})
    yield Case("snapshot: /16 or /32", "snapshot", lambda rng: {"peerIp": _network(rng, 16, 32)})
    yield Case("snapshot: torrent", "snapshot", lambda rng: {"torrentIdentifier": _torrent(rng)})
    yield Case(
        "snapshot: client name",
        "snapshot",
        lambda rng: {"peerClientName": _name(rng), "peerClientNameCompareMethod": "EQUALS"},
    )
    yield Case("snapshot: client name contains", "snapshot", lambda rng: {"peerClientName": _name(rng)[:6]})
    yield Case("snapshot: no such client", "snapshot", lambda rng: {"peerClientName": "absent"})
    yield Case(
        "snapshot: torrent size over",
        "snapshot",
        lambda rng: {"torrentSize": 1 << rng.randrange(20, 36), "torrentSizeCompareMethod": "GREATER_THAN"},
        10,
    )
    yield Case(
        "snapshot: much traffic",
        "snapshot",
        lambda rng: {"toPeerTraffic": 1 << rng.randrange(10, 36), "toPeerTrafficCompareMethod": "GREATER_THAN"},
    )
    yield Case("snapshot: port", "snapshot", lambda rng: {"peerPort": rng.randrange(1024, 65536)})
    yield Case(
        "snapshot: address and torrent",
        "snapshot",
        lambda rng: {"peerIp": _network(rng, 16, 32), "torrentIdentifier": _torrent(rng)},
    )
    yield Case(
        "snapshot: address or torrent",
        "snapshot",
        lambda rng: {"peerIp": _address(rng), "torrentIdentifier": _torrent(rng), "orConnector": True},
    )
    # About 1.4 µs for each row that it passes, until the page is full; the total is cut off.
    yield Case(
        "snapshot: address as text",
        "snapshot",
        lambda rng: {"peerIp": f".{rng.randrange(256)}.", "peerIpCompareMethod": "CONTAINS"},
        10,
    )
    # Sorting looks at every row of the time range: some 0.1 µs each for a column, 0.6 µs for a dictionary's text.
    yield Case(
        "snapshot: sorted by traffic, a day", "snapshot", lambda rng: _day(rng) | {"sortBy": "toPeerTraffic"}, 20
    )
    yield Case("snapshot: sorted by name, a day", "snapshot", lambda rng: _day(rng) | {"sortBy": "peerClientName"}, 20)
    yield Case("snapshot: sorted by traffic, all", "snapshot", lambda rng: {"sortBy": "toPeerTraffic"}, 5)
    # A page asks the newer segments for the keys of its rows; the total goes through all keys there are.
    yield Case("swarm: recent page", "swarm", lambda rng: {}, 20)
    yield Case("swarm: address", "swarm", lambda rng: {"peerIp": _address(rng)}, 20)
    yield Case("ban: recent page", "ban", lambda rng: {})
    yield Case("ban: page 1,000", "ban", lambda rng: {"page": 1000})
    yield Case("ban: a day", "ban", _day)
    yield Case("ban: address", "ban", lambda rng: {"peerIp": _address(rng)})
    yield Case("ban: /16 or /32", "ban", lambda rng: {"peerIp": _network(rng, 16, 32)})
    # No index on these columns: the whole table is read for a rare one, 0.4 µs a ban.
    yield Case("ban: torrent", "ban", lambda rng: {"torrentIdentifier": _torrent(rng)}, 50)
    yield Case(
        "ban: client name",
        "ban",
        lambda rng: {"peerClientName": _name(rng), "peerClientNameCompareMethod": "EQUALS"},
        50,
    )
    yield Case("ban: module", "ban", lambda rng: {"module": rng.choice(MODULES)}, 50)
    yield Case("ban: rule contains", "ban", lambda rng: {"rule": f"{rng.randrange(300)}"}, 50)
    yield Case("discovery: recent page", "discovery", lambda rng: {})
    yield Case("discovery: name contains", "discovery", lambda rng: {"peerClientName": _name(rng)[:6]})
    yield Case("discovery: sorted by hash", "discovery", lambda rng: {"sortBy": "hash"}, 20)


BODY_TYPES = {
    "snapshot": query.SnapshotQuery,
    "swarm": query.SwarmQuery,
    "ban": query.BanQuery,
    "discovery": query.DiscoveryQuery,
}


async def page(search: Search, table: Any, body: dict[str, Any]) -> Any:
    asked = msgspec.convert(body, type=BODY_TYPES[table])
    find: Any = search.discoveries if table == "discovery" else search.page
    limits = LimitsSection()
    return await find(query.build_query(table, asked, ADMIN), limits.query_time, limits.count_time)


async def measure(search: Search, case: Case) -> None:
    rng = random.Random(case.name)
    times, cut, refused, rows = [], 0, 0, 0
    for _ in range(case.times):
        body = case.make(rng)
        started = time.perf_counter()
        try:
            found = await page(search, case.table, body)
            cut += not found.exact
            rows += len(found.rows)
        except SparkleError:
            refused += 1
        times.append(time.perf_counter() - started)
    more = f"  {cut} totals cut" if cut else ""
    print(line(case.name, times, rows // case.times) + more + (f"  {refused} refused" if refused else ""), flush=True)


def line(name: str, times: list[float], rows: int = 0) -> str:
    figures = "".join(f"{value:9.2f}" for value in load.percentiles(times, 50, 95, 99))
    return f"{name:38}{figures}{rows or '':>8}"


async def measure_walk(search: Search, pages: int) -> None:
    times = []
    after = None
    for _ in range(pages):
        started = time.perf_counter()
        found = await page(search, "snapshot", {"pageSize": 1000, "after": after})
        times.append(time.perf_counter() - started)
        after = found.next
        if after is None:
            break
    print(line("snapshot: cursor walk, 1,000 rows each", times, 1000), flush=True)


# --- Submissions meanwhile --------------------------------------------------------------------------------------------


def bodies(count: int) -> list[bytes]:
    rng = random.Random(2)
    made = []
    for number in range(count):
        peers = []
        for _ in range(500):
            identifier, size = load.torrent(load.zipf(rng, load.TORRENTS))
            peer_id, name = load.client(load.zipf(rng, load.CLIENTS))
            peers.append(
                {
                    "ip_address": _address(rng),
                    "peer_port": 51413,
                    "peer_id": peer_id,
                    "client_name": name,
                    "torrent_identifier": identifier,
                    "torrent_size": size,
                    "uploaded": rng.randrange(1 << 30),
                }
            )
        made.append(gzip.compress(json.dumps({"populate_time": number, "peers": peers}).encode(), 1))
    return made


async def submit(ingest: Ingest, made: list[bytes], rate: float, times: list[float]) -> None:
    """Submit so many bodies a second, each by an application of its own: none is a duplicate."""

    async def one(number: int) -> None:
        started = time.perf_counter()
        owner = Owner(None, 1 + number // len(made))
        await ingest.submit(owner, None, made[number % len(made)], "gzip", AGENT)
        times.append(time.perf_counter() - started)

    tasks = set()
    for number in range(len(made) * 400):
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / rate)


async def fill(database: Database, rows: int) -> None:
    started = time.monotonic()
    fill_dictionaries(database.path)
    pick = Pick(database.path)
    # 100 thousand rows more for the hot segment.
    await fill_stream(database, "snapshot", rows + 100_000, pick)
    await fill_stream(database, "swarm", rows // SWARM_SHARE + 100_000, pick)
    await fill_bans(database, BANS, pick)
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"filled in {time.monotonic() - started:.0f} s; {versions}", flush=True)


async def ask_all(search: Search, rows: int) -> None:
    for case in cases(rows):
        await measure(search, case)
    await measure_walk(search, 200)


async def ask_meanwhile(search: Search, database: Database, ingest: Ingest, rows: int) -> None:
    """The same questions while 20 thousand rows a second come in."""
    times: list[float] = []
    tasks = [asyncio.create_task(submit(ingest, bodies(100), 40, times)), asyncio.create_task(index(database, ingest))]
    await asyncio.sleep(5)
    print(line("submission, nobody asks", times))
    times.clear()
    await ask_all(search, rows)
    print(line("submission meanwhile", times))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run(millions: float, folder: Path) -> None:
    rows = int(millions * 1_000_000)
    database = Database(folder / "sparkle.db", "normal")
    await database.open(serve=True)
    ingest = Ingest(
        database,
        _unlimited,
        Metrics(),
        lambda: NOW + time.monotonic_ns() // 1_000_000,
    )
    search = Search(database, ingest.streams)
    head = f"{'p50':>9}{'p95':>9}{'p99':>9}{'rows':>8}"
    try:
        await fill(database, rows)
        await ingest.open()
        print(f"\n{'nothing else runs':38}{head}")
        await ask_all(search, rows)
        print(f"\n{'20,000 rows/s come in':38}{head}")
        await ask_meanwhile(search, database, ingest, rows)
    finally:
        await search.close()
        await ingest.close()
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1, help="millions of snapshots (default 1)")
    parser.add_argument("--folder", type=Path, help="where to put the database (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sparkle-query-"))
    try:
        asyncio.run(run(options.rows, folder))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
