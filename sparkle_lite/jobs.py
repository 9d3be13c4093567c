"""Periodic jobs: flush, index, apply retention, publish what has expired, run the analyses.

Every job is a named loop of its own that never overlaps with itself, is counted, and lives on after a failure.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from sparkle_lite.clock import JUMP_MS, now_ms
from sparkle_lite.config import Config, RetentionSection
from sparkle_lite.db import accounts as account_rows
from sparkle_lite.db import aside, bans, retention, rewriting, segments, stamps
from sparkle_lite.db.connection import Connection, empty_log, transaction
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import FileFault
from sparkle_lite.db.segments import SegmentRow
from sparkle_lite.errors import SaidError, SparkleError
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.metrics import Metrics
from sparkle_lite.texts import ENGLISH
from sparkle_lite.timekeeping import Timekeeping
from sparkle_lite.units import INT64_MAX, KIB, MIB

# Rows that one transaction of retention deletes: some milliseconds, behind which a submission may have to wait.
CHUNK = 1000
PAUSE_S = 0.02
# Fewer where they are the ones with the longest texts.
_WIDE_CHUNK = 200
# What is freed at once at the least while several store about as much, and what it is worth closing a hot segment for.
_STEP, _WORTH_CLOSING = MIB, 64 * KIB
# How often unused names are looked for while the size is brought below its limit: it reads everything.
_COLLECTIONS = 3
# What part of the limit is freed beyond it.
_SLACK = 50
# And of what part of the limit observations and bans are never robbed by what can't go.
_ROOM = 4

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
            # Without the paths that are for the log.
            self.failed[name] = error.text(ENGLISH) if isinstance(error, SaidError) else str(error)
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


class _Share(NamedTuple):
    """A segment, and about how many bytes of it are whose: by application (row id)."""

    segment: SegmentRow
    shares: dict[int, int]


class _Weighed(NamedTuple):
    """About how many bytes each application (row id) stores: as bans, as rows of segments, and together."""

    of_bans: Counter[int]
    of_rows: Counter[int]
    total: Counter[int]
    places: list[_Share]


class Housekeeping:
    """The jobs of the store; `measured` are the bytes stored, a minute ago at the latest, `clock` what they go by."""

    def __init__(
        self, database: Database, ingest: Ingest, config: Callable[[], Config], timekeeping: Timekeeping
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._config = config
        self._time = timekeeping
        self.clock = timekeeping.clock.settled
        # Closed segments are changed by one job at a time.
        self._changing = asyncio.Lock()
        # How many rows of which application a closed segment has, by its id and rows.
        self._shares: dict[tuple[int, int], dict[int, int]] = {}
        self.measured = 0

    async def roll(self) -> None:
        """Close hot segments that have become old without becoming full."""

        async def command(main: Connection) -> None:
            for stream in self._ingest.streams.values():
                if stream.is_full(self.clock()):
                    await stream.roll(main, self.clock())
                    self._ingest.on_closed()

        if any(stream.is_full(self.clock()) for stream in self._ingest.streams.values()):
            await self._database.write(command, alone=True)

    async def index(self) -> None:
        """Index the closed segments, oldest first."""
        async with self._changing:
            async with self._database.reader() as reader:
                closed = await segments.catalogue(reader, "state='closed'")
            for segment in closed:
                try:
                    size = await segments.build_indexes(
                        self._database.segment_folder, segment, self._database.synchronous
                    )
                except FileFault as fault:
                    # One that can't be read must not keep the others from their indexes.
                    if not await self._ingest.keeper.suspect(segment.id):
                        raise
                    logger.warning("not indexed: %s", fault)
                    continue
                if size is not None:
                    await self._database.write(partial(segments.mark_indexed, segment=segment.id, size=size))

    async def apply_retention(self) -> None:
        """Retention: what is older than configured, then what is more than the configured size.

        While the clock isn't believed nothing is deleted for its age; afterwards what was stamped ahead is brought back
        first.
        """
        keep = self._config().retention
        if self._time.clock.doubt is None:
            if self._time.needs_mending:
                await self._mend()
            await self._let_go_of_old(keep, self.clock())
        await self._give_back_space()
        if keep.max_database_size:
            await self._shrink(keep.max_database_size)

    async def _let_go_of_old(self, keep: RetentionSection, now: int) -> None:
        ages: dict[segments.Kind, int] = {"snapshot": keep.snapshots, "swarm": keep.swarms}
        for kind, age in ages.items():
            async with self._database.reader() as reader:
                old = await retention.expired(reader, kind, now - age)
            await self._unlink(old)
            await self._database.write(partial(aside.drop_expired, kind=kind, before_ms=now - age))
        await self._delete(lambda main: bans.delete_old(main, now - keep.bans, CHUNK))
        await self._delete(lambda main: account_rows.delete_expired(main, now, now - keep.audit, CHUNK))
        await self._delete(lambda main: retention.delete_old_addresses(main, now - keep.addresses, CHUNK))

    async def _mend(self) -> None:
        """Bring what was stamped by a clock that was ahead to now, so that it is kept and deleted like all else."""
        now, doubts = self.clock(), self._time.clock.doubts
        ahead = now + JUMP_MS

        async def mend_hot(_: Connection) -> None:
            for stream in self._ingest.streams.values():
                await stream.mend(now, ahead)

        await self._database.write(mend_hot, alone=True)
        async with self._changing:
            async with self._database.reader() as reader:
                late = await segments.catalogue(reader, "state<>'hot' AND last_received_at>?", (ahead,))
            for segment in late:
                try:
                    await self._rewrite(segment, until=now)
                except SparkleError as error:
                    # It costs its own rows alone, and goes with those that follow it.
                    logger.error("segment %d keeps times that are yet to come: %s", segment.id, error)
        await self._delete(lambda main: stamps.mend_bans(main, now, ahead, CHUNK))
        await self._database.write(lambda main: stamps.mend(main, now, ahead))
        await self._time.mended(doubts)
        logger.info("brought back what was stamped ahead", extra={"segments": len(late)})

    async def _rewrite(self, segment: SegmentRow, *, without: int | None = None, until: int = INT64_MAX) -> int:
        """Put a closed segment's rewritten form (db/rewriting.py) in its place; how many rows are gone.

        Where nothing is left, the segment goes. The lock of changes is held.
        """
        folder, database = self._database.segment_folder, self._database
        fresh = await rewriting.rewrite(folder, segment, database.synchronous, without=without, until=until)
        if not fresh.rows:
            await self._unlink([segment])
            await asyncio.to_thread(rewriting.discard_rewritten, folder, segment)
            return segment.rows
        await database.write(lambda main: rewriting.announce(main, fresh))

        async def take_place(main: Connection) -> None:
            # Both on the writer's task: whoever judges a file by what the catalogue says of it does so there.
            await asyncio.to_thread(rewriting.replace, folder, fresh)
            async with transaction(main):
                await rewriting.enter(main, fresh)

        await database.write(take_place, alone=True)
        return segment.rows - fresh.rows

    async def _unlink(self, old: list[SegmentRow]) -> None:
        """Let whole segments go."""
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

    # --- The limit of the size ----------------------------------------------------------------------------------------

    async def _shrink(self, limit: int) -> None:
        """Let go of the oldest of whoever stores most until the whole is within the limit.

        What is weighed is what is in use, so that space that is being given back costs nobody anything. Where accounts,
        decisions and the audit alone are about as large as the limit, all that was reported would go for nothing: a
        part of the limit stays for that, and the whole is larger.
        """
        if await self.size() <= limit:
            return
        await self._empty_logs()
        if await self.size() <= limit:
            return
        touched: set[int] = set()
        # Some more than needed, or what comes in meanwhile would have to be met a few rows at a time.
        limit -= limit // _SLACK
        names = await self._entry_bytes()
        while True:
            weighed, used = await self._weigh(), await self._used()
            goal = max(limit, used - weighed.total.total() - names + limit // _ROOM)
            if (excess := used - goal) <= 0:
                break
            userapp = next((each for each, _ in weighed.total.most_common()), None)
            if userapp not in touched and 0 < len(touched) <= _COLLECTIONS:
                # Before another one loses anything: torrents and names that only those had.
                await self.collect()
                names, excess = await self._entry_bytes(), await self._used() - goal
            if excess > 0 and not await self._free(excess, weighed, touched):
                goal = used
                break
        if goal > limit:
            logger.warning("the database is larger than retention.max_database_size, and nothing more can go")
        await self.collect()
        await self._give_back_space()
        await self._empty_logs()

    async def _empty_logs(self) -> None:
        async def command(main: Connection) -> None:
            for connection in (main, *(stream.connection for stream in self._ingest.streams.values())):
                await empty_log(connection)

        await self._database.write(command, alone=True)

    async def _used(self) -> int:
        """Bytes in use: of the main database, and of all segments."""
        async with self._database.reader() as reader:
            used = await retention.stored_bytes(reader) + await bans.used_bytes(reader)
        hot = [stream.hot for stream in self._ingest.streams.values() if stream.hot]
        return used + sum([await segments.used_bytes(self._database.segment_folder, each) for each in hot])

    async def _entry_bytes(self) -> int:
        async with self._database.reader() as reader:
            return await retention.entry_bytes(reader)

    async def _free(self, excess: int, weighed: _Weighed, touched: set[int]) -> bool:
        """Let go of some of what the application has that stores most; whether there was anything."""
        of_bans, of_rows, total, places = weighed
        for place, (userapp, weight) in enumerate(ranked := total.most_common()):
            touched.add(userapp)
            following = ranked[place + 1][1] if place + 1 < len(ranked) else 0
            # No more than until another one stores most.
            step = min(excess, max(weight - following, _STEP))
            if of_bans[userapp] >= of_rows[userapp]:
                freed = await self._free_bans(userapp, step) or await self._free_rows(userapp, places)
            else:
                freed = await self._free_rows(userapp, places) or await self._free_bans(userapp, step)
            if freed:
                return True
        return False

    async def _weigh(self) -> _Weighed:
        async with self._database.reader() as reader:
            of_bans = Counter(await bans.weights(reader))
            chain = await segments.catalogue(reader)
        of_rows, places = await self._weigh_rows(chain)
        return _Weighed(of_bans, of_rows, of_bans + of_rows, places)

    async def _weigh_rows(self, chain: Iterable[SegmentRow]) -> tuple[Counter[int], list[_Share]]:
        """About how many bytes the rows of each application take, and where they are, oldest segment first."""
        weights: Counter[int] = Counter()
        places = []
        for segment in chain:
            known = self._shares.get((segment.id, segment.rows))
            if known is None:
                try:
                    known = await segments.rows_by_userapp(self._database.segment_folder, segment)
                except SparkleError as error:
                    logger.error("segment %d can't be weighed: %s", segment.id, error)
                    continue
            size = segment.bytes
            if segment.state == "hot":
                size = await segments.used_bytes(self._database.segment_folder, segment)
            else:
                self._shares[segment.id, segment.rows] = known
            each = size / max(1, sum(known.values()))
            mine = {userapp: int(rows * each) for userapp, rows in known.items() if rows}
            weights.update(mine)
            places.append(_Share(segment, mine))
        kept = {(place.segment.id, place.segment.rows) for place in places}
        self._shares = {key: share for key, share in self._shares.items() if key in kept}
        places.sort(key=lambda place: (place.segment.state == "hot", place.segment.last_received_at or 0))
        return weights, places

    async def _free_bans(self, userapp: int, size: int) -> bool:
        """Delete the first bans of an application that take about so many bytes, and bodies that nothing is left of."""
        freed, empty_before = 0, self.clock()
        while freed < size:
            async with self._database.reader() as reader:
                ids, weight = await bans.oldest_of(reader, userapp, size - freed, _WIDE_CHUNK)
            if not ids:
                break
            freed += weight
            await self._database.write(partial(bans.delete, ids=ids))
            await asyncio.sleep(PAUSE_S)

        async def delete_bodies(main: Connection) -> int:
            nonlocal freed
            gone = await bans.delete_empty_bodies_of(main, userapp, empty_before, CHUNK)
            freed += gone
            return gone

        await self._delete(delete_bodies)
        return freed > 0

    async def _free_rows(self, userapp: int, places: Iterable[_Share]) -> bool:
        """Take the rows of an application out of the oldest segment that has some; a hot one is closed for it."""
        for segment, shares in places:
            if shares.get(userapp, 0) < (_WORTH_CLOSING if segment.state == "hot" else 1):
                continue
            if segment.state == "hot":
                return await self._close(self._ingest.streams[segment.kind])
            async with self._changing:
                if len(shares) == 1:
                    await self._unlink([segment])
                    return True
                try:
                    gone = await self._rewrite(segment, without=userapp)
                except SparkleError as error:
                    logger.error("nothing can be taken out of segment %d: %s", segment.id, error)
                    continue
            logger.info("took %d rows of one application out of a segment", gone, extra={"segment": segment.id})
            return gone > 0
        return False

    async def _close(self, stream: segments.Stream) -> bool:
        """Close a hot segment, so that rows can be taken out of it."""

        async def command(main: Connection) -> None:
            await stream.roll(main, self.clock())
            self._ingest.on_closed()

        await self._database.write(command, alone=True)
        return True

    # --- Sizes --------------------------------------------------------------------------------------------------------

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
        async with database.reader() as reader:
            if await aside.rows(reader):
                # What waits to be served again refers to entries that nothing else may refer to.
                return

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
