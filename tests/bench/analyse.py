"""How long all analyses take, and what submissions feel of it: `python -m tests.bench.analyse [--full]`.

A store of made-up snapshots, swarms and bans is analysed in the process that takes submissions: with nobody about, and
several times over with submissions coming in at a steady pace, which they do between the runs as well. Targets: a full
run in under a minute on two cores, and the p99 latency of submissions within twice its idle value. The cost of the
index that votes are counted by is measured when the store is made.
"""

import argparse
import asyncio
import contextlib
import os
import random
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.analyses import worker
from sparkle_lite.analyses.parameters import trust
from sparkle_lite.analyses.registry import ANALYSES, SCHEMA
from sparkle_lite.clock import Clock
from sparkle_lite.config import LimitsSection, Size
from sparkle_lite.db import segments, words
from sparkle_lite.db.connection import schema, statements
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence.workspace import SILENT
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.jobs import Housekeeping, Jobs
from sparkle_lite.metrics import Metrics
from sparkle_lite.timekeeping import Timekeeping
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect
from tests.bench import load

DAY_MS = 86_400_000
PEOPLE, TORRENTS, ADDRESSES = 2_000, 300_000, 2_000_000
ROWS_OF_A_BODY = 500
RATE, PEERS = 40, 500
AGENT = "PeerBanHelper/9.0.1 BTN-Protocol/11 BTN-Protocol-Version/11"
MODULES = tuple(
    f"com.ghostchu.peerbanhelper.module.impl.rule.{name}"
    for name in (
        "ProgressCheatBlocker",
        "MultiDialingBlocker",
        "PeerIdBlacklist",
        "IPBlackRuleList",
        "ClientNameBlacklist",
    )
)

# Few are seen often, most seldom; what flows is mostly little.
RANK = "abs(random()%{0}) * abs(random()%1000) / 1000 * abs(random()%1000) / 1000 + 1"
FLOWED = "iif(random()%10<{0}, 0, (1 << abs(random()%31)) + abs(random()%1000))"
# Everybody in a network of their own.
FROM = "CAST('R' || char(33+{0}%90) || char(33+{0}/90) || 'x' AS BLOB)"
COUNT = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<{0}-1)"


# --- A store of made-up rows ------------------------------------------------------------------------------------------


def _unlimited() -> LimitsSection:
    """Nobody's day is over."""
    return LimitsSection(rows_per_day=0, text_per_day=Size(0))


def fill_main(main: sqlite3.Connection, bans: int, now: int) -> None:
    """People, a tenth of them with a word to earn, with an application each; dictionaries; bans of the last 30 days."""
    rng = random.Random(1)
    main.execute("BEGIN")
    people = ((n, f"u{n}", f"u{n}", "admin" if n % 10 else "self", now - 90 * DAY_MS) for n in range(1, PEOPLE + 1))
    main.executemany(
        "INSERT INTO user (id, name, name_key, role, registered_by, registered_at) VALUES (?,?,?,'user',?,?)", people
    )
    main.executemany(
        "INSERT INTO userapp (id, app_id, secret_hash, user, comment, created_at) VALUES (?,?,x'',?,'',0)",
        ((n, str(n), n) for n in range(1, PEOPLE + 1)),
    )
    main.executemany(
        "INSERT INTO torrent (identifier, size, private, big_endian) VALUES (?,?,?,0)",
        ((rng.randbytes(32), rng.randrange(1 << 24, 1 << 34), n % 20 == 0) for n in range(TORRENTS)),
    )
    main.executemany(
        "INSERT INTO client_identity (peer_id, client_name, found_at, found_by, last_seen_at, last_seen_by)"
        " VALUES (?,?,0,1,0,1)",
        [*(load.client(n) for n in range(2000)), ("-XX0001-", "Rain 0.0.0"), ("k3j9x0qz", "k3j9x0qz")],
    )
    main.executemany("INSERT INTO label (text) VALUES (?)", ((name,) for name in MODULES))
    if "vouched_at" in {column for _, column, *_ in main.execute("PRAGMA table_info(user)")}:
        # The database that the cost of an index is measured on is older.
        main.execute("UPDATE user SET vouched_at=registered_at WHERE registered_by='admin'")
    bodies = max(bans // ROWS_OF_A_BODY, 1)
    main.execute(
        f"{COUNT.format(bodies)} INSERT INTO submission SELECT i+1, ?-(?-i)*30*{DAY_MS}/?, i*7919%{PEOPLE}+1,"
        f" {FROM.format(f'(i*7919%{PEOPLE})')}, NULL, x'', 500, 0 FROM n",
        (now, bodies, bodies),
    )
    main.execute("COMMIT")


def make_addresses(path: Path) -> None:
    """A file with the addresses by rank, 70 % IPv4."""
    rng = random.Random(2)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE address (id INTEGER PRIMARY KEY, ip BLOB)")
        made = (
            b"\x24\x0e" + rng.randbytes(6) + rng.randbytes(8)
            if rng.random() < 0.3
            else bytes((rng.randrange(20, 100),)) + rng.randbytes(3)
            for _ in range(ADDRESSES)
        )
        connection.executemany("INSERT INTO address (ip) VALUES (?)", ((ip,) for ip in made))
        connection.commit()


BANS = (
    "INSERT INTO ban (submission, received_at, userapp, ban_at, peer_ip, peer_port, client, torrent, from_peer_traffic,"
    " from_peer_traffic_speed, to_peer_traffic, to_peer_traffic_speed, btn_ban, module, rule, description,"
    " structured_data, dedupe)"
    " SELECT s.id, s.received_at, s.userapp, s.received_at-abs(random()%3600000), a.ip, 1024+abs(random()%60000),"
    f" 1+abs(random()%2000), {RANK.format(TORRENTS)}, 0, 0, 1 << 28, 0, random()%10<4, 1+abs(random()%{len(MODULES)}),"
    " 'a rule', 'a description of some length, as clients send it', '{\"progress\":0.1}', random() FROM n"
    " JOIN submission s ON s.id=n.i/500+1 JOIN a.address a ON a.id=n.rank"
)


def add_bans(main: sqlite3.Connection, addresses: Path, count: int) -> float:
    """Insert bans as ingestion does, in the order of their bodies; returns bans a second."""
    main.execute("ATTACH ? AS a", (str(addresses),))
    started = time.perf_counter()
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        main.execute(
            f"{COUNT.format(size)}, r (i, rank) AS MATERIALIZED"
            f" (SELECT i+{start}, {RANK.format(ADDRESSES // 20)} FROM n) "
            + BANS.replace("FROM n JOIN", "FROM r n JOIN")
        )
    seconds = time.perf_counter() - started
    main.execute("DETACH a")
    return count / seconds


async def add_segments(database: Database, addresses: Path, rows: int, now: int) -> float:
    """Closed and indexed segments of both kinds, half of the rows each, of the last 7 days; returns index seconds."""
    indexing = 0.0
    for kind, stream in database.streams().items():
        await stream.open(database.main, now)
        left = rows // 2
        while left > 0:
            size, hot = min(left, segments.SEGMENT_ROWS), stream.hot
            assert hot is not None
            path, age = stream.path(hot.id), left / rows * 2
            await asyncio.to_thread(fill_segment, path, kind, addresses, rows=size, now=now, age=age)
            await stream.count(stream.connection)
            await stream.roll(database.main, now)
            left -= size
        await stream.close()
    for segment in await segments.catalogue(database.main, "state='closed'"):
        started = time.perf_counter()
        built = await segments.build_indexes(database.segment_folder, segment, "normal")
        indexing += time.perf_counter() - started
        await database.write(partial(segments.mark_indexed, segment=segment.id, size=built or 0))
    return indexing


def fill_segment(path: Path, kind: segments.Kind, addresses: Path, *, rows: int, now: int, age: float) -> None:
    """One segment's rows; `age` is how old it is as a share of 7 days."""
    values = {
        "submission": f"n.i/{ROWS_OF_A_BODY}+1",
        "version_key": "random()",
        "origin": "1",
        "peer_ip": "a.ip",
        "peer_port": "1024+n.rank%60000",
        "client": "1+n.rank%2002",
        # What is popular is seen by many, each peer on a few torrents.
        "torrent": f"1+(n.rank*7+abs(random()%5))%{TORRENTS}",
        "from_peer_traffic": FLOWED.format(6),
        "to_peer_traffic": FLOWED.format(3),
        "peer_progress": "abs(random()%1000)/1000.0",
        "downloader_progress": "1.0",
    }
    names = segments.columns(kind)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS a", (str(addresses),))
        bodies = rows // ROWS_OF_A_BODY + 1
        connection.execute("BEGIN")
        connection.execute(
            f"{COUNT.format(bodies)} INSERT INTO submission SELECT i+1, ?+i, i*7919%{PEOPLE}+1,"
            f" {FROM.format(f'(i*7919%{PEOPLE})')}, NULL, x'', 500, 0 FROM n",
            (now - int(age * 7 * DAY_MS),),
        )
        seen = "s.received_at"
        values |= {"first_time_seen": f"{seen}-3600000", "last_time_seen": seen, "flags": "NULL", "downloader": "NULL"}
        connection.execute(
            f"{COUNT.format(rows)}, r (i, rank) AS MATERIALIZED (SELECT i, {RANK.format(ADDRESSES)} FROM n)"
            f" INSERT INTO {kind} ({', '.join(names)}) SELECT {', '.join(values.get(name, '0') for name in names)}"
            f" FROM r n JOIN submission s ON s.id=n.i/{ROWS_OF_A_BODY}+1 JOIN a.address a ON a.id=n.rank"
        )
        connection.execute("COMMIT")


def ban_index_cost(folder: Path, addresses: Path, count: int, now: int) -> tuple[float, float]:
    """Bans a second into a main database without and with the index of the votes."""
    rates = []
    for indexed in (False, True):
        with contextlib.closing(sqlite3.connect(folder / f"cost-{indexed}.db", isolation_level=None)) as main:
            main.execute("PRAGMA journal_mode=WAL")
            main.execute("PRAGMA cache_size=-16384")
            for name in ("main_0001.sql", "main_0004.sql")[: 1 + indexed]:
                for statement in statements(schema(name)):
                    main.execute(statement)
            fill_main(main, count, now)
            rates.append(add_bans(main, addresses, count))
    return rates[0], rates[1]


# --- Measuring --------------------------------------------------------------------------------------------------------


class Site:
    """The store with its ingestion, in this process."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "sparkle.db")
        self.made = load.bodies(PEERS, 50)
        self.numbers = iter(range(load.FIRST_TIME, load.FIRST_TIME + load.TIMES_OF_A_PROCESS))

    async def submit(self, ingest: Ingest, stop: asyncio.Event) -> list[float]:
        """Submit at a steady pace (Poisson) until told to stop; latencies in s."""
        latencies: list[float] = []
        rng = random.Random(3)
        dialect = detect(AGENT)
        running: set[asyncio.Task[None]] = set()

        async def one() -> None:
            number = next(self.numbers)
            body = load.compressed(self.made[number % len(self.made)], number)
            owner = Owner(None, 1 + number % PEOPLE)
            started = time.perf_counter()
            await ingest.submit(owner, b"\x52\x01\x01\x01", body, "gzip", dialect)
            latencies.append(time.perf_counter() - started)

        due = time.perf_counter()
        while not stop.is_set():
            due += rng.expovariate(RATE)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        return latencies


async def run_all(database: Database, now: int) -> tuple[float, dict[str, tuple[float, int]]]:
    """Words and all analyses one after the other: seconds in all, and for each (seconds, findings or words)."""
    found = {}
    whole = time.perf_counter()
    settings = SCHEMA().analysis
    standings = await worker.run(worker.WordOrder(database.path, trust(settings), now))
    await database.write(partial(words.replace, standings=standings))
    found["words"] = (time.perf_counter() - whole, sum(one.value >= SILENT for one in standings))
    for name in ANALYSES:
        started = time.perf_counter()
        findings = await worker.run(worker.order_of(name, database, settings, now))
        found[name] = (time.perf_counter() - started, len(findings))
    return time.perf_counter() - whole, found


class Phase(NamedTuple):
    """Latencies (s) of submissions with nobody about but them, and beside a full run that took so long (s)."""

    idle: list[float]
    busy: list[float]
    seconds: float


async def measure(site: Site, now: int, rounds: int, idle_s: float) -> None:
    """Run everything with nobody about, then several times beside submissions, with pauses; print."""
    await site.database.open(serve=True)
    seconds, found = await run_all(site.database, now)
    show("nobody about", seconds, found)
    metrics = Metrics()
    ingest = Ingest(
        site.database,
        _unlimited,
        metrics,
        lambda: time.time_ns() // 1_000_000,
    )
    await ingest.open()
    # Segments fill and are indexed meanwhile, as in a server.
    jobs, closed = Jobs(metrics), asyncio.Event()
    ingest.on_closed = closed.set
    house = Housekeeping(site.database, ingest, SCHEMA, Timekeeping(site.database, Clock()))
    jobs.schedule("index", 300, house.index, first=0, wake=closed)
    phases: list[Phase] = []
    try:
        await paced(site, ingest, 5.0)
        for _ in range(rounds):
            idle = await paced(site, ingest, idle_s)
            stop = asyncio.Event()
            submitting = asyncio.create_task(site.submit(ingest, stop))
            seconds, found = await run_all(site.database, now)
            stop.set()
            phases.append(Phase(idle, await submitting, seconds))
            show(f"beside {RATE} x {PEERS} peers/s", seconds, found)
    finally:
        await jobs.stop()
        await ingest.close()
        await site.database.close()
    report(phases)


def report(phases: Sequence[Phase]) -> None:
    """Print what submissions felt, phase by phase and in all."""
    for number, phase in enumerate(phases, 1):
        print(f"round {number}: {latencies('idle', phase.idle)}; {latencies('analysing', phase.busy)}")
    idle = [one for phase in phases for one in phase.idle]
    busy = [one for phase in phases for one in phase.busy]
    print(f"all: {latencies('idle', idle)}; {latencies('analysing', busy)}")
    ratios = [p99(phase.busy) / p99(phase.idle) for phase in phases]
    print("p99 while analysing / idle, round by round:", *(f"{ratio:.2f}" for ratio in ratios))
    line("the slowest full run beside submissions, s", max(phase.seconds for phase in phases), 60)
    line("submit p99 while analysing / idle, all rounds", p99(busy) / p99(idle), 2)


def p99(found: Sequence[float]) -> float:
    """In ms."""
    return load.percentiles(found, 99)[0]


def latencies(name: str, found: Sequence[float]) -> str:
    """Percentiles in ms and how many there are."""
    shown = " / ".join(f"{ms:.1f}" for ms in load.percentiles(found, 50, 95, 99, 100))
    return f"{name} p50 / p95 / p99 / max ms {shown} ({len(found)})"


async def paced(site: Site, ingest: Ingest, seconds: float) -> list[float]:
    """Latencies of so many seconds."""
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    return await site.submit(ingest, stop)


def show(title: str, seconds: float, found: dict[str, tuple[float, int]]) -> None:
    """Print one run."""
    each = ", ".join(f"{name} {took:.1f} s ({count})" for name, (took, count) in found.items())
    rss, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{title}: {seconds:.1f} s in all; {each}; RSS at most {rss:.0f} MB, of an analysis {child:.0f} MB")


def line(name: str, value: float, target: float) -> None:
    """Print one target."""
    print(f"{name}: {value:.3g}, target <= {target:g}: {'met' if value <= target else '**missed**'}")


def sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """Bytes of the main database and of all segments."""
    yield "main", (folder / "sparkle.db").stat().st_size
    yield "segments", sum(path.stat().st_size for path in (folder / "sparkle.db.segments").iterdir())


async def prepare(site: Site, addresses: Path, rows: int, bans: int, now: int) -> None:
    """Make the store."""
    await site.database.open()
    try:
        with contextlib.closing(sqlite3.connect(site.database.path, isolation_level=None)) as main:
            fill_main(main, bans, now)
            rate = add_bans(main, addresses, bans)
        indexing = await add_segments(site.database, addresses, rows, now)
        print(f"{bans:,} bans at {rate:,.0f}/s; {rows:,} rows indexed in {indexing:.1f} s", flush=True)
    finally:
        await site.database.close()


def make(folder: Path, rows: int, bans: int) -> int:
    """Make the store in a folder that is there; the moment (ms) that its rows are old against."""
    now = time.time_ns() // 1_000_000
    make_addresses(folder / "addresses")
    without, with_index = ban_index_cost(folder, folder / "addresses", min(bans, 300_000), now)
    print(f"bans/s without the index of votes {without:,.0f}, with it {with_index:,.0f}", flush=True)
    asyncio.run(prepare(Site(folder), folder / "addresses", rows, bans, now))
    for path in (folder / "addresses", *folder.glob("cost-*")):
        path.unlink()
    return now


@contextlib.contextmanager
def store(rows: int, bans: int, where: Path | None, keep: bool) -> Iterator[tuple[Path, int]]:
    """A folder with the store, and its moment. What is kept stays as it was made: the measuring works on a copy."""
    with tempfile.TemporaryDirectory(prefix="sparkle-bench-", dir=where) as name:
        if not keep or where is None:
            yield Path(name), make(Path(name), rows, bans)
            return
        kept = where / f"analyse-{rows}-{bans}"
        if not kept.exists():
            now = make(Path(name), rows, bans)
            (Path(name) / "now").write_text(str(now))
            shutil.move(name, kept)
        copy = Path(name) / "copy"
        # Nobody writes to a segment that has its indexes.
        shutil.copytree(kept, copy, copy_function=lambda a, b: os.link(a, b) if is_indexed(a) else shutil.copy(a, b))
        yield copy, int((kept / "now").read_text())


def is_indexed(path: str) -> bool:
    """Whether a file is a segment that nothing is written to any more."""
    if not Path(path).parent.name.endswith(".segments") or path.endswith(("-wal", "-shm")):
        return False
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as segment:
        return bool(
            segment.execute("SELECT 1 FROM sqlite_master WHERE type='index' AND tbl_name<>'submission'").fetchone()
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.analyse", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="snapshots and swarms stored (default 1000000)")
    parser.add_argument("--bans", type=int, default=300_000, help="bans stored (default 300000)")
    parser.add_argument("--full", action="store_true", help="--rows 10000000 --bans 3000000")
    parser.add_argument("--rounds", type=int, default=3, help="full runs beside submissions (default 3)")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of idle latency before each (default 30)")
    parser.add_argument("--folder", type=Path, help="where the databases go, on a real disk (default: TMPDIR)")
    parser.add_argument("--keep", action="store_true", help="make the store in the folder once and use it again")
    options = parser.parse_args()
    rows, bans = (10_000_000, 3_000_000) if options.full else (options.rows, options.bans)
    if options.keep and options.folder is None:
        parser.error("--keep needs a --folder")
    with store(rows, bans, options.folder, options.keep) as (folder, now):
        print(", ".join(f"{name} {size / 2**20:,.0f} MB" for name, size in sizes(folder)), flush=True)
        asyncio.run(measure(Site(folder), now, options.rounds, options.idle))


if __name__ == "__main__":
    main()
