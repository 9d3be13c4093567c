"""The way of a peer from a client's body to a durable row.

A request queues its still compressed body. What has arrived together is one group: it is inflated, decoded, cleaned and
inserted in one visit to a segment's own thread, and committed together. Where the dictionaries lack something, or there
are bans, the main database is written in between and committed first. Only then does each request get its answer. A
body that came before (repeats.py) is answered, and not stored again.

Applications take turns, and who has cost least goes first. A body that takes long to read is read elsewhere
(reading.py) and stored in portions, between which others have their turn.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sparkle_lite.clock import JUMP_MS
from sparkle_lite.config import LimitsSection
from sparkle_lite.db import bans, rewriting, segments
from sparkle_lite.db.connection import connect_readonly, still_uri, transaction
from sparkle_lite.db.database import Database
from sparkle_lite.db.dictionaries import Dictionaries, NeededEntries, Resolved
from sparkle_lite.db.faults import FileFault
from sparkle_lite.db.keeper import Keeper
from sparkle_lite.db.segments import NO_ROWS, HotFault, Kind, Rows, Stream, SubmissionRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.ingest.cleaning import Cleaner, Reporter, repeats_our_rules
from sparkle_lite.ingest.memory import MemoryBudget
from sparkle_lite.ingest.quotas import DailyQuotas, Kept
from sparkle_lite.ingest.reading import (
    LIGHT_BYTES,
    LIGHT_BYTES_OF_GREEDY,
    PatientReader,
    ReadBody,
    ReadOrder,
    digest_of,
    looks_large,
)
from sparkle_lite.ingest.repeats import DIGESTS, STREAMS, LastSightings, RecentDigests
from sparkle_lite.ingest.trouble import CLOCK_MS, Receipt
from sparkle_lite.metrics import Metrics
from sparkle_lite.turns import Costs, Owner, Turns
from sparkle_lite.units import DAY_MS, MIB
from sparkle_lite.wire.bodies import Batch, Laborious, PeerBan, PeerSnapshot, PeerSwarm, decode, inflate
from sparkle_lite.wire.dialect import Dialect, Shape
from sparkle_lite.wire.packed import portions

# Bodies that wait behind a group are inflated ahead on a thread of their own, so many inflated bytes of them at a time;
# below so many compressed bytes the hand-over costs more than it gains.
AHEAD_BYTES = 8 * MIB
WORTH_AHEAD = 8_192

# A group ends with so many inflated bytes or rows, or after so many s of work where somebody waits who has no part in
# it: nobody waits long behind others.
_GROUP_BYTES, _GROUP_ROWS, _GROUP_S = 4 * MIB, 20_000, 0.01

# Rows of one portion of a large body (a body that comes again is known by its portions, so they are always as large),
# and what one weighs in a group, where a body weighs its compressed bytes.
PORTION_ROWS = 1_000
_ROW_WEIGHT = 40

# What a body costs (s) beside the time that reading and cleaning it takes: for itself, for each byte inflated, each row
# stored, each row rejected.
_BODY_S, _BYTE_S, _ROW_S, _REJECTED_S = 1e-4, 5e-9, 2e-6, 1e-5

# The same (s) for what goes to the main database, which takes longest: each new entry of a dictionary, each ban.
_ENTRY_S, _BAN_S = 4e-5, 5e-5
# With so many of those a group ends, and a body that has more by itself is stored in portions.
_GROUP_ENTRIES = 1_000
logger = logging.getLogger("sparkle.ingest")


class Outcome(NamedTuple):
    """What became of a body: rows stored or known already, rows dropped, and what it shows of its sender.

    `receipt` is None for a body that was stored before: it shows nothing new.
    """

    accepted: int
    rejected: int
    receipt: Receipt | None = None


class Inflated(NamedTuple):
    """A body's plain bytes, whether there were more than are kept, and the digest that tells it again."""

    data: bytes
    cut_off: bool
    digest: bytes


@dataclass(kw_only=True, slots=True, eq=False)
class Submission:
    """A body that waits for its commit, as it came from the network, or a portion of one that was read elsewhere.

    `ahead` may hold what it inflates to, which may be as much as `light` before it is read elsewhere; `read` are the
    rows and the digest of the body that a portion is of, and `number` the portion's, None for a whole one. It counts as
    received when it is taken for a group, at `received_at`; `settled_at` is the same where the clock is believed.
    """

    owner: Owner
    address: bytes | None
    received_at: int = 0
    settled_at: int = 0
    body: bytes = b""
    encoding: str = ""
    dialect: Dialect
    outcome: asyncio.Future[Outcome]
    ahead: Future[Inflated | None] | None = None
    light: int = LIGHT_BYTES
    read: ReadBody | None = None
    number: int | None = None

    @property
    def userapp(self) -> int:
        """The application that it came from (row id)."""
        return self.owner.userapp

    @property
    def weight(self) -> int:
        """What it counts for in a group."""
        return len(self.body) if self.read is None else _ROW_WEIGHT * self.read.batch.rows


class _Decoded(NamedTuple):
    """A decoded body: whose it is, its rows, and how many of them are rejected, by reason."""

    job: Submission
    who: Reporter
    batch: Batch
    digest: bytes
    rejected: Counter[str]

    def submission(self, number: int, *, kept: int, sent: int) -> SubmissionRow:
        """What is stored of it beside its rows in one stream."""
        return SubmissionRow(
            id=number,
            received_at=self.job.received_at,
            userapp=self.job.userapp,
            address=self.job.address,
            populate_time=self.batch.populate_time,
            digest=self.digest,
            rows=kept,
            rejected=sent - kept,
        )


class _Part(NamedTuple):
    """The rows of one body in one stream: its place in the flat list of values."""

    submission: SubmissionRow
    start: int
    end: int


class _Group:
    """What has arrived together, and what becomes of it on a segment's thread until it is committed."""

    def __init__(self, waiting: Sequence[Submission], clean: Cleaner, wanted: NeededEntries) -> None:
        self.waiting = deque(waiting)
        self.costs: dict[Owner, float] = defaultdict(float)
        self.inflated = self.rows_read = 0
        self.clean = clean
        self.wanted = wanted
        self.prepared_at = time.perf_counter()
        self.jobs: list[Submission] = []
        self.failed: dict[int, BaseException] = {}
        self.rejected: dict[int, Counter[str]] = {}
        self.receipts: dict[int, Receipt] = {}
        self.accepted: Counter[int] = Counter()
        self.values: dict[Kind, list[Any]] = {kind: [] for kind in segments.KINDS}
        self.parts: dict[Kind, list[_Part]] = {kind: [] for kind in segments.KINDS}
        self.bans: list[bans.Report] = []
        self.ban_submissions: list[SubmissionRow] = []
        self.reported_bans = self.new_bans = 0
        self.duplicates = self.duplicate_bodies = 0
        self.said: dict[int, int] = {}
        self.unchanged = 0
        # By application: rows that are to be stored, and bytes of text that were.
        self.rows_of: Counter[int] = Counter()
        self.text_of: Counter[int] = Counter()
        self.digests: set[tuple[str, bytes]] = set()

    @property
    def needs_main(self) -> bool:
        """Whether the main database must be written before the rows can be."""
        return bool(self.wanted) or bool(self.ban_submissions)

    def rows(self, kind: Kind) -> Rows:
        """What is to be inserted into a stream."""
        return Rows(self.values[kind], [part.submission for part in self.parts[kind]])


# Where a kind's stand-in ids may be, for each dictionary.
_PLACES: dict[Kind, Resolved[tuple[int, ...]]] = {}


for _kind in segments.KINDS:
    _names = segments.columns(_kind)
    _PLACES[_kind] = Resolved(
        (_names.index("torrent"),),
        (_names.index("client"),),
        tuple(_names.index(name) for name in ("flags", "downloader") if name in _names),
    )


_WIDTH: dict[Kind, int] = {kind: len(segments.columns(kind)) for kind in segments.KINDS}
_CLIENT: dict[Kind, int] = {kind: segments.columns(kind).index("client") for kind in segments.KINDS}


class Ingest:
    """Takes submissions and commits them. One for a server."""

    def __init__(
        self,
        database: Database,
        limits: Callable[[], LimitsSection],
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        settled: Callable[[], int] | None = None,
        is_evidence: Callable[[str, str | None], bool] = lambda module, rule: True,
    ) -> None:
        """`clock` stamps what is received; `settled` is the time that is believed, where that is another.

        `is_evidence` says of a ban's module and rule whether it counts for an analysis.
        """
        self._database = database
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._settled = settled or clock
        self._is_evidence = is_evidence
        self._inflater = ThreadPoolExecutor(1, thread_name_prefix="inflate")
        costs = Costs()
        self._turns: Turns[Submission] = Turns(costs, lambda job: job.owner)
        self._costs = costs
        self._reading = PatientReader(costs)
        # Inflated bytes so far: found ahead, and taken from there. Each is counted by one thread alone.
        self._found_ahead = self._taken_ahead = 0
        self._seen: dict[str, RecentDigests] = {stream: RecentDigests() for stream in STREAMS}
        self._last_sightings = LastSightings()
        self._last_ban_submission = 0
        self._last_receipt = 0
        self.dictionaries = Dictionaries()
        self.streams = database.streams()
        self.keeper = Keeper(database, self.streams, self._settled)
        self.quotas = DailyQuotas(limits, self._settled)
        self.memory = MemoryBudget(limits().queue_size, lambda: limits().max_body_size)
        self.on_closed: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Take up the hot segments and the digests of the last 24 hours, and begin to write."""
        database, now = self._database, self._settled()
        if not database.is_still:
            await rewriting.finish_rewriting(database.main, database.segment_folder)
        await self.keeper.reconcile()
        if database.is_still:
            await self._open_still()
            return
        for kind, stream in self.streams.items():
            await stream.open(database.main, now)
            for at, digest in await stream.recent_digests(database.main, now - DAY_MS, DIGESTS):
                # What was stamped ahead came by now; an hour to come would push the others out.
                self._seen[kind].add(digest, min(at, now))
        for at, digest in await bans.recent_digests(database.main, now - DAY_MS, DIGESTS):
            self._seen["ban"].add(digest, min(at, now))
        self._last_ban_submission = await bans.last_submission(database.main)
        database.start_writing(self._store, lambda job: job.weight, self._turns)

    async def _open_still(self) -> None:
        """Know what the hot segments hold, for those who ask; nothing can be written."""
        for stream in self.streams.values():
            await stream.look_at(self._database.main)
            if stream.hot is None or stream.hot.id in self.keeper.skipped:
                continue
            path = stream.path(stream.hot.id)
            connection = await connect_readonly(path, uri=await asyncio.to_thread(still_uri, path))
            try:
                await stream.count(connection)
            finally:
                await connection.close()

    async def close(self) -> None:
        """Commit what is queued, then close the streams."""
        await self._reading.close()
        await self._database.stop_writing()
        for stream in self.streams.values():
            await stream.close()
        self._inflater.shutdown()

    async def submit(
        self,
        owner: Owner,
        address: bytes | None,
        body: bytes,
        encoding: str,
        dialect: Dialect,
    ) -> Outcome:
        """Store a body; returns when it is committed.

        Raises SparkleError for a body that isn't readable, beyond the sender's daily share, or when the database can't
        be written.
        """
        if self._database.is_still:
            raise SparkleError("overloaded", "database.still", retry_after=30)
        light = LIGHT_BYTES_OF_GREEDY if self._costs.takes_too_much(owner) else LIGHT_BYTES
        if not looks_large(body, light):
            with suppress(Laborious):
                return await self._store_whole(
                    self._waiting(owner, address, dialect, body=body, encoding=encoding, light=light)
                )
        limits = self._limits()
        order = ReadOrder(
            owner=owner,
            body=body,
            encoding=encoding,
            max_inflated=limits.max_inflated_size,
            max_rows=limits.max_rows_per_request,
            offsets_add=dialect.traits.offsets_add,
        )
        async with self._reading.read(order) as (batch, digest):
            made = list(portions(batch, PORTION_ROWS))
            parts = [
                self._waiting(owner, address, dialect, read=ReadBody(portion, digest), number=number)
                for number, portion in enumerate(made)
            ]
            if len(parts) == 1:
                parts[0].number = None
            del batch, made
            for part in parts:
                self._database.writer.submit(part)
            # None may be left behind whose failure nobody has heard of.
            outcomes = await asyncio.gather(*(part.outcome for part in parts), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return _joined([outcome for outcome in outcomes if not isinstance(outcome, BaseException)])

    def _waiting(self, owner: Owner, address: bytes | None, dialect: Dialect, **what: Any) -> Submission:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        return Submission(owner=owner, address=address, dialect=dialect, outcome=outcome, **what)

    async def _store_whole(self, job: Submission) -> Outcome:
        """Store a body in one piece. Raises as `submit`, and Laborious for one that takes long to read."""
        writer = self._database.writer
        if writer.busy and len(job.body) >= WORTH_AHEAD:
            job.ahead = self._inflater.submit(self._inflate_ahead, job)
        elif not writer.busy:
            # Nothing waits, so nothing is held, whatever became of what was.
            self._taken_ahead = self._found_ahead
        writer.submit(job)
        return await job.outcome

    # --- Beside the group before: inflating ahead ---------------------------------------------------------------------

    def _inflate_ahead(self, job: Submission) -> Inflated | None:
        """What a body inflates to, unless so much waits already; this takes turns with the group that is being stored.

        Inflating and hashing need no interpreter lock, and are a quarter of the work on a large body.
        """
        if self._found_ahead - self._taken_ahead >= AHEAD_BYTES:
            return None
        inflated = self._inflate(job)
        self._found_ahead += len(inflated.data)
        return inflated

    def _inflate(self, job: Submission) -> Inflated:
        most = self._limits().max_inflated_size
        data, cut_off = inflate(job.body, job.encoding, min(most, job.light))
        if cut_off and most > job.light:
            raise Laborious
        return Inflated(data, cut_off, digest_of(job.userapp, data))

    def _inflated(self, job: Submission) -> Inflated:
        """What a body inflates to: as it was found ahead, or found now. Raises SparkleError as `inflate` does."""
        ahead, job.ahead = job.ahead, None
        # What has not been begun by now is quicker done here.
        if ahead is None or ahead.cancel() or (found := ahead.result()) is None:
            return self._inflate(job)
        self._taken_ahead += len(found.data)
        return found

    # --- On a segment's thread: from bodies to values -----------------------------------------------------------------

    def _make(self, group: _Group, kind: Kind) -> Rows:
        """Prepare a group; its rows of this kind, unless they have to wait for ids from the main database."""
        self._prepare(group)
        group.prepared_at = time.perf_counter()
        return NO_ROWS if group.needs_main else group.rows(kind)

    def _prepare(self, group: _Group) -> None:
        limits = self._limits()
        started = time.thread_time()
        while group.waiting and not self._is_enough(group, time.thread_time() - started):
            job = group.waiting.popleft()
            number, began = len(group.jobs), time.thread_time()
            group.jobs.append(job)
            try:
                self.quotas.require(job.userapp, group.rows_of[job.userapp])
                batch, digest = job.read or self._decoded(group, job, limits.max_rows_per_request)
                if job.number is not None:
                    digest = _digest_of_portion(digest, job.number)
                if not job.dialect.traits.knows_its_progress:
                    for row in (*batch.snapshots, *batch.bans):
                        row.downloader_progress = None
                who = Reporter(job.userapp, job.received_at, job.dialect.traits)
                body = _Decoded(job, who, batch, digest, Counter(batch.rejected))
                entries = len(group.wanted)
                self._clean(group, number, body)
                group.costs[job.owner] += _ENTRY_S * (len(group.wanted) - entries) + _BAN_S * len(batch.bans)
                group.rows_read += batch.rows
                group.costs[job.owner] += _ROW_S * batch.rows + _REJECTED_S * body.rejected.total()
            except Exception as error:
                if not isinstance(error, SparkleError | Laborious):
                    logger.exception("a body could not be decoded")
                # A traceback would keep the inflated body alive until the collector comes by.
                group.failed[number] = error.with_traceback(None)
            group.costs[job.owner] += _BODY_S + time.thread_time() - began
        group.bans = bans.joined(group.bans)

    def _is_enough(self, group: _Group, seconds: float) -> bool:
        """Whether what of a group isn't prepared after so many s of work has to wait for the next one."""
        if group.inflated >= _GROUP_BYTES or group.rows_read >= _GROUP_ROWS:
            return True
        if len(group.wanted) + len(group.bans) >= _GROUP_ENTRIES:
            return True
        return seconds >= _GROUP_S and self._turns.beside({job.owner for job in group.jobs})

    def _decoded(self, group: _Group, job: Submission, max_rows: int) -> tuple[Batch, bytes]:
        """A body's rows and digest. Raises SparkleError or Laborious."""
        data, cut_off, digest = self._inflated(job)
        group.inflated += len(data)
        group.costs[job.owner] += _BYTE_S * len(data)
        batch = decode(data, max_rows, offsets_add=job.dialect.traits.offsets_add, cut_off=cut_off, patient=False)
        if batch.rows > PORTION_ROWS and (
            self._was_in_portions(digest, job.settled_at) or group.clean.unknown(batch) > _GROUP_ENTRIES
        ):
            raise Laborious
        return batch, digest

    def _clean(self, group: _Group, number: int, body: _Decoded) -> None:
        batch, duplicates = body.batch, group.duplicates
        sent: dict[Kind, int] = {"snapshot": len(batch.snapshots), "swarm": len(batch.swarms)}
        for kind, rows in sent.items():
            if rows and self._is_duplicate(group, kind, body):
                group.accepted[number] += rows
            elif rows:
                group.accepted[number] += self._add_part(group, kind, body)
        if batch.bans and self._is_duplicate(group, "ban", body):
            group.accepted[number] += len(batch.bans)
        elif batch.bans:
            group.accepted[number] += self._add_bans(group, body)
        if body.rejected:
            group.rejected[number] = body.rejected
        if group.duplicates == duplicates:
            group.receipts[number] = self._receipt(body, group.accepted[number])

    def _receipt(self, body: _Decoded, kept: int) -> Receipt:
        """What a body shows of its sender."""
        batch, rejected, at_ms = body.batch, body.rejected, body.job.received_at
        time_named = _newest_time(batch, at_ms) if batch.populate_time is None else batch.populate_time
        judged = [ban for ban in batch.bans if not repeats_our_rules(ban)]
        return Receipt(
            kept=kept,
            rejected=rejected,
            are_networks=not kept and "bad_address" in rejected and _are_networks(batch),
            is_cut_off=batch.cut_off or "too_many_rows" in rejected,
            clock_off=None if time_named is None else time_named - at_ms,
            by_rows=batch.populate_time is None,
            has_evidence=any(self._is_evidence(ban.module, ban.rule) for ban in judged) if judged else None,
        )

    def _add_bans(self, group: _Group, body: _Decoded) -> int:
        """Add a body's bans; how many are kept."""
        self._last_ban_submission += 1
        number, batch = self._last_ban_submission, body.batch
        made = group.clean.bans(body.who, batch.bans, number, batch.populate_time, body.rejected)
        group.bans += made
        group.rows_of[body.job.userapp] += len(made)
        group.reported_bans += len(made)
        group.ban_submissions.append(body.submission(number, kept=len(made), sent=len(batch.bans)))
        return len(made)

    def _add_part(self, group: _Group, kind: Kind, body: _Decoded) -> int:
        """Add a body's rows to a stream's values; how many are kept, or say nothing new."""
        who, batch, rejected = body.who, body.batch, body.rejected
        number, values = self.streams[kind].next_submission(), group.values[kind]
        dropped = rejected.total()
        if kind == "swarm":
            sent, made = len(batch.swarms), group.clean.swarms(who, batch.swarms, number, rejected)
        elif who.traits.unchanged_rows_are_sightings:
            sent, made = len(batch.snapshots), group.clean.snapshots(who, batch.snapshots, number, rejected)
        else:
            said: dict[int, int] = {}
            changed = self._last_sightings.changed(who.userapp, batch.snapshots, rejected, group.said, said)
            sent, made = len(batch.snapshots), group.clean.snapshots(who, changed, number, rejected)
            group.said |= said
        kept = len(made) // _WIDTH[kind]
        group.rows_of[who.userapp] += kept
        unchanged = sent - kept - (rejected.total() - dropped)
        group.unchanged += unchanged
        submission = body.submission(number, kept=kept, sent=sent - unchanged)
        part = _Part(submission, len(values), len(values) + len(made))
        group.parts[kind].append(part)
        values += made
        return kept + unchanged

    def _is_duplicate(self, group: _Group, stream: str, body: _Decoded) -> bool:
        digest, whole = body.digest, body.job.read.digest if body.job.read else body.digest
        for each in {digest, whole}:
            if (stream, each) in group.digests or self._seen[stream].has(each, body.job.settled_at):
                group.duplicates += 1
                # A body that comes in portions is one body.
                group.duplicate_bodies += not body.job.number
                return True
        group.digests.add((stream, digest))
        return False

    def _was_in_portions(self, digest: bytes, at_ms: int) -> bool:
        """Whether a body came before and was stored in portions, perhaps not all of them."""
        first = _digest_of_portion(digest, 0)
        return any(seen.has(first, at_ms) for seen in self._seen.values())

    # --- On the writer task: from values to files ---------------------------------------------------------------------

    async def _store(self, jobs: list[Submission], attempt: int = 1) -> list[Submission]:
        """Commit what has arrived together; returns what was too much for one group."""
        wanted = NeededEntries()
        group = _Group(jobs, Cleaner(self.dictionaries, wanted), wanted)
        # Never backwards, whatever the clock does.
        now, settled = self._clock(), self._settled()
        if now > self._last_receipt or self._last_receipt - now > JUMP_MS:
            # Not backwards by the little that a clock is corrected: what stands later in a segment was received later.
            # A clock that was ahead and is so no more is followed, or all would be stamped ahead for ever.
            self._last_receipt = now
        for job in jobs:
            job.received_at, job.settled_at = self._last_receipt, settled
        try:
            self._database.require_whole()
            await self._write(group)
        except HotFault as fault:
            return await self._store_elsewhere(jobs, group, fault, attempt)
        except SparkleError as error:
            self._database.is_doubted |= isinstance(error, FileFault)
            self._fail(group, error)
        except Exception as error:
            await self._one_by_one(group, error)
        else:
            self._answer(group)
            self._metrics.commit_seconds.observe(time.perf_counter() - group.prepared_at)
        for owner, seconds in group.costs.items():
            self._costs.charge(owner, seconds)
        return list(group.waiting)

    async def _store_elsewhere(
        self, jobs: list[Submission], group: _Group, fault: HotFault, attempt: int
    ) -> list[Submission]:
        """Store a group once more, in another file; what was stored of it already is known by its digest."""
        try:
            await self.keeper.mend(self._database.main, fault)
        except (SparkleError, OSError) as error:
            logger.exception("a damaged hot segment can't be replaced")
            self._fail(group, error)
            return list(group.waiting)
        if attempt > len(self.streams):
            self._fail(group, SparkleError("overloaded", "query.changing", retry_after=30))
            return list(group.waiting)
        return await self._store([job for job in jobs if not job.outcome.done()], attempt + 1)

    async def _one_by_one(self, group: _Group, error: Exception) -> None:
        """A fault that only one body of a group causes must not cost the others."""
        logger.error("a group of %d submissions could not be stored", len(group.jobs), exc_info=error)
        if len(group.jobs) <= 1:
            self._fail(group, error)
            return
        for job in group.jobs:
            await self._store([job])

    def _fail(self, group: _Group, error: BaseException) -> None:
        """Refuse every submission of a group; one that isn't readable keeps its own reason."""
        if not group.jobs:
            # The segment could not even be begun with.
            group.jobs, group.waiting = list(group.waiting), deque()
        for number, job in enumerate(group.jobs):
            if not job.outcome.done():
                job.outcome.set_exception(group.failed.get(number, error))

    def _answer(self, group: _Group) -> None:
        for kind, parts in group.parts.items():
            if parts:
                self._metrics.accepted.labels(kind).inc(sum(part.submission.rows for part in parts))
        if group.ban_submissions:
            self._metrics.accepted.labels("ban").inc(group.new_bans)
            self._metrics.duplicates.labels("ban").inc(group.reported_bans - group.new_bans)
        if group.unchanged:
            self._metrics.duplicates.labels("row").inc(group.unchanged)
        if group.duplicate_bodies:
            self._metrics.duplicates.labels("body").inc(group.duplicate_bodies)
        for number, job in enumerate(group.jobs):
            if job.outcome.done():
                continue
            error = group.failed.get(number)
            if error is not None:
                job.outcome.set_exception(error)
                continue
            rejected = group.rejected.get(number)
            for reason, count in rejected.items() if rejected else ():
                self._metrics.rejected.labels(reason).inc(count)
            job.outcome.set_result(
                Outcome(group.accepted[number], rejected.total() if rejected else 0, group.receipts.get(number))
            )

    async def _write(self, group: _Group) -> None:
        first = self.streams["swarm" if group.waiting[0].dialect.traits.shape is Shape.MODERN else "snapshot"]
        begun = [first]
        try:
            await first.append(partial(self._make, group, first.kind))
            if group.needs_main:
                await self._write_main(group)
                if group.parts[first.kind]:
                    await first.append(partial(group.rows, first.kind))
            for kind, stream in self.streams.items():
                if stream is not first and group.parts[kind]:
                    begun.append(stream)
                    await stream.append(partial(group.rows, kind))
            for stream in list(begun):
                if group.parts[stream.kind]:
                    await self._commit(group, stream)
                    begun.remove(stream)
        finally:
            # What failed, and what turned out to have nothing for its segment.
            for stream in begun:
                await stream.roll_back()

    async def _commit(self, group: _Group, stream: Stream) -> None:
        kind = stream.kind
        values, submissions = group.rows(kind)
        await stream.commit(len(values) // _WIDTH[kind], submissions)
        for submission, start, end in group.parts[kind]:
            self.quotas.spend(submission.userapp, Kept(rows=submission.rows))
            self._seen[kind].add(submission.digest, min(submission.received_at, self._settled()))
            clients = set(values[start + _CLIENT[kind] : end : _WIDTH[kind]])
            self.dictionaries.note_seen(clients, submission.userapp, submission.received_at)
        if kind == "snapshot":
            self._last_sightings.keep(group.said)
        if stream.is_full(self._settled()):
            await self._roll(stream)

    async def _roll(self, stream: Stream) -> None:
        """Begin the next segment; where that fails, this one takes more rows and it is tried again."""
        try:
            await stream.roll(self._database.main, self._settled())
        except SparkleError as error:
            logger.error("the next segment can't be begun, the full one is written on: %s", error)
        else:
            self.on_closed()

    async def _write_main(self, group: _Group) -> None:
        """Commit dictionary entries and bans; afterwards the group's values hold real ids."""
        await self._database.require_place()
        async with transaction(self._database.main) as main:
            before = await bans.last_ban(main)
            resolved = await self.dictionaries.resolve(main, group.wanted, group.text_of)
            _put_ids(group, resolved)
            if group.ban_submissions:
                group.new_bans = await bans.add_bans(main, group.bans, group.ban_submissions)
            added = await bans.added_since(main, before) if group.new_bans else {}
        for userapp, size in group.text_of.items():
            self.quotas.spend(userapp, Kept(text=size))
        for userapp, (rows, size) in added.items():
            self.quotas.spend(userapp, Kept(rows, size))
        self.dictionaries.keep(group.wanted, resolved)
        for submission in group.ban_submissions:
            self._seen["ban"].add(submission.digest, min(submission.received_at, self._settled()))
        for report in group.bans:
            self.dictionaries.note_seen((report["client"],), report["userapp"], report["received_at"])


def _put_ids(group: _Group, resolved: Resolved[dict[int, int]]) -> None:
    """Replace the stand-ins in a group's values by real ids."""
    for kind, values in group.values.items():
        for places, ids in zip(_PLACES[kind], resolved, strict=True):
            for place in places if ids and values else ():
                column = values[place :: _WIDTH[kind]]
                values[place :: _WIDTH[kind]] = [
                    ids[value] if value is not None and value < 0 else value for value in column
                ]
    for report in group.bans:
        report["torrent"] = resolved.torrents.get(report["torrent"], report["torrent"])
        report["client"] = resolved.clients.get(report["client"], report["client"])
        report["module"] = resolved.labels.get(report["module"], report["module"])
        if report["flags"] is not None:
            report["flags"] = resolved.labels.get(report["flags"], report["flags"])


def _newest_time(batch: Batch, at_ms: int) -> int | None:
    """The newest time (ms) in rows of a body, None where there is none.

    Clients sort by time, so the ends are looked at first; all rows are where those are old.
    """
    lists: tuple[Sequence[PeerSwarm | PeerBan], ...] = (batch.swarms, batch.bans)
    newest = _newest([row for rows in lists for row in (*rows[:1], *rows[-1:])])
    if newest is not None and newest > at_ms - CLOCK_MS:
        return newest
    return _newest((*batch.swarms, *batch.bans))


def _newest(rows: Iterable[PeerSwarm | PeerBan]) -> int | None:
    return max(filter(None, map(_time_of, rows)), default=None)


def _time_of(row: PeerSwarm | PeerBan) -> int | None:
    return row.ban_at if isinstance(row, PeerBan) else row.last_time_seen


def _are_networks(batch: Batch) -> bool:
    """Whether most rows of a body name networks instead of addresses."""
    rows: tuple[PeerSnapshot | PeerSwarm | PeerBan, ...] = (*batch.snapshots, *batch.swarms, *batch.bans)
    return sum("/" in row.peer_ip for row in rows) * 2 > len(rows)


def _digest_of_portion(digest: bytes, number: int) -> bytes:
    """What tells a portion of a body again."""
    return hashlib.sha256(b"%b:%d" % (digest, number)).digest()[:16]


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    """What became of a body that was stored in portions."""
    receipts = [outcome.receipt for outcome in outcomes if outcome.receipt is not None]
    clocks = [receipt.clock_off for receipt in receipts if receipt.clock_off is not None]
    evidence = [receipt.has_evidence for receipt in receipts if receipt.has_evidence is not None]
    receipt = Receipt(
        kept=sum(receipt.kept for receipt in receipts),
        rejected=sum((Counter(receipt.rejected) for receipt in receipts), Counter[str]()),
        are_networks=any(receipt.are_networks for receipt in receipts),
        is_cut_off=any(receipt.is_cut_off for receipt in receipts),
        clock_off=max(clocks, default=None),
        by_rows=any(receipt.by_rows for receipt in receipts),
        has_evidence=any(evidence) if evidence else None,
    )
    accepted, rejected = (sum(counts) for counts in zip(*(outcome[:2] for outcome in outcomes), strict=True))
    return Outcome(accepted, rejected, receipt if receipts else None)
