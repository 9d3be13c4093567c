"""Observations on disk: a chain of files for each kind, the last one hot, the others closed and only read.

A hot segment takes rows without maintaining any index, which is what makes the rate flat with the size of the whole.
When it is full or old it is closed; its indexes are built in the background, and retention unlinks it whole.
"""

import asyncio
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sparkle_lite.clock import newest_of
from sparkle_lite.db.connection import (
    Connection,
    Row,
    Synchronous,
    connect,
    connect_readonly,
    fetch_all,
    fetch_one,
    merge_log,
    migrate,
    plain_uri,
    refused,
    remove_file,
    roll_back,
    schema,
    statements,
    transaction,
)
from sparkle_lite.db.faults import FileFault, is_damage, place_of, places_beside, taken_away
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import DAY_MS

Kind = Literal["snapshot", "swarm"]
KINDS: tuple[Kind, ...] = ("snapshot", "swarm")
SEGMENT_ROWS = 250_000
SEGMENT_AGE_MS = DAY_MS

# Rows in one INSERT: a few long calls into SQLite, each worth giving up the interpreter lock; never one of an odd size,
# which SQLite would have to parse anew.
CHUNK_ROWS = (500, 50, 1)
_LEAVE_TRIES = 25

# Public ids that are left out behind a hot segment of which nobody knows any more how many rows it has.
UNKNOWN_ROWS = 10_000_000

# What is behind the name of a file that is being made: empty, or as a copy of one that was taken away.
UNREADY, RESCUED = ".new", ".rescue"
_NAME = re.compile(r"(snapshot|swarm)-(\d{8,})\.db")
logger = logging.getLogger("sparkle.segments")
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "snapshot": (
        "submission",
        "peer_ip",
        "peer_port",
        "client",
        "torrent",
        "from_peer_traffic",
        "from_peer_traffic_speed",
        "to_peer_traffic",
        "to_peer_traffic_speed",
        "peer_progress",
        "downloader_progress",
        "flags",
    ),
    "swarm": (
        "submission",
        "version_key",
        "origin",
        "peer_ip",
        "peer_port",
        "client",
        "torrent",
        "downloader",
        "from_peer_traffic",
        "from_peer_traffic_offset",
        "to_peer_traffic",
        "to_peer_traffic_offset",
        "from_peer_traffic_speed",
        "from_peer_traffic_speed_max",
        "to_peer_traffic_speed",
        "to_peer_traffic_speed_max",
        "peer_progress",
        "downloader_progress",
        "first_time_seen",
        "last_time_seen",
        "flags",
    ),
}


class SubmissionRow(NamedTuple):
    """One accepted body within one file. `digest` is 16 bytes; times in ms."""

    id: int
    received_at: int
    userapp: int
    address: bytes | None
    populate_time: int | None
    digest: bytes
    rows: int
    rejected: int


class Rows(NamedTuple):
    """Rows of observations as one flat list of values in the order of `columns`, and the bodies that they came in."""

    values: list[Any]
    submissions: Sequence[SubmissionRow]


NO_ROWS = Rows([], ())


class SegmentRow(NamedTuple):
    """A row of the catalogue."""

    id: int
    kind: Kind
    state: Literal["hot", "closed", "indexed"]
    first_row: int
    rows: int
    submissions: int
    created_at: int
    first_received_at: int | None
    last_received_at: int | None
    bytes: int


_CATALOGUE = f"SELECT {', '.join(SegmentRow._fields)} FROM segment"

# The columns of a table of versions; those of indexed segments have them too.
VERSIONS = "(version_key INTEGER PRIMARY KEY, row INTEGER NOT NULL, at INTEGER NOT NULL, first_time_seen INTEGER)"


def take_up_versions(table: str) -> str:
    """The statement that takes rows of cumulative values, the ones between two numbers, up into a table of versions.

    Such a table has for each version_key the `row` that counts: the version with the latest evidence, since `at`; of
    equals the one received last. Evidence counts at the earlier of its receipt and the client's own time, whose clock
    may be wrong. `first_time_seen` is the smallest of all versions. Rows that were taken up before do no harm.
    """
    return (
        f"INSERT INTO {table} AS known SELECT s.version_key, s.id,"
        " min(sub.received_at, coalesce(s.last_time_seen, sub.received_at)), s.first_time_seen"
        " FROM swarm s CROSS JOIN submission sub ON sub.id=s.submission WHERE s.id BETWEEN ? AND ?"
        " ON CONFLICT DO UPDATE SET row=iif(excluded.at>=at, excluded.row, row), at=max(at, excluded.at),"
        " first_time_seen=coalesce(min(first_time_seen, excluded.first_time_seen),"
        " first_time_seen, excluded.first_time_seen)"
    )


def columns(kind: Kind) -> tuple[str, ...]:
    """The columns of one row of observations in the order in which `Stream.append` takes its values."""
    return COLUMNS[kind]


class HotFault(Exception):
    """A hot segment can't be written on with: its file was taken away, replaced or damaged. Nothing was committed."""

    def __init__(self, kind: Kind, reason: Literal["missing", "damaged"], details: str) -> None:
        super().__init__(f"{kind}: {reason} ({details})")
        self.kind: Kind = kind
        self.reason: Literal["missing", "damaged"] = reason
        self.details = details


class Stream:
    """The chain of segments of one kind, and its hot segment's writing connection.

    Used by the writer task alone. Row ids count through all segments: `first_row` plus the row's place.
    """

    def __init__(self, folder: Path, kind: Kind, synchronous: Synchronous, stamp: int) -> None:
        self.kind: Kind = kind
        self.folder = folder
        self._stamp = stamp
        self._place: tuple[int, int] | None = None
        self._beside: Mapping[str, tuple[int, int]] = {}
        self._size = 0
        self._synchronous: Synchronous = synchronous
        self._width = len(COLUMNS[kind])
        self._connection: Connection | None = None
        self._inserts: dict[int, str] = {}
        self.hot: SegmentRow | None = None
        self.rows = 0
        self.submissions = 0
        self.first_received_at: int | None = None
        self.last_received_at: int | None = None
        self._last_submission = 0

    def next_submission(self) -> int:
        """The id of the next body. Ids ascend in the order of the rows; a body that fails leaves a gap."""
        self._last_submission += 1
        return self._last_submission

    @property
    def connection(self) -> Connection:
        """The hot segment's writing connection."""
        if self._connection is None:
            raise RuntimeError("the stream is not open")
        return self._connection

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return segment_path(self.folder, self.kind, segment)

    async def open(self, main: Connection, now_ms: int) -> None:
        """Take up the hot segment where the last process left it, or begin the first one."""
        row = await fetch_one(main, f"{_CATALOGUE} WHERE kind=? AND state='hot' ORDER BY id DESC", (self.kind,))
        if row is None:
            await self.roll(main, now_ms)
            return
        hot = SegmentRow(*row)
        await self.take(hot, await self._open_file(self.path(hot.id)))

    async def look_at(self, main: Connection) -> None:
        """Know the hot segment without a connection to write to it, on a disk that can't be written."""
        row = await fetch_one(main, f"{_CATALOGUE} WHERE kind=? AND state='hot' ORDER BY id DESC", (self.kind,))
        self.hot = SegmentRow(*row) if row else None

    async def take(self, hot: SegmentRow, connection: Connection) -> None:
        """Write on to a segment from now on."""
        before, self._connection, self.hot = self._connection, connection, hot
        await self.count(connection)
        self._place, self._size = await asyncio.to_thread(_place, self.path(hot.id))
        self._beside = await asyncio.to_thread(places_beside, self.path(hot.id))
        if before is not None:
            await before.close()

    async def recent_digests(self, main: Connection, since_ms: int, limit: int) -> list[Row]:
        """(received_at, digest) of the bodies received since, oldest first, at most `limit` of the newest."""
        sql = "SELECT received_at, digest FROM submission WHERE received_at >= ? ORDER BY id DESC LIMIT ?"
        newest = await fetch_all(self.connection, sql, (since_ms, limit))
        closed = await catalogue(main, "kind=? AND state<>'hot' AND last_received_at>=?", (self.kind, since_ms))
        for segment in reversed(closed):
            if len(newest) >= limit:
                break
            try:
                connection = await connect_readonly(self.path(segment.id))
                try:
                    newest += await fetch_all(connection, sql, (since_ms, limit - len(newest)))
                finally:
                    await connection.close()
            except FileFault as fault:
                # Damaged where a first look doesn't see it. Whoever looks closer sets it aside.
                logger.error("the bodies in %s can't be read: %s", self.path(segment.id), fault)
        newest.reverse()
        return newest

    async def count(self, connection: Connection) -> None:
        """Count what is in the hot segment, by a connection to it."""
        counts = await fetch_one(
            connection,
            f"SELECT (SELECT coalesce(max(id), 0) FROM {self.kind}), (SELECT count(*) FROM submission),"
            " (SELECT coalesce(max(id), 0) FROM submission), (SELECT min(received_at) FROM submission),"
            " (SELECT max(received_at) FROM submission)",
        )
        self.rows, self.submissions, self._last_submission, self.first_received_at, self.last_received_at = counts or (
            0,
            0,
            0,
            None,
            None,
        )

    async def _open_file(self, path: Path) -> Connection:
        connection = await connect(path, synchronous=self._synchronous, cache_kib=16384, begins="IMMEDIATE")
        try:
            await migrate(connection, path, self.kind)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def new_number(self, main: Connection) -> int:
        """A number that no segment has or had, whether the catalogue names it or not."""
        top = await fetch_one(
            main, "SELECT max(id) FROM (SELECT id FROM segment UNION ALL SELECT id FROM segment_aside)"
        )
        seen = await asyncio.to_thread(lambda: max(numbers_in(self.folder, set_aside_folder(self.folder)), default=0))
        return max((top[0] if top else None) or 0, seen) + 1

    async def make(self, number: int, copied: Connection | None = None) -> Connection:
        """Make the file of a segment, empty or as a copy, and open it.

        It gets its name when it is whole: a crash before leaves a file whose name says what it was to be.
        """
        path = self.path(number)
        unready = path.with_name(path.name + (UNREADY if copied is None else RESCUED))
        if copied is None:
            await asyncio.to_thread(remove_file, unready)
        connection = await self._open_file(unready)
        try:
            if copied is not None:
                with refused("write", unready):
                    await copied.backup(connection)
            # By it a segment of another database is told apart.
            await fetch_all(connection, f"PRAGMA application_id={self._stamp}")
            await merge_log(connection)
        finally:
            await connection.close()
        with refused("write", path):
            await asyncio.to_thread(_name, unready, path)
        return await self._open_file(path)

    def is_full(self, now_ms: int) -> bool:
        """Whether the hot segment should be closed: 250 thousand rows, or 24 hours since it was begun.

        One that was begun at a time that is yet to come was begun by a clock that was ahead.
        """
        if self.hot is None:
            return False
        is_young = -SEGMENT_AGE_MS < now_ms - self.hot.created_at < SEGMENT_AGE_MS
        return self.rows >= SEGMENT_ROWS or (self.rows > 0 and not is_young)

    async def mend(self, now_ms: int, ahead_ms: int) -> None:
        """Bring what the hot segment holds of bodies received beyond `ahead_ms` to now."""
        if (self.last_received_at or 0) <= ahead_ms:
            return
        async with transaction(self.connection):
            await self.connection.execute("UPDATE submission SET received_at=? WHERE received_at>?", (now_ms, ahead_ms))
        await self.count(self.connection)

    async def roll(self, main: Connection, now_ms: int) -> int | None:
        """Close the hot segment and begin the next; returns the closed one's id.

        The new file exists before the catalogue names it, and one transaction of the main database makes the change:
        a crash in between leaves an empty file that nothing names.
        """
        old = self.hot
        number = await self.new_number(main)
        connection = await self.make(number)
        try:
            async with transaction(main):
                if old:
                    await main.execute(
                        "UPDATE segment SET state='closed', rows=?, submissions=?, first_received_at=?,"
                        " last_received_at=?, bytes=? WHERE id=?",
                        (*self.counts, file_size(self.path(old.id)), old.id),
                    )
                fresh = await self.begin(main, number, now_ms)
        except BaseException:
            await connection.close()
            raise
        await self.take(fresh, connection)
        return old.id if old else None

    @property
    def counts(self) -> tuple[int, int, int | None, int | None]:
        """What is in the hot segment: rows, submissions, and when the first and the last were received (ms)."""
        return self.rows, self.submissions, self.first_received_at, self.last_received_at

    async def begin(self, main: Connection, number: int, now_ms: int) -> SegmentRow:
        """Name an empty hot segment in the catalogue, within a transaction; its ids follow what was before."""
        row = await fetch_one(
            main,
            "SELECT max(first_row + rows) FROM (SELECT kind, first_row, rows FROM segment UNION ALL"
            f" SELECT kind, first_row, iif(state='hot', {UNKNOWN_ROWS}, rows) FROM segment_aside) WHERE kind=?",
            (self.kind,),
        )
        fresh = SegmentRow(
            id=number,
            kind=self.kind,
            state="hot",
            first_row=(row[0] if row else None) or 1,
            rows=0,
            submissions=0,
            created_at=now_ms,
            first_received_at=None,
            last_received_at=None,
            bytes=0,
        )
        await main.execute(f"INSERT INTO segment VALUES ({','.join('?' * len(fresh))})", fresh)
        return fresh

    def verify(self) -> None:
        """Look whether the hot segment's file and log are where they were, and no smaller. Raises HotFault; any thread.

        Only from outside: closing a file that SQLite has open, too, would end its locks.
        """
        if self.hot is None or self._place is None:
            return
        path = self.path(self.hot.id)
        try:
            place, size = _place(path)
        except OSError as error:
            raise HotFault(self.kind, "missing", error.strerror or str(error)) from error
        if place != self._place:
            raise HotFault(self.kind, "missing", "another file is in its place")
        if gone := taken_away(self._beside, places_beside(path)):
            raise HotFault(self.kind, "missing", f"its {gone} is not there any more")
        # Nothing ever makes it smaller.
        if size < self._size:
            raise HotFault(self.kind, "damaged", f"{size} bytes, {self._size} before")
        self._size = size

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            raise HotFault(self.kind, "damaged", str(error)) from error

    async def append(self, make: Callable[[], Rows]) -> None:
        """Insert the rows that a function makes; it is called on the driver's thread, right before they are inserted.

        Making rows and inserting them in one visit to that thread spares a hand-over, and only one thread at a time
        competes with the event loop for the interpreter. Ends without a commit: `commit` or `roll_back` follows.
        """

        def verified() -> Rows:
            # What is committed to a file that was taken away would be acknowledged and gone.
            self.verify()
            return make()

        connection, supply = self.connection, _Supply(verified, self._width)
        inserts = [connection.executemany(self._insert(rows), supply.chunks(rows)) for rows in CHUNK_ROWS]
        inserts.append(connection.executemany("INSERT INTO submission VALUES (?,?,?,?,?,?,?,?)", supply.submissions()))
        with refused("write", connection), self._noticing():
            # Handed over together: the driver's thread goes from one to the next without waiting for us. It begins the
            # transaction before the first, and where one fails nothing is committed.
            for done in await asyncio.gather(*inserts, return_exceptions=True):
                if isinstance(done, BaseException):
                    raise done

    def _insert(self, rows: int) -> str:
        sql = self._inserts.get(rows)
        if sql is None:
            one = f"({','.join('?' * self._width)})"
            sql = f"INSERT INTO {self.kind} ({', '.join(COLUMNS[self.kind])}) VALUES {','.join([one] * rows)}"
            self._inserts[rows] = sql
        return sql

    async def commit(self, rows: int, submissions: Sequence[SubmissionRow]) -> None:
        """Make the appended rows durable and count them."""
        with refused("write", self.connection), self._noticing():
            await self.connection.commit()
        self.rows += rows
        self.submissions += len(submissions)
        if self.first_received_at is None:
            self.first_received_at = submissions[0].received_at
        # The clock may have been set back since the last start.
        self.last_received_at = max(self.last_received_at or 0, submissions[-1].received_at)

    async def roll_back(self) -> None:
        """Forget what was appended since the last commit."""
        await roll_back(self.connection)

    async def close(self) -> None:
        """Close the writing connection; its log is merged into the file."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


class _Supply:
    """Rows for several INSERTs of different sizes, made when the first of them asks."""

    def __init__(self, make: Callable[[], Rows], width: int) -> None:
        self._make = make
        self._width = width
        self._rows: Rows | None = None
        self._taken = 0

    def _made(self) -> Rows:
        if self._rows is None:
            # What fails is not tried again by the next INSERT.
            self._rows = NO_ROWS
            self._rows = self._make()
        return self._rows

    def chunks(self, rows: int) -> Iterator[list[Any]]:
        """The values of so many rows at a time, as long as there are enough left."""
        values, step = self._made().values, rows * self._width
        while self._taken + step <= len(values):
            yield values[self._taken : self._taken + step]
            self._taken += step

    def submissions(self) -> Iterator[SubmissionRow]:
        """The bodies."""
        yield from self._made().submissions


def _place(path: Path) -> tuple[tuple[int, int], int]:
    """Which file a path leads to, and its bytes."""
    found = path.stat()
    return place_of(found), found.st_size


def _name(unready: Path, path: Path) -> None:
    unready.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def discard_unready(folder: Path) -> None:
    """Remove the empty files that somebody was making who was killed meanwhile. Blocks."""
    for path in folder.glob(f"*-????????.db{UNREADY}*"):
        path.unlink(missing_ok=True)


def set_aside_folder(folder: Path) -> Path:
    """Where what can't be served of a folder of segments is kept: beside it."""
    return folder.with_name(folder.name.removesuffix(".segments") + ".set-aside")


def numbers_in(*folders: Path) -> Iterator[int]:
    """The numbers of all files in some folders that are named like segments."""
    for folder in folders:
        for path in folder.glob("*.db*"):
            if found := _NAME.match(path.name):
                yield int(found[2])


def segment_path(folder: Path, kind: Kind, segment: int) -> Path:
    """The file of a segment."""
    return folder / f"{kind}-{segment:08d}.db"


def file_size(path: Path) -> int:
    """Bytes of a database file with its log."""
    total = 0
    for name in (path, path.with_name(path.name + "-wal")):
        try:
            total += name.stat().st_size
        except FileNotFoundError:
            continue
    return total


async def catalogue(connection: Connection, where: str = "", parameters: Sequence[object] = ()) -> list[SegmentRow]:
    """The segments in ascending order; `where` is a constant condition of the caller's."""
    condition = f" WHERE {where}" if where else ""
    return [SegmentRow(*row) for row in await fetch_all(connection, f"{_CATALOGUE}{condition} ORDER BY id", parameters)]


async def build_indexes(folder: Path, segment: SegmentRow, synchronous: Synchronous) -> int | None:
    """Index a closed segment on a connection of its own, and leave it as one plain file; returns its bytes.

    None if the file is gone by now. SQLite gives up the interpreter lock while it sorts, so this runs beside ingestion.
    An interrupted build is begun again at the next start: what is there already stays.
    """
    path = segment_path(folder, segment.kind, segment.id)
    if not await asyncio.to_thread(path.exists):
        return None
    connection = await connect(path, synchronous=synchronous, cache_kib=32768, create=False)
    try:
        await make_indexes(connection, segment.kind, segment.rows)
        await leave_log(connection)
    finally:
        await connection.close()
    return file_size(path)


async def make_indexes(connection: Connection, kind: Kind, rows: int) -> None:
    with refused("write"):
        for statement in statements(schema(f"{kind}_index.sql")):
            await connection.execute(statement)
        if kind == "swarm":
            await connection.execute(take_up_versions("version"), (1, rows))
        await fetch_all(connection, "PRAGMA wal_checkpoint(TRUNCATE)")


async def leave_log(connection: Connection) -> None:
    """Give up the log: without one the file can be read as immutable, with no locks and no shared memory.

    A reader that has the file open at this moment prevents that; after some tries the log stays, which costs nothing
    but those advantages.
    """
    for _ in range(_LEAVE_TRIES):
        try:
            await fetch_all(connection, "PRAGMA journal_mode=DELETE")
            return
        except SparkleError:
            await asyncio.sleep(0.2)


async def rows_by_userapp(folder: Path, segment: SegmentRow) -> dict[int, int]:
    """How many rows of a segment each application (row id) sent; nothing where its file is gone."""
    path = segment_path(folder, segment.kind, segment.id)
    if not await asyncio.to_thread(path.exists):
        return {}
    connection = await connect_readonly(path)
    try:
        return dict(await fetch_all(connection, "SELECT userapp, sum(rows) FROM submission GROUP BY 1"))
    finally:
        await connection.close()


async def used_bytes(folder: Path, segment: SegmentRow) -> int:
    """Bytes that a segment takes, whatever its log has beside them; 0 where its file is gone."""
    path = segment_path(folder, segment.kind, segment.id)
    if not await asyncio.to_thread(path.exists):
        return 0
    connection = await connect_readonly(path)
    try:
        row = await fetch_one(connection, "SELECT page_count*page_size FROM pragma_page_count, pragma_page_size")
    finally:
        await connection.close()
    return int(row[0]) if row else 0


async def newest_hot(main: Connection, folder: Path, uri_of: Callable[[Path], str] = plain_uri) -> int | None:
    """When the newest row in a hot segment was received (ms); None where there is none that can be read.

    `uri_of` says how its file is opened.
    """
    newest = []
    for segment in await catalogue(main, "state='hot'"):
        with suppress(SparkleError):
            path = segment_path(folder, segment.kind, segment.id)
            connection = await connect_readonly(path, uri=uri_of(path))
            try:
                newest += await fetch_all(connection, "SELECT max(received_at) FROM submission")
            finally:
                await connection.close()
    return newest_of(row[0] for row in newest)


async def renumber(main: Connection, segment: int, number: int) -> None:
    """Give a segment of the catalogue another number, within a transaction."""
    await main.execute("UPDATE segment SET id=? WHERE id=?", (number, segment))


async def mark_indexed(main: Connection, segment: int, size: int) -> None:
    """Note in the catalogue that a segment has its indexes."""
    await main.execute("UPDATE segment SET state='indexed', bytes=? WHERE id=?", (size, segment))


async def forget(main: Connection, segments: Sequence[SegmentRow]) -> None:
    """Take segments out of the catalogue; their files are unlinked after the commit."""
    await main.executemany("DELETE FROM segment WHERE id=?", [(segment.id,) for segment in segments])


def unlink(folder: Path, segments: Sequence[SegmentRow]) -> None:
    """Remove the files of segments that the catalogue no longer names."""
    for segment in segments:
        remove_file(segment_path(folder, segment.kind, segment.id))
