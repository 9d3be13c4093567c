"""Threads that read for people and clients, each with SQLite connections of its own.

A connection is made, used and closed on its thread. Indexed segments stay open, because opening one costs more than
most pages; everything else is open only while it is read. What another segment has of each key of cumulative rows is
kept in memory while people ask, and caught up by what came since: it takes a walk through all of the file.
"""

import asyncio
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sparkle_lite import net
from sparkle_lite.db.conditions import identity_hash
from sparkle_lite.db.connection import Row, plain_uri, still_uri
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import FileFault, is_damage
from sparkle_lite.db.segments import VERSIONS, SegmentRow, segment_path, take_up_versions
from sparkle_lite.errors import SparkleError
from sparkle_lite.turns import Costs, Owner, Turns

T = TypeVar("T")

# Who may wait for a thread, where each takes some seconds at the most.
MAX_WAITING = 16
# What somebody may have asked a pool at once; a further question waits a little, so many of them at the most, and one
# of those two until it is answered, unless half the world asks.
AT_ONCE, MAX_MORE = 2, 64
PATIENCE_S, LONG_PATIENCE_S = 3.0, 20.0
# Connections to indexed segments that a thread keeps open, one file descriptor each.
_OPEN_SEGMENTS = 64
# Small: there are many connections, and the system caches the files.
_CACHE_KIB = 512
# How long versions are kept that nobody asks for, and how many rows are taken up at once (a tenth of a second).
_VERSIONS_S = 600
_TAKEN_UP = 100_000
_CANT_OPEN = sqlite3.SQLITE_CANTOPEN
# Steps of SQLite's machine between two looks at the clock: about a millisecond.
_STEPS = 20_000


class Gone(Exception):
    """The file of a segment is not there any more, or can't be read."""

    def __init__(self, segment: SegmentRow, error: sqlite3.Error | None = None) -> None:
        super().__init__(f"segment {segment.id}: {error or 'gone'}")
        self.segment, self.error = segment, error


class Reader:
    """One thread, and its connections: the main database as `m`, and the indexed segments that it came by."""

    def __init__(self, name: str, database: Database) -> None:
        self._database = database
        self._folder = database.segment_folder
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._closing = threading.Event()
        self._waiting = 0
        self._main: sqlite3.Connection | None = None
        # With the inode of each: a file may be written anew, and what was found to be current stays for a snapshot.
        self._kept: dict[Path, tuple[sqlite3.Connection, int]] = {}
        self._current: set[Path] = set()
        self._brief: dict[Path, sqlite3.Connection] = {}
        self._memory: sqlite3.Connection | None = None
        self._versions: dict[int, _Versions] = {}
        self._deadline = 0.0

    @property
    def path(self) -> Path:
        """The main database."""
        return self._database.path

    async def run(self, function: Callable[["Reader"], T]) -> T:
        """Run a function on the thread when its turn comes. Raises SparkleError("overloaded") when too many wait."""
        if self._waiting >= MAX_WAITING:
            raise SparkleError("overloaded", "query.too_many", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, self)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Stop what runs, close the connections and end the thread; safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._executor.submit(self._close)
        self._executor.shutdown()

    # --- On the thread ------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        for connection in (self._main, self._memory, *(each for each, _ in self._kept.values())):
            if connection is not None:
                connection.close()
        self._main = self._memory = None
        self._kept.clear()

    def tidy(self) -> None:
        """Close the segments that retention has unlinked: their space is given back only then. Forget old versions."""
        late = time.monotonic() - _VERSIONS_S
        for number in [number for number, one in self._versions.items() if one.asked_at < late]:
            with self.scratch() as memory:
                memory.execute(f"DROP TABLE {self._versions.pop(number).table}")
        for path in [path for path, (_, inode) in self._kept.items() if _inode(path) != inode]:
            self._kept.pop(path)[0].close()

    def until(self, milliseconds: int) -> None:
        """Allow the statements from now on so much time together; past it they are interrupted."""
        self._deadline = time.monotonic() + milliseconds / 1000

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline or self._closing.is_set()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See the main database in one state throughout, and keep open what is read meanwhile."""
        if self._main is None:
            self._main = self._open(":memory:", cache_kib=0)
            self._attach_main(self._main)
        self._main.execute("BEGIN")
        try:
            yield
        finally:
            # SQLite ends a transaction itself where the disk fails, and what failed is to be heard of.
            if self._main.in_transaction:
                self._main.execute("ROLLBACK")
            # These are about to be rewritten and must not be held open for long.
            for connection in self._brief.values():
                connection.close()
            self._brief.clear()
            self._current.clear()

    def main(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Rows of the main database; within a snapshot only."""
        if self._main is None:
            raise RuntimeError("there is no snapshot")
        return self._main.execute(sql, values).fetchall()

    def fetch(
        self, segment: SegmentRow | None, sql: str, values: Sequence[Any] = (), *, attached: bool = False
    ) -> list[Row]:
        """Rows of a segment, or of the main database for None; `attached` makes `m` known beside a segment.

        Raises Gone for a segment that was unlinked meanwhile, or can't be read.
        """
        if segment is None:
            return self.main(sql, values)
        with self._noticing(segment):
            connection = self._segment(segment)
            if not attached:
                return connection.execute(sql, values).fetchall()
            self._attach_main(connection)
            try:
                return connection.execute(sql, values).fetchall()
            finally:
                connection.execute("DETACH m")

    @contextmanager
    def _noticing(self, segment: SegmentRow) -> Iterator[None]:
        """Say of which segment an error is that may be its file's, and let go of that."""
        try:
            yield
        except (sqlite3.DatabaseError, FileFault) as error:
            cause = error.__cause__ if isinstance(error, FileFault) else error
            code = getattr(cause, "sqlite_errorcode", 0)
            # A database of something else, in the place of ours, has other tables.
            is_other = code == sqlite3.SQLITE_ERROR and str(cause).startswith("no such ")
            if not isinstance(cause, sqlite3.Error) or not (code == _CANT_OPEN or is_other or is_damage(cause)):
                raise
            if kept := self._kept.pop(self._file(segment), None):
                kept[0].close()
            raise Gone(segment, cause) from error

    def _file(self, segment: SegmentRow) -> Path:
        return segment_path(self._folder, segment.kind, segment.id)

    def _segment(self, segment: SegmentRow) -> sqlite3.Connection:
        path = self._file(segment)
        if segment.state != "indexed":
            if path not in self._brief:
                self._brief[path] = self._open(self._uri(path))
            return self._brief[path]
        connection, inode = self._kept.pop(path, (None, 0))
        if connection is not None and path not in self._current and _inode(path) != inode:
            connection.close()
            connection = None
        if connection is None:
            inode = _inode(path)
            # Without a log beside it nothing changes the file any more, so it needs no locks.
            has_log = path.with_name(path.name + "-wal").exists()
            connection = self._open(self._uri(path) if has_log else f"{plain_uri(path)}&immutable=1")
        self._current.add(path)
        self._kept[path] = connection, inode
        while len(self._kept) > _OPEN_SEGMENTS:
            self._kept.pop(next(iter(self._kept)))[0].close()
        return connection

    def _uri(self, path: Path) -> str:
        return still_uri(path) if self._database.is_still else plain_uri(path)

    def _open(self, name: str, *, cache_kib: int = _CACHE_KIB) -> sqlite3.Connection:
        connection = sqlite3.connect(name, uri=True, isolation_level=None, cached_statements=32)
        if cache_kib:
            connection.execute(f"PRAGMA cache_size=-{cache_kib}")
        connection.create_function("ip_text", 1, net.address_text, deterministic=True)
        connection.create_function("identity_hash", 2, identity_hash, deterministic=True)
        connection.set_progress_handler(self._is_late, _STEPS)
        return connection

    def _attach_main(self, connection: sqlite3.Connection) -> None:
        connection.execute("ATTACH ? AS m", (self._database.uri,))
        connection.execute(f"PRAGMA m.cache_size=-{8 * _CACHE_KIB}")

    @contextmanager
    def scratch(self) -> Iterator[sqlite3.Connection]:
        """A connection for what goes through several segments; its temporary tables are gone afterwards."""
        if self._memory is None:
            self._memory = self._open(":memory:")
            self._memory.execute("PRAGMA temp_store=MEMORY")
        try:
            yield self._memory
        finally:
            for (name,) in self._memory.execute("SELECT name FROM sqlite_temp_master WHERE type='table'").fetchall():
                self._memory.execute(f"DROP TABLE temp.{name}")

    @contextmanager
    def beside(self, memory: sqlite3.Connection, segment: SegmentRow) -> Iterator[None]:
        """Make a segment and the main database known to the scratch connection, in this order of precedence."""
        path = self._file(segment)
        if not path.exists():
            raise Gone(segment)
        with self._noticing(segment):
            memory.execute("ATTACH ? AS segment", (self._uri(path),))
            self._attach_main(memory)
            try:
                yield
            finally:
                memory.execute("DETACH m")
                memory.execute("DETACH segment")

    def versions(self, memory: sqlite3.Connection, segment: SegmentRow) -> str:
        """The table of the scratch connection that says what a segment without indexes has of each key.

        What it holds by the deadline stays for the next who asks; nobody may ask for an earlier state of the segment
        than somebody before.
        """
        known = self._versions.get(segment.id)
        if known is None:
            known = _Versions(f"versions_{segment.id}")
            memory.execute(f"CREATE TABLE IF NOT EXISTS {known.table} {VERSIONS}")
            self._versions[segment.id] = known
        known.asked_at = time.monotonic()
        if known.rows < segment.rows:
            with self.beside(memory, segment):
                while known.rows < segment.rows:
                    until = min(known.rows + _TAKEN_UP, segment.rows)
                    memory.execute(take_up_versions(known.table), (known.rows + 1, until))
                    known.rows = until
        return known.table


class _Turn(NamedTuple):
    who: Owner
    reader: asyncio.Future[Reader]


class ReaderPool:
    """Some readers for many who ask: each has one of them at a time, in turns by what they have cost."""

    def __init__(self, name: str, size: int, database: Database) -> None:
        self._readers = [Reader(f"{name}-{number}", database) for number in range(1, size + 1)]
        self._idle = list(self._readers)
        self._costs = Costs()
        self._turns: Turns[_Turn] = Turns(self._costs, lambda turn: turn.who)
        self._served: set[Hashable] = set()
        self._asked: Counter[Owner] = Counter()

    async def run(self, who: Owner, function: Callable[[Reader], T]) -> T:
        """Run a function on a thread when it is somebody's turn.

        Raises SparkleError: too_many when they have two under way already that don't end soon, overloaded when too many
        others ask.
        """
        before = self._asked[who]
        if before >= AT_ONCE + MAX_MORE:
            raise _two_at_once()
        self._asked[who] += 1
        try:
            reader = await self._reader(who, is_further=before >= AT_ONCE)
        except BaseException:
            self._forget(who)
            raise
        started = time.monotonic()

        def done(running: asyncio.Task[T]) -> None:
            self._costs.charge(who, time.monotonic() - started)
            self._forget(who)
            self._give_back(who, reader)
            if not running.cancelled():
                # Whoever waited has it; where they went away, it is nobody's.
                running.exception()

        # A thread can't be stopped: whoever goes away has it until it is done.
        running = asyncio.create_task(reader.run(function), name="search")
        running.add_done_callback(done)
        return await asyncio.shield(running)

    def _forget(self, who: Owner) -> None:
        self._asked[who] -= 1
        if not self._asked[who]:
            del self._asked[who]

    async def _reader(self, who: Owner, *, is_further: bool) -> Reader:
        turn = _Turn(who, asyncio.get_running_loop().create_future())
        self._turns.put(turn)
        self._hand_out()
        try:
            async with asyncio.timeout(PATIENCE_S if is_further else LONG_PATIENCE_S):
                return await asyncio.shield(turn.reader)
        except BaseException as error:
            if turn.reader.done():
                self._give_back(who, turn.reader.result())
            else:
                turn.reader.cancel()
                self._turns.remove(turn)
            if not isinstance(error, TimeoutError):
                raise
            if is_further:
                raise _two_at_once() from None
            raise SparkleError("overloaded", "query.too_many", retry_after=5) from None

    def _hand_out(self) -> None:
        while self._idle and (turn := self._turns.take(lambda who: who.person not in self._served)) is not None:
            self._served.add(turn.who.person)
            turn.reader.set_result(self._idle.pop())

    def _give_back(self, who: Owner, reader: Reader) -> None:
        self._served.discard(who.person)
        self._idle.append(reader)
        self._hand_out()

    async def tidy(self) -> None:
        """Have every reader let go of what it needs no more."""
        for reader in self._readers:
            await reader.run(Reader.tidy)

    def close(self) -> None:
        """Stop what runs, and end the threads; safe to call twice."""
        for reader in self._readers:
            reader.close()


def _two_at_once() -> SparkleError:
    return SparkleError("too_many", "query.two_at_once", retry_after=5)


@dataclass
class _Versions:
    """A table of versions, and how many rows of its segment have been taken up; `asked_at` is monotonic (s)."""

    table: str
    rows: int = 0
    asked_at: float = 0.0


def _inode(path: Path) -> int:
    """Which file a path names; 0 where it names none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def is_interrupted(error: sqlite3.OperationalError) -> bool:
    """Whether a statement was stopped by its deadline."""
    return error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
