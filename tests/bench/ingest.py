"""How fast the real server stores peers, beside what this machine could do at best: `python -m tests.bench.ingest`.

Measured in one run: the bare floor (inflate, decode, make rows, insert with the same schema and pragmas, commit, in one
process without HTTP), the HTTP-only floor (read the body, answer 200), and the server itself, driven over loopback from
other processes. Ratios are worth more than rates: everything is measured in turns, and the median of all turns counts.
"""

import argparse
import asyncio
import gc
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from sparkle_lite import net
from sparkle_lite.accounts.actors import COMMAND_LINE
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.parts import Accounts
from sparkle_lite.clock import now_ms
from sparkle_lite.config import AuthSection
from sparkle_lite.db import segments
from sparkle_lite.db.connection import schema, statements
from sparkle_lite.db.database import Database
from sparkle_lite.http import lifecycle
from sparkle_lite.wire.bodies import PeerSnapshot
from tests.bench import load
from tests.bench.load import Body, Load, in_child

APPS = 10
# Rows in one INSERT of the floor; every group is a multiple of it.
FLOOR_CHUNK = 100
GROUPS = {50: 64, 500: 8, 5_000: 1}
# (peers in a body, connections)
CASES = ((50, 32), (500, 32), (5_000, 8))
SINGLE = tuple((peers, 1) for peers, _ in CASES)
DAY_MS = 86_400_000
RETENTION_ROWS = 2_000_000
TORRENT_SQL = "INSERT INTO torrent (identifier, size, private, big_endian) VALUES (?,?,?,?)"
CLIENT_SQL = (
    "INSERT INTO client_identity (peer_id, client_name, found_at, found_by, last_seen_at, last_seen_by)"
    " VALUES (?,?,?,?,?,?)"
)
LABEL_SQL = "INSERT INTO label (text) VALUES (?)"
PRAGMAS = ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "cache_size=-16384", "temp_store=MEMORY")


# --- The bare floor ---------------------------------------------------------------------------------------------------


class _Peers(msgspec.Struct):
    populate_time: int
    peers: list[PeerSnapshot]


class Floor:
    """The shortest way from bodies to committed rows; its dictionaries know everything beforehand."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        for pragma in PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        for statement in statements(schema("snapshot_0001.sql")):
            self._connection.execute(statement)
        self._decode = msgspec.json.Decoder(_Peers).decode
        self._addresses: dict[str, bytes] = {}
        self._torrents: dict[str, int] = {}
        self._clients: dict[str | None, dict[str | None, int]] = {}
        self._flags: dict[str | None, int] = {}
        self._submission = 0
        columns = segments.columns("snapshot")
        self._width = len(columns)
        one = f"({','.join('?' * self._width)})"
        self._insert = f"INSERT INTO snapshot ({', '.join(columns)}) VALUES "
        self._hundred = self._insert + ",".join([one] * FLOOR_CHUNK)
        self._one = one

    def rows(self, data: bytes) -> list[Any]:
        """The rows of a body as one flat list of values."""
        addresses, torrents, clients, flags = self._addresses, self._torrents, self._clients, self._flags
        self._submission += 1
        submission = self._submission
        values: list[Any] = []
        add = values.extend
        for peer in self._decode(data).peers:
            text = peer.peer_ip
            address = addresses.get(text)
            if address is None:
                address = addresses[text] = net.address_bytes(text)
            torrent = torrents.get(peer.torrent_identifier)
            if torrent is None:
                torrent = torrents[peer.torrent_identifier] = len(torrents) + 1
            names = clients.get(peer.peer_id)
            if names is None:
                names = clients[peer.peer_id] = {}
            client = names.get(peer.peer_client_name)
            if client is None:
                client = names[peer.peer_client_name] = len(clients) + 1
            flag = flags.get(peer.peer_flag)
            if flag is None:
                flag = flags[peer.peer_flag] = len(flags) + 1
            add(
                (
                    submission,
                    address,
                    peer.peer_port,
                    client,
                    torrent,
                    peer.from_peer_traffic,
                    peer.from_peer_traffic_speed,
                    peer.to_peer_traffic,
                    peer.to_peer_traffic_speed,
                    peer.peer_progress,
                    peer.downloader_progress,
                    flag,
                )
            )
        return values

    def store(self, group: Sequence[bytes]) -> None:
        """Commit a group of compressed bodies."""
        connection, values, submissions = self._connection, [], []
        for body in group:
            data = zlib.decompressobj(wbits=31).decompress(body, 64 << 20)
            made = self.rows(data)
            values += made
            digest = body[-16:]
            submissions.append((self._submission, 0, 1, b"\x7f\0\0\1", 0, digest, len(made) // self._width, 0))
        connection.execute("BEGIN IMMEDIATE")
        step = FLOOR_CHUNK * self._width
        whole = len(values) // step * step
        connection.executemany(self._hundred, [values[start : start + step] for start in range(0, whole, step)])
        if len(values) > whole:
            rest = values[whole:]
            connection.execute(self._insert + ",".join([self._one] * (len(rest) // self._width)), rest)
        connection.executemany("INSERT INTO submission VALUES (?,?,?,?,?,?,?,?)", submissions)
        connection.execute("COMMIT")

    def learn(self, made: Sequence[Body]) -> None:
        """Meet every peer once."""
        for number, body in enumerate(made):
            self.rows(zlib.decompress(load.compressed(body, load.FIRST_TIME + number), 31))


def floor(folder: Path, made: Sequence[Body], group: int, seconds: float) -> tuple[float, float]:
    """Bodies a second, and the median time (s) of one group."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        bare = Floor(Path(temporary) / "floor.db")
        bare.learn(made)
        gc.freeze()
        times, spent, number = [], 0.0, load.FIRST_TIME
        while spent < seconds:
            bodies = [load.compressed(made[(number + i) % len(made)], number + i) for i in range(group)]
            number += group
            started = time.perf_counter()
            bare.store(bodies)
            times.append(time.perf_counter() - started)
            spent += times[-1]
        return group * len(times) / spent, median(times)


# --- Servers ----------------------------------------------------------------------------------------------------------


async def _read_and_answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive())["more_body"] if scope["method"] == "POST" else False:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def serve_nothing(port: int) -> None:
    """The HTTP-only floor: the same HTTP server with an application that reads the body and answers 200."""
    lifecycle.run(_read_and_answer, port=port)


def serve_minimal(port: int) -> None:
    """The smallest Litestar application on the same HTTP server."""
    from litestar import Litestar, get

    @get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app: Any = Litestar([healthz], openapi_config=None, logging_config=None)
    lifecycle.run(app, port=port)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A server in a process of its own, watched through /proc."""

    def __init__(self, command: Sequence[str], port: int, log: Path, path: str = "/healthz") -> None:
        self.port = port
        self._url = f"http://127.0.0.1:{port}{path}"
        started = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
            )
        self._log = log
        self._wait()
        self.start_s = time.perf_counter() - started

    def _wait(self) -> None:
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"the server ended with {self._process.returncode}:\n{self._log.read_text()[-2000:]}"
                )
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    pass
                with urllib.request.urlopen(self._url, timeout=10) as answer:
                    answer.read()
                return
            except OSError:
                time.sleep(0.002)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, float]:
        """Resident MB now and at most."""
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) / 1024, int(lines["VmHWM"].split()[0]) / 1024

    def written(self) -> int:
        """Bytes that it made the disk write."""
        lines = dict(line.split(": ") for line in Path(f"/proc/{self.pid}/io").read_text().splitlines())
        return int(lines["write_bytes"]) - int(lines["cancelled_write_bytes"])

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def running(command: Sequence[str], port: int, log: Path, path: str = "/healthz") -> Iterator[Process]:
    """A server for the length of a block."""
    process = Process(command, port, log, path)
    try:
        yield process
    finally:
        process.stop()


def own(function: Callable[[int], None], port: int) -> list[str]:
    """The command that runs one of this module's servers."""
    return [sys.executable, "-c", f"from {__spec__.name} import {function.__name__} as f; f({port})"]


class Site:
    """A folder with a configuration, a database and credentials for the real server."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.database = folder / "sparkle.db"
        self.segments = folder / "sparkle.db.segments"
        self.log = folder / "log"
        self.config = folder / "config.toml"
        self.config.write_text(
            '[database]\npath = "sparkle.db"\n[limits]\nrequests_per_minute = 0\n'
            'rows_per_day = 0\ntext_per_day = "0"\n[retention]\nsnapshots = "30d"\n'
        )
        self.credentials: list[tuple[str, str]] = []

    def fill(self, made: Sequence[Body], recent: int, old: int = 0) -> None:
        """Make applications, dictionaries and indexed segments of so many rows, `old` of them beyond retention."""
        self.credentials = in_child(_fill, self.database, made, recent, old)

    def serve(self, port: int) -> list[str]:
        """The command of the real server."""
        return [sys.executable, "-m", "sparkle_lite", "--config", str(self.config), "serve", "--port", str(port)]

    def wal(self) -> int:
        """Bytes of the largest write-ahead log now."""
        sizes = [0]
        for path in (self.database.with_name("sparkle.db-wal"), *self.segments.glob("*-wal")):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        return max(sizes)


# --- What is stored beforehand ----------------------------------------------------------------------------------------


def _fill(path: Path, made: Sequence[Body], recent: int, old: int) -> list[tuple[str, str]]:
    async def work() -> list[tuple[str, str]]:
        database = Database(path)
        await database.open()
        try:
            accounts = Accounts.on(
                database, Audit(database, now_ms), lambda: AuthSection(max_apps_per_user=APPS), now_ms
            )
            user = await accounts.users.add("bench", "user", COMMAND_LINE)
            apps = [await accounts.apps.add(user.id, f"client {number}", COMMAND_LINE) for number in range(APPS)]
            await database.write(_add_dictionaries)
            if recent or old:
                await _add_segments(database, made, recent, old)
            return [(app.userapp.app_id, app.secret) for app in apps]
        finally:
            await database.close()

    return asyncio.run(work())


async def _add_dictionaries(main: Any) -> None:
    torrents = (load.torrent(rank) for rank in range(load.TORRENTS))
    await main.executemany(TORRENT_SQL, [(bytes.fromhex(text), size, 0, 0) for text, size in torrents])
    clients = {load.client(rank) for rank in range(load.CLIENTS)}
    await main.executemany(CLIENT_SQL, [(*names, 0, 1, 0, 1) for names in clients])
    await main.executemany(LABEL_SQL, [(text,) for text in {load.flags(rank) for rank in range(load.FLAGS)}])


async def _add_segments(database: Database, made: Sequence[Body], recent: int, old: int) -> None:
    bare = Floor(Path(":memory:"))
    pool = [bare.rows(zlib.decompress(load.compressed(body, load.FIRST_TIME), 31)) for body in made[:40]]
    width = len(segments.columns("snapshot"))
    now = time.time_ns() // 1_000_000
    stream = database.streams()["snapshot"]
    await stream.open(database.main, now)
    stored = number = 0
    while stored < old + recent:
        days = 40 - 9 * stored / max(old, 1) if stored < old else 20 - 18 * (stored - old) / max(recent, 1)
        values = pool[number % len(pool)]
        rows = len(values) // width
        values[::width] = [stream.submissions + 1] * rows
        at = now - int(days * DAY_MS)
        row = segments.SubmissionRow(
            id=stream.submissions + 1,
            received_at=at,
            userapp=1,
            address=b"\x7f\0\0\1",
            populate_time=at,
            digest=number.to_bytes(16, "big"),
            rows=rows,
            rejected=0,
        )
        await stream.append(partial(segments.Rows, values, [row]))
        await stream.commit(rows, [row])
        stored, number = stored + rows, number + 1
        if stream.is_full(now) or stored >= old + recent:
            await stream.roll(database.main, now)
    await stream.close()
    for segment in await segments.catalogue(database.main, "state='closed'"):
        size = await segments.build_indexes(database.segment_folder, segment, "normal")
        await database.write(partial(segments.mark_indexed, segment=segment.id, size=size or 0))


# --- Measuring --------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One case, measured once."""

    rate: float
    p50: float
    p95: float
    p99: float
    cores: float
    cpu_us: float
    rss: float
    wal: int
    refused: int


class Watch:
    """A thread that looks at the write-ahead logs while clients are at work."""

    def __init__(self, site: Site) -> None:
        self.largest = 0
        self._site = site
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.05):
            self.largest = max(self.largest, self._site.wal())


class Bench:
    """One run of everything."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.seconds: float = options.seconds
        self.rounds: int = options.rounds
        self.rows: int = options.rows
        self.quick: bool = options.quick
        self.clients: int = options.clients
        self.bodies: dict[int, list[Body]] = {}
        self.floors: dict[tuple[int, int], list[tuple[float, float]]] = {}
        self.http: dict[int, list[Run]] = {}
        self.found: dict[tuple[int, int, int], list[Run]] = {}
        self.notes: dict[Any, Any] = {}

    def say(self, text: str) -> None:
        """Progress goes to standard error; the table alone to standard output."""
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """Measure everything."""
        self.say("making bodies")
        self.bodies = load.make_bodies([peers for peers, _ in CASES], 0.25 if self.quick else 1.0, os.cpu_count() or 1)
        for stored in sorted({0, self.rows}):
            site = Site(self.folder / f"site-{stored}")
            self.say(f"storing {stored:,} peers beforehand")
            site.fill(self.bodies[5_000], stored)
            self.measure(site, stored)
            if stored != self.rows:
                shutil.rmtree(site.folder)
        self.start_up(site)
        if not self.quick:
            self.retention()

    def measure(self, site: Site, stored: int) -> None:
        """All cases, in turns with their floors."""
        port, http_port = free_port(), free_port()
        with (
            running(site.serve(port), port, site.log) as server,
            running(own(serve_nothing, http_port), http_port, self.folder / "http.log") as http,
        ):
            for turn in range(self.rounds):
                for peers, connections in CASES:
                    self.say(f"turn {turn + 1} of {self.rounds}, {stored:,} stored: {peers} peers a body")
                    self.bare(peers, GROUPS[peers])
                    if GROUPS[peers] > 1:
                        self.bare(peers, 1)
                    if peers not in self.http or len(self.http[peers]) < self.rounds:
                        one = self.drive(http, site, peers, connections)
                        self.http.setdefault(peers, []).append(one)
                    for count in (connections, 1):
                        one = self.drive(server, site, peers, count)
                        self.found.setdefault((stored, peers, count), []).append(one)
            time.sleep(3 if self.quick else 8)  # The last closed segments get their indexes.
            self.disk(server, site, stored)

    def bare(self, peers: int, group: int) -> None:
        """The bare floor, once."""
        one = in_child(floor, self.folder, self.bodies[peers], group, self.seconds * (0.6 if group > 1 else 0.4))
        self.floors.setdefault((peers, group), []).append(one)

    def drive(self, server: Process, site: Site, peers: int, connections: int) -> Run:
        """One case, once."""

        def count_cpu(seconds: float) -> float:
            before = server.cpu()
            time.sleep(seconds)
            return server.cpu() - before

        with Watch(site) as watch:
            seen, used = load.drive(
                server.port,
                self.bodies[peers],
                site.credentials,
                connections=connections,
                seconds=self.seconds * (1 if connections > 1 else 0.5),
                processes=self.clients,
                meanwhile=count_cpu,
            )
        rate, cpu = seen.answers / seen.seconds, used or 0.0
        p50, p95, p99 = seen.percentiles(50, 95, 99)
        return Run(
            rate=rate * peers,
            p50=p50,
            p95=p95,
            p99=p99,
            cores=cpu / seen.seconds,
            cpu_us=cpu / max(seen.answers, 1) * 1e6,
            rss=server.memory()[0],
            wal=watch.largest,
            refused=seen.refused,
        )

    def disk(self, server: Process, site: Site, stored: int) -> None:
        """Memory at the most, bytes written, and bytes stored."""
        self.notes["rss", stored] = server.memory()
        written = server.written()
        with sqlite3.connect(f"{site.database.as_uri()}?mode=ro", uri=True) as main:
            state = dict(main.execute("SELECT state, count(*) FROM segment WHERE kind='snapshot' GROUP BY state"))
            sizes = main.execute("SELECT sum(rows), sum(bytes) FROM segment WHERE kind='snapshot' AND state='indexed'")
            rows, size = next(sizes)
        main.close()
        with sqlite3.connect(sorted(site.segments.glob("snapshot-*.db"))[-1]) as hot:
            rows_hot = next(hot.execute("SELECT count(*) FROM snapshot"))[0]
        hot.close()
        fresh = rows + rows_hot - stored if rows else 0
        self.notes["disk", stored] = (written / max(fresh, 1), size / rows if rows else 0.0, fresh, state)

    def start_up(self, site: Site) -> None:
        """Time to the first answer of this server and of a minimal Litestar application, in turns."""
        self.say("start-up")
        ours, minimal = [], []
        for _ in range(3 if self.quick else 7):
            port = free_port()
            with running(own(serve_minimal, port), port, self.folder / "minimal.log") as process:
                minimal.append(process.start_s)
            port = free_port()
            with running(site.serve(port), port, site.log) as process:
                ours.append(process.start_s)
                self.notes["idle"] = process.memory()[0]
        fresh = []
        for number in range(3):
            new = Site(self.folder / f"fresh-{number}")
            port = free_port()
            with running(new.serve(port), port, new.log) as process:
                fresh.append(process.start_s)
        self.notes["start"] = (median(ours), median(minimal), median(fresh))

    def retention(self) -> None:
        """Let two million rows go while clients are at work; the job first runs 20 s after the start."""
        self.say("retention")
        site = Site(self.folder / "retention")
        site.fill(self.bodies[5_000], 500_000, RETENTION_ROWS)
        port = free_port()
        with running(site.serve(port), port, site.log) as server:
            seen, gone = load.drive(
                server.port,
                self.bodies[500],
                site.credentials,
                connections=8,
                seconds=24,
                processes=self.clients,
                meanwhile=partial(_watch_unlinking, site.segments),
            )
        self.notes["retention"] = _around(seen, *gone) if gone else None


def _watch_unlinking(folder: Path, seconds: float) -> tuple[float, float, int] | None:
    """When (s, monotonic) the first and the last segment file went, and how many."""
    end = time.monotonic() + seconds
    before, first, last, gone = _snapshots(folder), 0.0, 0.0, 0
    while time.monotonic() < end and not (last and time.monotonic() > last + 2):
        now, here = time.monotonic(), _snapshots(folder)
        if lost := len(before - here):
            first, last, gone = first or now, time.monotonic(), gone + lost
        before = here
        time.sleep(0.001)
    time.sleep(max(0.0, end - time.monotonic()))
    return (first, last, gone) if gone else None


def _snapshots(folder: Path) -> set[Path]:
    return set(folder.glob("snapshot-*.db"))


def _around(seen: Load, first: float, last: float, files: int) -> tuple[float, float, float, int]:
    """Milliseconds of unlinking, p99 of the second around it, p99 of all other seconds, files."""
    pairs = list(zip(seen.at, seen.latency, strict=True))
    during = [latency for at, latency in pairs if first - 0.5 <= at <= last + 0.5]
    others = [latency for at, latency in pairs if not first - 0.5 <= at <= last + 0.5]
    return (last - first) * 1000, load.percentiles(during, 99)[0], load.percentiles(others, 99)[0], files


# --- The report -------------------------------------------------------------------------------------------------------


def middle(runs: Sequence[Run], name: str) -> float:
    """The median of one figure."""
    return float(median(getattr(run, name) for run in runs))


class Report:
    """The table and the targets."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def p(self, peers: int, group: int) -> float:
        """The bare floor in peers/s."""
        return median(rate for rate, _ in self.bench.floors[peers, group]) * peers

    def body_ms(self, peers: int) -> float:
        """The bare floor's time for one body alone."""
        return median(time for _, time in self.bench.floors[peers, 1]) * 1000

    def h(self, peers: int) -> float:
        """What the HTTP-only floor would reach with one whole core, in bodies/s: its clients share the machine."""
        return 1e6 / middle(self.bench.http[peers], "cpu_us")

    def c(self, peers: int, group: int) -> float:
        """Both floors one after the other on one core, in peers/s."""
        return peers / (1 / self.h(peers) + peers / self.p(peers, group))

    def machine(self) -> str:
        """What it was measured on."""
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        parts = (
            f"{os.cpu_count()} x {model}, {memory:.0f} GB",
            f"Python {platform.python_version()}",
            f"SQLite {sqlite3.sqlite_version}",
            *(f"{name} {version(name)}" for name in ("uvicorn", "litestar", "msgspec")),
        )
        return ", ".join(parts)

    def show(self) -> None:
        """Print everything."""
        print(f"\n{self.machine()}; {self.bench.rounds} turns of {self.bench.seconds:g} s\n")
        self._show_floors()
        self._show_server()
        print()
        for line in self.targets():
            print(line)

    def _show_floors(self) -> None:
        print("| floor | peers a body | a transaction | peers/s | bodies/s | µs a body |")
        print("|---|---|---|---|---|---|")
        for (peers, group), _ in sorted(self.bench.floors.items()):
            rate = self.p(peers, group)
            print(f"| bare | {peers} | {group} | {rate:,.0f} | {rate / peers:,.0f} | {peers / rate * 1e6:,.0f} |")
        for peers, runs in sorted(self.bench.http.items()):
            cpu, rate = middle(runs, "cpu_us"), middle(runs, "rate")
            print(f"| HTTP only | {peers} | - | {rate:,.0f} | {rate / peers:,.0f} | {cpu:,.0f} of CPU |")
        print()

    def _show_server(self) -> None:
        print(
            "| stored before | peers a body | connections | peers/s | of the bare floor | of both floors "
            "| p50 ms | p95 | p99 | cores | CPU µs a peer | RSS MB | WAL MB |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
        for (stored, peers, count), runs in sorted(
            self.bench.found.items(), key=lambda item: (item[0][0], -item[0][2])
        ):
            rate, group = middle(runs, "rate"), GROUPS[peers] if count > 1 else 1
            print(
                f"| {stored:,} | {peers} | {count} | {rate:,.0f} | {rate / self.p(peers, group):.2f} "
                f"| {rate / self.c(peers, group):.2f} | {middle(runs, 'p50'):.1f} | {middle(runs, 'p95'):.1f} "
                f"| {middle(runs, 'p99'):.1f} | {middle(runs, 'cores'):.2f} | {middle(runs, 'cpu_us') / peers:.2f} "
                f"| {middle(runs, 'rss'):.0f} | {max(run.wal for run in runs) / 2**20:.1f} |"
            )
            if refused := sum(run.refused for run in runs):
                print(f"\n**{refused} requests were refused**\n")

    def targets(self) -> Iterator[str]:
        """One line for each target."""
        bench, stored = self.bench, self.bench.rows
        rates = {key: middle(runs, "rate") for key, runs in bench.found.items()}
        yield self._line("1", "500 peers, 32 connections / bare floor", rates[stored, 500, 32] / self.p(500, 8), 0.80)
        yield self._line("2", "50 peers, 32 connections / both floors", rates[stored, 50, 32] / self.c(50, 64), 0.70)
        yield self._line(
            "3", "5,000 peers, 8 connections / bare floor", rates[stored, 5_000, 8] / self.p(5_000, 1), 0.80
        )
        if stored:
            for peers, count in CASES:
                ratio = rates[stored, peers, count] / rates[0, peers, count]
                yield self._line("4", f"{peers} peers: {stored:,} stored / none", ratio, 0.95)
        else:
            yield "row 4, flat with size: not measured (--rows 0)"
        for peers, limit in ((50, 2.0), (500, 1.3), (5_000, 1.3)):
            ratio = middle(bench.found[stored, peers, 1], "p50") / self.body_ms(peers)
            yield self._line("5", f"{peers} peers, 1 connection: p50 / bare floor's time", ratio, limit, at_most=True)
        written, size, fresh, state = bench.notes["disk", stored]
        if size:
            name = f"bytes written / stored a peer ({written:.0f} / {size:.1f}; {fresh:,} peers, segments {state})"
            yield self._line("7", name, written / size, 3, at_most=True)
        largest = max(run.wal for runs in bench.found.values() for run in runs) / 2**20
        yield self._line("8", "largest write-ahead log, MB", largest, 16, at_most=True)
        if gone := bench.notes.get("retention"):
            took, during, others, files = gone
            yield self._line("9", f"retention of {RETENTION_ROWS:,} rows ({files} files), ms", took, 50, at_most=True)
            name = f"submit p99 around it / else ({during:.1f} / {others:.1f} ms)"
            yield self._line("9", name, during / others, 1.2, at_most=True)
        else:
            yield "row 9, retention: not measured"
        if size:
            yield self._line("10", "bytes a peer with all indexes", size, 90, at_most=True)
        ours, minimal, fresh_start = bench.notes["start"]
        times = f"{ours * 1000:.0f} / {minimal * 1000:.0f} ms; with a new database {fresh_start * 1000:.0f}"
        name = f"first answer / minimal Litestar ({times})"
        yield self._line("13", name, ours / minimal, 1.25, at_most=True)
        rss = max(bench.notes["rss", stored][1] for stored in {0, stored})
        yield self._line("15", f"RSS at the most, MB (idle {bench.notes['idle']:.0f})", rss, 220, at_most=True)

    def _line(self, row: str, name: str, value: float, target: float, *, at_most: bool = False) -> str:
        met = value <= target if at_most else value >= target
        sign = "<=" if at_most else ">="
        return f"row {row}, {name}: {value:.3g}, target {sign} {target:g}: {'met' if met else '**missed**'}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ingest", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about a minute: one turn, no retention")
    parser.add_argument("--rows", type=int, default=0, help="peers stored beforehand, for a second pass")
    parser.add_argument("--full", action="store_true", help="--rows 10000000")
    parser.add_argument("--seconds", type=float, default=0, help="of each measurement (default 4; quick: 2)")
    parser.add_argument("--rounds", type=int, default=0, help="turns, of which the median counts (default 3; quick: 1)")
    parser.add_argument("--clients", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="client processes")
    parser.add_argument("--folder", type=Path, help="where the databases go, on a real disk (default: TMPDIR)")
    options = parser.parse_args()
    options.seconds = options.seconds or (2.0 if options.quick else 4.0)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.rows = 10_000_000 if options.full else options.rows
    with tempfile.TemporaryDirectory(prefix="sparkle-bench-", dir=options.folder) as folder:
        bench = Bench(Path(folder), options)
        bench.run()
        Report(bench).show()


if __name__ == "__main__":
    main()
