"""Periodic jobs: flush, index, apply retention, publish what has expired, run the analyses.

Every job is a named loop of its own that never overlaps with itself, is counted, and lives on after a failure.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from sparkle_lite.clock import now_ms
from sparkle_lite.config import Config
from sparkle_lite.db import accounts as account_rows
from sparkle_lite.db import bans, retention, segments
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.metrics import Metrics

# Rows that one transaction of retention deletes: some milliseconds, behind which a submission may have to wait.
CHUNK = 1000
PAUSE_S = 0.02

logger = logging.getLogger("sparkle.jobs")


class Run(NamedTuple):
    """How a job went last: when it ended (ms), how long it took (s), and why it failed, if it did."""

    ended_at: int
    seconds: float
    failure: str | None


class Jobs:
    """The loops of one server; `runs` has the last run of each, `periods` how often each runs (s).

    Once they are stopped, whoever drives the clock runs each by name; `firsts` says after how long for the first time.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: dict[str, str] = {}
        self.runs: dict[str, Run] = {}
        self.periods: dict[str, float] = {}
        self.firsts: dict[str, float] = {}
        self._work: dict[str, Callable[[], Awaitable[object]]] = {}

    def schedule(
        self,
        name: str,
        seconds: float,
        run: Callable[[], Awaitable[object]],
        *,
        first: float | None = None,
        wake: asyncio.Event | None = None,
    ) -> None:
        """Run a job every so many seconds, the first time after `first`, and whenever `wake` is set."""
        delay = seconds if first is None else first
        self.periods[name], self.firsts[name], self._work[name] = seconds, delay, run
        self._tasks.append(asyncio.create_task(self._loop(name, seconds, run, delay, wake), name=f"job {name}"))

    async def _loop(
        self, name: str, seconds: float, run: Callable[[], Awaitable[object]], delay: float, wake: asyncio.Event | None
    ) -> None:
        while True:
            if wake is None:
                await asyncio.sleep(delay)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), delay)
                wake.clear()
            delay = seconds
            await self._run(name, run)

    async def run_now(self, name: str) -> None:
        """Run a job once, counted like any other run of it; its failure is noted, not raised."""
        await self._run(name, self._work[name])

    async def _run(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        started = time.monotonic()
        try:
            await run()
        except Exception as error:
            self.failed[name] = str(error)
            self._metrics.jobs.labels(name, "failed").inc()
            logger.exception("job %s failed", name)
        else:
            self.failed.pop(name, None)
            self._metrics.jobs.labels(name, "ok").inc()
            logger.debug("job %s took %.3f s", name, time.monotonic() - started)
        took = time.monotonic() - started
        self.runs[name] = Run(now_ms(), took, self.failed.get(name))

    async def stop(self) -> None:
        """End all loops; a job that is writing gets its commit, because the writer ends after this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


class Housekeeping:
    """The jobs of the store; `measured` are the bytes stored, a minute ago at the latest."""

    def __init__(
        self, database: Database, ingest: Ingest, config: Callable[[], Config], clock: Callable[[], int]
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._config = config
        self._clock = clock
        self.measured = 0

    async def roll(self) -> None:
        """Close hot segments that have become old without becoming full."""

        async def command(main: Connection) -> None:
            for stream in self._ingest.streams.values():
                if stream.is_full(self._clock()):
                    await stream.roll(main, self._clock())
                    self._ingest.on_closed()

        if any(stream.is_full(self._clock()) for stream in self._ingest.streams.values()):
            await self._database.write(command, alone=True)

    async def index(self) -> None:
        """Index the closed segments, oldest first."""
        async with self._database.reader() as reader:
            closed = await segments.catalogue(reader, "state='closed'")
        for segment in closed:
            size = await segments.build_indexes(self._database.segment_folder, segment, self._database.synchronous)
            if size is not None:
                await self._database.write(partial(segments.mark_indexed, segment=segment.id, size=size))

    async def apply_retention(self) -> None:
        """Retention: what is older than configured, then what is more than the configured size."""
        keep, now = self._config().retention, self._clock()
        ages: dict[segments.Kind, int] = {"snapshot": keep.snapshots, "swarm": keep.swarms}
        for kind, age in ages.items():
            async with self._database.reader() as reader:
                old = await retention.expired(reader, kind, now - age)
            await self._unlink(old)
        await self._delete(lambda main: bans.delete_old(main, now - keep.bans, CHUNK))
        await self._delete(lambda main: account_rows.delete_expired(main, now, now - keep.audit, CHUNK))
        await self._delete(lambda main: retention.delete_old_addresses(main, now - keep.addresses, CHUNK))
        await self._give_back_space()
        await self._shrink(keep.max_database_size)

    async def _unlink(self, old: list[segments.SegmentRow]) -> None:
        if old:
            await self._database.write(lambda main: segments.forget(main, old))
            await asyncio.to_thread(segments.unlink, self._database.segment_folder, old)
            logger.info("removed %d old segments with %d rows", len(old), sum(segment.rows for segment in old))

    async def _delete(self, step: Callable[[Connection], Awaitable[int]]) -> None:
        async def command(main: Connection) -> bool:
            gone = await step(main)
            return gone >= CHUNK

        while await self._database.write(command):
            # Let the submissions that came meanwhile have their turn.
            await asyncio.sleep(PAUSE_S)

    async def _give_back_space(self) -> None:
        while await self._database.write(partial(bans.give_back_space, pages=CHUNK), alone=True):
            await asyncio.sleep(PAUSE_S)

    async def _shrink(self, limit: int) -> None:
        while limit and await self.size() > limit:
            async with self._database.reader() as reader:
                oldest = await retention.oldest(reader, 1)
            if not oldest:
                logger.warning("the database is larger than retention.max_database_size and has no segment to let go")
                return
            await self._unlink(oldest)

    async def measure(self) -> None:
        """Note how much is stored."""
        self.measured = await self.size()

    def wal_sizes(self) -> dict[str, float]:
        """Bytes of the write-ahead log of the main database and of each hot segment."""
        paths = {"main": self._database.path}
        paths |= {stream.kind: stream.path(stream.hot.id) for stream in self._ingest.streams.values() if stream.hot}
        sizes = {}
        for name, path in paths.items():
            sizes[name] = 0.0
            with suppress(FileNotFoundError):
                sizes[name] = float(path.with_name(path.name + "-wal").stat().st_size)
        return sizes

    async def size(self) -> int:
        """Bytes of the main database and all segments."""
        async with self._database.reader() as reader:
            stored = await retention.stored_bytes(reader)
        hot = [stream.path(stream.hot.id) for stream in self._ingest.streams.values() if stream.hot]
        return stored + await asyncio.to_thread(
            lambda: sum(segments.file_size(path) for path in (self._database.path, *hot))
        )

    async def collect(self) -> None:
        """Delete dictionary entries that no segment and no ban refers to any more."""
        dictionaries, database = self._ingest.dictionaries, self._database

        async def begin(_: Connection) -> None:
            dictionaries.begin_collection()

        async def delete(main: Connection, table: str, ids: list[int]) -> None:
            await retention.delete_entries(main, table, dictionaries.collectable(table, ids))

        async def end(_: Connection) -> None:
            dictionaries.end_collection()

        await database.write(begin, alone=True)
        try:
            unused = await retention.unreferenced(self._database.path, self._database.segment_folder)
            for table, ids in unused.items():
                for start in range(0, len(ids), CHUNK):
                    await database.write(partial(delete, table=table, ids=ids[start : start + CHUNK]))
                    await asyncio.sleep(PAUSE_S)
            logger.info("collected dictionary entries", extra={t: len(ids) for t, ids in unused.items()})
        finally:
            await database.write(end, alone=True)
