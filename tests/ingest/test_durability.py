"""What was acknowledged stays, exactly once: through kills, full disks, rolled segments and interrupted jobs."""

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from server import (
    KINDS,
    RunningServer,
    catalogue,
    count,
    embedded,
    opened,
    rows,
    segment_file,
    start_server,
    wait_for,
)

from sparkle_lite.db import segments
from sparkle_lite.server import Server
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
# Segments that a short test fills, so that everything below also happens while they are rolled and indexed.
SMALL = "import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 1000"
UNLIMITED = "[limits]\nrequests_per_minute = 0\n"


def body_of(number: int) -> dict[str, Any]:
    """A body like no other: `number` is its populate_time, and how many rows of each kind it has follows from it."""
    address = f"198.51.{number >> 8 & 255}.{number & 255}"
    peer = {
        "ip_address": address,
        "torrent_identifier": f"{number:064x}",
        "torrent_size": number,
        "client_name": f"client {number % 7}",
        "peer_flag": "d",
    }
    body: dict[str, Any] = {"populate_time": number}
    if number % 3:
        body["peers"] = [peer | {"peer_port": port, "uploaded": port} for port in range(number % 50)]
    else:
        more = {"downloaded_offset": 1, "uploaded_offset": 2}
        body["peers"] = [peer | more | {"first_time_seen": at, "last_time_seen": at} for at in range(number % 50)]
    if number % 5 == 0:
        modern = {"peer_ip": address, "torrent_identifier": TORRENT, "module": "m", "ban_at": number}
        body["bans"] = [modern | {"peer_port": port} for port in range(number % 20)]
    return body


def expected(numbers: Any) -> dict[str, dict[int, int]]:
    """How many rows of each kind each body has."""
    found: dict[str, dict[int, int]] = {"snapshot": {}, "swarm": {}, "ban": {}}
    for number in numbers:
        found["snapshot" if number % 3 else "swarm"][number] = number % 50
        found["ban"][number] = number % 20 if number % 5 == 0 else 0
    return {kind: {number: rows for number, rows in bodies.items() if rows} for kind, bodies in found.items()}


def stored(database: Path) -> dict[str, Counter[int]]:
    """How many rows of each kind are stored of each body."""
    return {kind: Counter(row["populate_time"] for row in rows(database, kind)) for kind in KINDS}


class Load:
    """Threads that submit bodies 1, 2, 3, ... until the server is gone."""

    def __init__(self, server: RunningServer, first: int, threads: int = 4) -> None:
        self.sent: set[int] = set()
        self.acknowledged: set[int] = set()
        self._server = server
        self._numbers = iter(range(first, 1 << 30))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self._ended = threading.Event()
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                number = next(self._numbers)
                self.sent.add(number)
            try:
                answer = self._server.post(body_of(number))
            except OSError:
                return
            except Exception:
                # Half an answer: not acknowledged.
                return
            if answer.status == 200:
                self.acknowledged.add(number)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(20)


@pytest.mark.parametrize("prelude", ["", SMALL], ids=["large segments", "small segments"])
def test_killed_under_load_three_times_it_keeps_all_that_was_acknowledged_exactly_once(
    start: Callable[..., RunningServer], prelude: str
) -> None:
    server = start(UNLIMITED, prelude=prelude)
    sent: set[int] = set()
    acknowledged: set[int] = set()
    for _ in range(3):
        load = Load(server, len(sent) + 1)
        wait_for(lambda load=load: len(load.acknowledged) > 40, 20)
        time.sleep(random.random() / 4)
        server.kill()
        load.end()
        sent |= load.sent
        acknowledged |= load.acknowledged
        started = time.monotonic()
        server.start()
        assert time.monotonic() - started < 5
        found, wanted = stored(server.database), expected(acknowledged)
        for kind, bodies in wanted.items():
            assert {number: found[kind][number] for number in bodies} == bodies
        # What was not acknowledged is there as a whole list or not at all.
        all_of_them = expected(sent)
        assert all(all_of_them[kind][number] == rows for kind in found for number, rows in found[kind].items())
    for number in sorted(sent):
        assert server.post(body_of(number)).status == 200
    assert stored(server.database) == expected(sent)
    check_catalogue(server.database, finished=False)


def check_catalogue(database: Path, *, finished: bool) -> None:
    """The catalogue agrees with the files, the ids of all rows are 1, 2, 3, ..., and `finished`: all are indexed."""
    named = set()
    for kind in ("snapshot", "swarm"):
        known = catalogue(database, kind)
        assert [segment["state"] for segment in known][-1] == "hot"
        assert sum(segment["state"] == "hot" for segment in known) == 1
        first = 1
        for segment in known:
            file = segment_file(database, segment)
            named.add(file.name)
            with opened(file) as connection:
                (found, low, high) = connection.execute(f"SELECT count(*), min(id), max(id) FROM {kind}").fetchone()
                indexes = connection.execute("SELECT count(*) FROM sqlite_schema WHERE type='index'").fetchone()[0]
                submissions = connection.execute("SELECT count(*), sum(rows) FROM submission").fetchone()
            assert segment["first_row"] == first
            assert (low, high) == ((1, found) if found else (None, None))
            assert submissions[1] in (found, None)
            if segment["state"] != "hot":
                assert (segment["rows"], segment["submissions"]) == (found, submissions[0])
                assert segment["first_received_at"] <= segment["last_received_at"]
            if segment["state"] == "indexed":
                assert indexes >= 4
                assert segment["bytes"] == file.stat().st_size
            assert not finished or segment["state"] in ("hot", "indexed")
            first += found
    files = {file.name for file in database.with_name(f"{database.name}.segments").glob("*.db")}
    assert files == named


def test_a_clean_stop_under_load_finishes_what_runs(start: Callable[..., RunningServer]) -> None:
    server = start(UNLIMITED)
    load = Load(server, 1, threads=8)
    wait_for(lambda: len(load.acknowledged) > 100, 20)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 10
    load.end()
    wanted, found = expected(load.acknowledged), stored(server.database)
    assert all({number: found[kind][number] for number in bodies} == bodies for kind, bodies in wanted.items())
    # Nothing is left for the next start to repair: the logs are merged into the files.
    assert not [file.name for file in server.database.parent.rglob("*-wal") if file.stat().st_size]


def test_a_stop_does_not_wait_for_a_client_that_never_finishes(start: Callable[..., RunningServer]) -> None:
    server = start()
    lines = "".join(f"{name}: {value}\r\n" for name, value in server.app.headers.items())
    with server.connect() as sock:
        sock.sendall(f"POST /ping/peers/submit HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: 9\r\n\r\n".encode())
        assert server.post(body_of(7)).status == 200
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10.5
    server.start()
    assert stored(server.database)["snapshot"] == {7: 7}


# --- No room on the disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def tight(start: Callable[..., RunningServer]) -> RunningServer:
    """A server of which no file may grow beyond what the limit, changed from outside, allows."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process can be changed on Linux only")
    return start(UNLIMITED)


def limit_files(server: RunningServer, size: int) -> None:
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_when_the_disk_is_full_it_says_so_lives_on_and_works_again_when_there_is_room(tight: RunningServer) -> None:
    acknowledged = set(range(1, 20))
    assert all(tight.post(body_of(number)).status == 200 for number in acknowledged)
    limit_files(tight, 4096)
    refused = []
    for number in range(20, 50):
        answer = tight.post(body_of(number))
        assert answer.status in (200, 503), answer
        (acknowledged.add if answer.status == 200 else refused.append)(number)
        if answer.status == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["success"] is False
    # An empty body of rows needs no room.
    assert set(refused) >= {number for number in range(20, 50) if number % 50}
    assert tight.get("/ping/config").status == 200
    assert tight.get("/ping/rules/retrieve").status == 200
    assert tight.request("GET", "/healthz").status == 200
    limit_files(tight, resource.RLIM_INFINITY)
    for number in (*refused, *refused):
        assert tight.post(body_of(number)).status == 200
    assert stored(tight.database) == expected(acknowledged | set(refused))
    check_catalogue(tight.database, finished=False)
    tight.restart()
    assert stored(tight.database) == expected(acknowledged | set(refused))


def test_a_full_disk_in_the_middle_of_large_bodies_loses_nothing(tight: RunningServer) -> None:
    row = {"torrent_identifier": TORRENT, "client_name": "x" * 60}

    def large(number: int) -> dict[str, Any]:
        return {
            "populate_time": number,
            "peers": [row | {"ip_address": f"198.18.{number}.{n % 250}"} for n in range(2000)],
        }

    assert tight.post(large(0)).status == 200
    limit_files(tight, 400_000)
    statuses = {number: tight.post(large(number)).status for number in range(1, 8)}
    assert set(statuses.values()) == {200, 503}
    limit_files(tight, resource.RLIM_INFINITY)
    assert {tight.post(large(number)).status for number in range(8)} == {200}
    assert stored(tight.database)["snapshot"] == dict.fromkeys(range(8), 2000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 3 MB, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if not mount or os.geteuid() != 0:
        pytest.skip("only root can mount")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_really_full_file_system_it_lives_and_recovers(small_disk: Path, tmp_path: Path) -> None:
    text = f"{UNLIMITED}[database]\npath = {json.dumps(str(small_disk / 'sparkle.db'))}\n"
    with start_server(tmp_path / "server", text) as server:
        server.database = small_disk / "sparkle.db"
        assert server.post(body_of(1)).status == 200
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        statuses = {number: server.post(body_of(number)).status for number in range(50, 150)}
        assert set(statuses.values()) == {200, 503}
        assert server.get("/ping/config").status == 200
        ballast.unlink()
        assert {server.post(body_of(number)).status for number in range(50, 150)} == {200}
        assert stored(server.database) == expected({1, *range(50, 150)})


def test_a_database_that_cannot_be_made_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "config.toml").write_text('[database]\npath = "file/sparkle.db"')
    command = [sys.executable, "-m", "sparkle_lite", "--config", str(tmp_path / "config.toml"), "serve", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "database" in ended.stderr


def test_a_database_locked_by_another_program_delays_bans_and_loses_none(start: Callable[..., RunningServer]) -> None:
    server = start(UNLIMITED)
    with closing(sqlite3.connect(server.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(server.post(body_of(35)).status))
        thread.start()
        time.sleep(0.5)
        assert answers == []
        assert server.get("/ping/config").status == 200
        other.execute("ROLLBACK")
        thread.join(10)
    assert answers == [200]
    assert stored(server.database) == expected({35})


# --- Segments ---------------------------------------------------------------------------------------------------------


async def submit(server: Server, *numbers: int) -> None:
    dialect = detect("PeerBanHelper/9.5.0")
    bodies = [json.dumps(body_of(number)).encode() for number in numbers]
    await asyncio.gather(*(server.ingest.submit(Owner(None, 1), b"\1\2\3\4", body, "", dialect) for body in bodies))


async def all_indexed(server: Server) -> None:
    """Wait until the job in the background has indexed every closed segment."""
    async with asyncio.timeout(10):
        while any(s["state"] == "closed" for k in segments.KINDS for s in catalogue(server.database.path, k)):
            assert server.jobs.failed == {}
            await asyncio.sleep(0.02)


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 100)


@pytest.mark.usefixtures("few_rows")
async def test_full_segments_are_closed_indexed_and_counted(tmp_path: Path) -> None:
    async with embedded(tmp_path) as server:
        for start in range(1, 200, 5):
            await submit(server, *range(start, start + 5))
        await all_indexed(server)
        check_catalogue(server.database.path, finished=True)
        assert len(catalogue(server.database.path, "snapshot")) > 5
    database = server.database.path
    assert stored(database) == expected(range(1, 201))
    for kind in segments.KINDS:
        ids = [row["id"] for row in rows(database, kind)]
        assert ids == list(range(1, len(ids) + 1))


@pytest.fixture
async def unindexed(tmp_path: Path, few_rows: None) -> Path:
    """A database whose closed segments have no indexes yet."""
    async with embedded(tmp_path, jobs=False) as server:
        await submit(server, *range(1, 60))
    return server.database.path


async def check_that_the_next_start_indexes(database: Path) -> None:
    """A start indexes every closed segment of an `unindexed` database, and nothing of it is lost or stored twice."""
    async with embedded(database.parent.parent) as server:
        await all_indexed(server)
        # The same bodies again: what is in closed segments is remembered too.
        await submit(server, *range(1, 60))
    check_catalogue(database, finished=True)
    assert stored(database) == expected(range(1, 60))


async def test_a_segment_that_was_closed_and_not_indexed_is_indexed_by_the_next_start(unindexed: Path) -> None:
    closed = [
        segment for kind in segments.KINDS for segment in catalogue(unindexed, kind) if segment["state"] == "closed"
    ]
    assert len(closed) >= 2
    # One of them was being indexed when the process died.
    with closing(sqlite3.connect(segment_file(unindexed, closed[0]))) as connection:
        connection.execute(f"CREATE INDEX {closed[0]['kind']}_peer_ip ON {closed[0]['kind']} (peer_ip)")
    await check_that_the_next_start_indexes(unindexed)


# Gives up the log as the index builder does last, and dies with the change half written.
HALF_PLAIN = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=DELETE")
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute(f"UPDATE {sys.argv[2]} SET peer_port=7")
connection.execute("PRAGMA cache_spill=1")
connection.execute("CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)"
                   " SELECT randomblob(100) FROM n")
os._exit(9)
"""


async def test_a_death_while_an_indexed_segment_becomes_a_plain_file_is_survived(unindexed: Path) -> None:
    for kind in segments.KINDS:
        closed = next(segment for segment in catalogue(unindexed, kind) if segment["state"] == "closed")
        file = segment_file(unindexed, closed)
        assert subprocess.run([sys.executable, "-c", HALF_PLAIN, file, kind], check=False).returncode == 9
        assert file.with_name(f"{file.name}-journal").stat().st_size > 512
    await check_that_the_next_start_indexes(unindexed)


@pytest.mark.usefixtures("few_rows")
async def test_indexed_segments_stay_plain_files_through_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        async with embedded(tmp_path) as server:
            await submit(server, *range(1, 60))
            await all_indexed(server)
        database = server.database.path
        indexed = [s for k in segments.KINDS for s in catalogue(database, k) if s["state"] == "indexed"]
        assert indexed
        # Bytes 18 and 19 of a database: 1 for a rollback journal, 2 for a write-ahead log.
        assert {segment_file(database, segment).read_bytes()[18:20] for segment in indexed} == {b"\1\1"}


def test_a_segment_file_that_nothing_names_is_set_aside_by_the_next_start(start: Callable[..., RunningServer]) -> None:
    server = start()
    server.post(body_of(1))
    server.kill()
    for name in ("snapshot-00000099.db", "snapshot-00000099.db-wal", "swarm-00000098.db", "swarm-00000098.db-shm"):
        (server.segments / name).write_bytes(b"x" * 100)
    keep = server.segments / "README"
    keep.touch()
    server.start()
    assert not [file.name for file in server.segments.iterdir() if "0000009" in file.name]
    assert len(list(server.database.with_name("sparkle.db.set-aside").iterdir())) == 4
    assert keep.exists()
    assert stored(server.database)["snapshot"] == {1: 1}


def test_five_of_the_largest_bodies_fill_a_segment_of_the_real_size(start: Callable[..., RunningServer]) -> None:
    server = start(UNLIMITED)
    for number in range(1, 7):
        one = f'{{"ip_address":"198.18.{number}.%d","torrent_identifier":"{TORRENT}","peer_port":%d}}'
        text = ",".join(one % (n & 255, n) for n in range(50_000))
        answer = server.post(f'{{"populate_time":{number},"peers":[{text}]}}'.encode())
        assert (answer.status, answer.rejected) == (200, 0)
    wait_for(lambda: [s["state"] for s in catalogue(server.database, "snapshot")] == ["indexed", "hot"], 10)
    closed, hot = catalogue(server.database, "snapshot")
    assert (closed["rows"], closed["first_row"], hot["first_row"]) == (250_000, 1, 250_001)
    check_catalogue(server.database, finished=True)
    assert count(server.database, "torrent") == 1


def test_a_kill_while_a_segment_is_rolled_again_and_again_leaves_one_hot_segment(
    start: Callable[..., RunningServer],
) -> None:
    server = start(UNLIMITED, prelude="import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 1")
    first, acknowledged = 1, set()
    for _ in range(3):
        load = Load(server, first, threads=2)
        wait_for(lambda load=load: len(load.acknowledged) > 15, 20)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(5)
        load.end()
        first, acknowledged = max(load.sent) + 1, acknowledged | load.acknowledged
        server.start()
    server.stop()
    wanted, found = expected(acknowledged), stored(server.database)
    assert all({number: found[kind][number] for number in bodies} == bodies for kind, bodies in wanted.items())
    check_catalogue(server.database, finished=False)
