"""The way of a peer from a client's body to a durable row.

A request queues its still compressed body. What has arrived together is inflated, decoded and cleaned on one worker
thread, its dictionary entries are found or added, and it is committed together: bans and dictionaries first, then the
segments. Only then does each request get its answer.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from sparkle_lite import net
from sparkle_lite.config import Limits
from sparkle_lite.db import bans, segments
from sparkle_lite.db.connection import transaction
from sparkle_lite.db.database import Database, Writer
from sparkle_lite.db.dictionaries import ClientIdentity, Dictionaries, Dictionary, Generations, Torrent
from sparkle_lite.db.segments import Kind, SubmissionRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.metrics import Metrics
from sparkle_lite.wire.bodies import Ban, Batch, Snapshot, Swarm, decode, inflate
from sparkle_lite.wire.dialect import Dialect, Family

PEER_ID_LENGTH = 8
NAME_LENGTH = 250
_NAME_END = 64
# Bodies whose digest is kept in memory: a day of 5,000 clients, about 40 MB.
DIGESTS = 500_000
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

logger = logging.getLogger("sparkle.ingest")


class Outcome(NamedTuple):
    """What became of a body: rows stored or known already, rows dropped."""

    accepted: int
    rejected: int


class Submission:
    """A body that waits for its commit, as it came from the network."""

    __slots__ = ("address", "body", "dialect", "encoding", "outcome", "received_at", "userapp")

    def __init__(
        self,
        userapp: int,
        address: bytes | None,
        received_at: int,
        body: bytes,
        encoding: str,
        dialect: Dialect,
        outcome: "asyncio.Future[Outcome]",
    ) -> None:
        self.userapp = userapp
        self.address = address
        self.received_at = received_at
        self.body = body
        self.encoding = encoding
        self.dialect = dialect
        self.outcome = outcome


class Room:
    """Bytes of bodies that may be held at once, being read or waiting; who finds none waits for a while."""

    def __init__(self, size: int, patience_s: float = 5.0) -> None:
        self._free = size
        self._size = size
        self._patience_s = patience_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._size - self._free

    async def take(self, size: int) -> None:
        """Wait for room. Raises SparkleError("overloaded") when there is none within the patience (s)."""
        if not self._waiting and self._free >= size:
            self._free -= size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiting.append(entry)
        try:
            await asyncio.wait_for(asyncio.shield(future), self._patience_s)
        except BaseException as error:
            if future.done():
                self.give(size)
            else:
                future.cancel()
                self._waiting.remove(entry)
                self._admit()
            if not isinstance(error, TimeoutError):
                raise
            raise SparkleError(
                "overloaded",
                "The server is busy with other submissions; send this one again in a few seconds.",
                "服务器正忙于处理其他提交，请几秒后重试。",
                retry_after=5,
            ) from None

    def give(self, size: int) -> None:
        """Give room back."""
        self._free += size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, future = self._waiting.popleft()
            self._free -= size
            future.set_result(None)


class RecentDigests:
    """The bodies of the last 24 hours as 64-bit numbers in a set an hour; bounded, the oldest hour goes first."""

    def __init__(self, limit: int = DIGESTS) -> None:
        self._hours: dict[int, set[int]] = {}
        self._limit = limit
        self._count = 0

    def __contains__(self, digest: bytes) -> bool:
        number = int.from_bytes(digest[:8], "big")
        return any(number in hour for hour in self._hours.values())

    def add(self, digest: bytes, at_ms: int) -> None:
        """Remember a body received at that instant."""
        hour = at_ms // _HOUR_MS
        numbers = self._hours.get(hour)
        if numbers is None:
            numbers = self._hours[hour] = set()
            for old in [known for known in self._hours if known < hour - 24]:
                self._count -= len(self._hours.pop(old))
        numbers.add(int.from_bytes(digest[:8], "big"))
        self._count += 1
        while self._count > self._limit and len(self._hours) > 1:
            self._count -= len(self._hours.pop(min(self._hours)))


class _Part(NamedTuple):
    """The rows of one body in one stream: its place in the flat list of values."""

    job: Submission
    submission: SubmissionRow
    start: int
    end: int


class _Group:
    """What a group of bodies becomes on the worker thread, until it is committed."""

    def __init__(self) -> None:
        self.jobs: list[Submission] = []
        self.failed: dict[int, BaseException] = {}
        self.rejected: dict[int, Counter[str]] = {}
        self.accepted: Counter[int] = Counter()
        self.values: dict[Kind, list[Any]] = {kind: [] for kind in segments.KINDS}
        self.parts: dict[Kind, list[_Part]] = {kind: [] for kind in segments.KINDS}
        self.bans: list[list[Any]] = []
        self.ban_submissions: list[SubmissionRow] = []
        self.ban_jobs: list[Submission] = []
        self.duplicates = 0
        self.digests: dict[str, set[bytes]] = {}


# Where a kind's stand-in ids may be, for each dictionary.
_PLACES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {}
for _kind, _names in (*((k, segments.columns(k)) for k in segments.KINDS), ("ban", bans.BAN_COLUMNS)):
    _PLACES[_kind] = (
        (_names.index("torrent"),),
        (_names.index("client"),),
        tuple(_names.index(name) for name in ("flags", "downloader", "module") if name in _names),
    )
_WIDTH: dict[Kind, int] = {kind: len(segments.columns(kind)) for kind in segments.KINDS}
_CLIENT: dict[Kind, int] = {kind: segments.columns(kind).index("client") for kind in segments.KINDS}

_PRIVATE = {True: 1, False: 0, None: -1}
# Modules of clients that ban what this network's own rules told them: such bans are no evidence of their own.
_OWN_RULE_MODULES = ("BtnNetworkOnline", "com.SimpleTracker.qBCB.BTN")


class Ingest:
    """Takes submissions and commits them. One for a server."""

    def __init__(
        self, database: Database, limits: Callable[[], Limits], metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._database = database
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ingest")
        self._addresses: Generations[str, bytes | str] = Generations()
        self._seen: dict[str, RecentDigests] = {kind: RecentDigests() for kind in (*segments.KINDS, "ban")}
        self._next_ban_submission = 1
        self.dictionaries = Dictionaries()
        self.streams = database.streams()
        self.writer: Writer[Submission] = Writer(database.main, self._record, lambda job: len(job.body))
        self.room = Room(limits().queue_size)
        self.on_closed: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Take up the hot segments and the digests of the last 24 hours, and begin to write."""
        database, now = self._database, self._clock()
        await segments.remove_strays(database.main, database.segment_folder)
        for kind, stream in self.streams.items():
            await stream.open(database.main, now)
            rows = await segments.recent_digests(
                database.main, database.segment_folder, stream.connection, kind, now - _DAY_MS, DIGESTS
            )
            for at, digest in rows:
                self._seen[kind].add(digest, at)
        for at, digest in await bans.recent_digests(database.main, now - _DAY_MS, DIGESTS):
            self._seen["ban"].add(digest, at)
        self._next_ban_submission = await bans.next_submission(database.main)
        self.writer.start()

    async def close(self) -> None:
        """Commit what is queued, then close the streams."""
        if self.writer.running:
            await self.writer.stop()
        for stream in self.streams.values():
            await stream.close()
        self._thread.shutdown()

    async def submit(
        self, userapp: int, address: bytes | None, body: bytes, encoding: str, dialect: Dialect
    ) -> Outcome:
        """Store a body; returns when it is committed.

        Raises SparkleError for a body that isn't readable, or when the database can't be written.
        """
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.writer.submit(Submission(userapp, address, self._clock(), body, encoding, dialect, outcome))
        return await outcome

    async def _record(self, jobs: list[Submission]) -> None:
        waiting = deque(jobs)
        loop = asyncio.get_running_loop()
        while waiting:
            group = _Group()
            started = time.perf_counter()
            try:
                await loop.run_in_executor(self._thread, self._prepare, group, waiting)
                await self._store(group)
            except SparkleError as error:
                self.dictionaries.settle(committed=False)
                self._fail(group.jobs, error)
            except Exception as error:
                self.dictionaries.settle(committed=False)
                await self._one_by_one(group.jobs, error)
            else:
                self._answer(group)
                self._metrics.commit_seconds.observe(time.perf_counter() - started)

    async def _one_by_one(self, jobs: list[Submission], error: Exception) -> None:
        """A fault that only one body of a group causes must not cost the others."""
        logger.exception("a group of %d submissions could not be stored", len(jobs))
        if len(jobs) == 1:
            self._fail(jobs, error)
            return
        for job in jobs:
            await self._record([job])

    def _fail(self, jobs: Iterable[Submission], error: BaseException) -> None:
        for job in jobs:
            if not job.outcome.done():
                job.outcome.set_exception(error)

    def _answer(self, group: _Group) -> None:
        for kind, parts in group.parts.items():
            if parts:
                rows = sum(part.submission.rows for part in parts)
                self._metrics.accepted.labels(kind).inc(rows)
        if group.duplicates:
            self._metrics.duplicates.labels("body").inc(group.duplicates)
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
            job.outcome.set_result(Outcome(group.accepted[number], rejected.total() if rejected else 0))

    # On the worker thread: from bodies to values.

    def _prepare(self, group: _Group, waiting: deque[Submission]) -> None:
        limits = self._limits()
        inflated = 0
        while waiting and inflated < limits.max_inflated_size:
            job = waiting.popleft()
            number = len(group.jobs)
            group.jobs.append(job)
            try:
                data = inflate(job.body, job.encoding, limits.max_inflated_size)
                inflated += len(data)
                offsets_add = job.dialect.family is Family.RUST
                batch = decode(data, limits.max_rows_per_request, offsets_add=offsets_add)
                digest = hashlib.sha256(b"%d:" % job.userapp + data).digest()[:16]
                del data
                self._clean(group, number, job, batch, digest)
            except Exception as error:
                if not isinstance(error, SparkleError):
                    logger.exception("a body could not be decoded")
                group.failed[number] = error
        if len(self._addresses.young) >= 65_536:
            self._addresses.rotate()

    def _clean(self, group: _Group, number: int, job: Submission, batch: Batch, digest: bytes) -> None:
        rejected: Counter[str] = Counter(batch.rejected)
        if rejected:
            group.rejected[number] = rejected
        makers: tuple[tuple[Kind, Sequence[Any], Callable[..., list[Any]]], ...] = (
            ("snapshot", batch.snapshots, self._snapshot_values),
            ("swarm", batch.swarms, self._swarm_values),
        )
        for kind, rows, make in makers:
            if not rows or self._is_duplicate(group, kind, digest):
                group.accepted[number] += len(rows)
                continue
            stream, parts, values = self.streams[kind], group.parts[kind], group.values[kind]
            submission = stream.submissions + len(parts) + 1
            made = make(job, rows, submission, rejected)
            count = len(made) // _WIDTH[kind]
            row = SubmissionRow(
                submission,
                job.received_at,
                job.userapp,
                job.address,
                batch.populate_time,
                digest,
                count,
                len(rows) - count,
            )
            parts.append(_Part(job, row, len(values), len(values) + len(made)))
            values += made
            group.accepted[number] += count
        if batch.bans and not self._is_duplicate(group, "ban", digest):
            self._clean_bans(group, number, job, batch, digest, rejected)
        elif batch.bans:
            group.accepted[number] += len(batch.bans)
        if rejected:
            group.rejected[number] = rejected

    def _is_duplicate(self, group: _Group, stream: str, digest: bytes) -> bool:
        pending = group.digests.setdefault(stream, set())
        if digest in pending or digest in self._seen[stream]:
            group.duplicates += 1
            return True
        pending.add(digest)
        return False

    def _snapshot_values(
        self, job: Submission, rows: list[Snapshot], submission: int, rejected: Counter[str]
    ) -> list[Any]:
        values: list[Any] = []
        torrents, clients = self.dictionaries.torrents.cache.young, self.dictionaries.clients.cache.young
        labels, addresses = self.dictionaries.labels.cache.young, self._addresses.young
        add = values.extend
        for row in rows:
            # Every look-up first reads the young generation directly: the calls are for what is rare.
            address = addresses.get(row.peer_ip) or self._address(row.peer_ip)
            if address.__class__ is str:
                rejected[address] += 1
                continue
            port = row.peer_port
            if not -1 <= port <= 65535:
                rejected["bad_port"] += 1
                continue
            key = (row.torrent_identifier, row.torrent_size, row.torrent_is_private)
            torrent = torrents.get(key) or self._torrent(key, job)
            name = (row.peer_id, row.peer_client_name)
            client = clients.get(name) or self._client(name, job)
            if not torrent or not client:
                rejected["bad_identifier" if torrent == 0 else "quota"] += 1
                continue
            flag = row.peer_flag
            add(
                (
                    submission,
                    address,
                    port,
                    client,
                    torrent,
                    row.from_peer_traffic,
                    row.from_peer_traffic_speed,
                    row.to_peer_traffic,
                    row.to_peer_traffic_speed,
                    row.peer_progress,
                    row.downloader_progress,
                    None if flag is None else labels.get(flag) or self._label(flag, job),
                )
            )
        return values

    def _swarm_values(self, job: Submission, rows: list[Swarm], submission: int, rejected: Counter[str]) -> list[Any]:
        values: list[Any] = []
        for row in rows:
            peer = self._peer(job, row, rejected)
            if peer is None:
                continue
            address, client, torrent, flags = peer
            values += (
                submission,
                _version_key(job, row, address),
                1 if row.origin == "swarm" else 0,
                address,
                row.peer_port,
                client,
                torrent,
                None if row.downloader is None else self._label(row.downloader, job),
                row.from_peer_traffic,
                row.from_peer_traffic_offset,
                row.to_peer_traffic,
                row.to_peer_traffic_offset,
                row.from_peer_traffic_speed,
                row.from_peer_traffic_speed_max,
                row.to_peer_traffic_speed,
                row.to_peer_traffic_speed_max,
                row.peer_progress,
                row.downloader_progress,
                row.first_time_seen,
                row.last_time_seen,
                flags,
            )
        return values

    def _clean_bans(
        self, group: _Group, number: int, job: Submission, batch: Batch, digest: bytes, rejected: Counter[str]
    ) -> None:
        submission = self._next_ban_submission + len(group.ban_submissions)
        count = 0
        for row in batch.bans:
            peer = self._peer(job, row, rejected)
            if peer is None:
                continue
            address, client, torrent, flags = peer
            module = self._label(row.module, job)
            if module is None:
                rejected["quota"] += 1
                continue
            dedupe, back = _ban_key(job, row, address)
            group.bans.append(
                [
                    submission,
                    job.received_at,
                    job.userapp,
                    batch.populate_time if row.ban_at is None else row.ban_at,
                    address,
                    row.peer_port,
                    client,
                    torrent,
                    row.from_peer_traffic,
                    row.from_peer_traffic_speed,
                    row.to_peer_traffic,
                    row.to_peer_traffic_speed,
                    row.peer_progress,
                    row.downloader_progress,
                    flags,
                    int(row.btn_ban or row.module.endswith(_OWN_RULE_MODULES)),
                    module,
                    _text(row.rule, 1024),
                    _text(row.description, 4096),
                    _text(row.ban_unique_id, 128),
                    row.structured_data,
                    dedupe,
                    back,
                ]
            )
            count += 1
        group.accepted[number] += count
        group.ban_jobs.append(job)
        group.ban_submissions.append(
            SubmissionRow(
                submission,
                job.received_at,
                job.userapp,
                job.address,
                batch.populate_time,
                digest,
                count,
                len(batch.bans) - count,
            )
        )

    def _peer(
        self, job: Submission, row: Swarm | Ban, rejected: Counter[str]
    ) -> tuple[bytes, int, int, int | None] | None:
        """Address, client, torrent and flags of a row; None when it is rejected."""
        address = self._addresses.young.get(row.peer_ip) or self._address(row.peer_ip)
        if isinstance(address, str):
            rejected[address] += 1
            return None
        if not -1 <= row.peer_port <= 65535:
            rejected["bad_port"] += 1
            return None
        key = (row.torrent_identifier, row.torrent_size, row.torrent_is_private)
        torrent = self.dictionaries.torrents.cache.young.get(key) or self._torrent(key, job)
        name = (row.peer_id, row.peer_client_name)
        client = self.dictionaries.clients.cache.young.get(name) or self._client(name, job)
        if not torrent or not client:
            rejected["bad_identifier" if torrent == 0 else "quota"] += 1
            return None
        return address, client, torrent, None if row.peer_flag is None else self._label(row.peer_flag, job)

    def _address(self, text: str) -> bytes | str:
        """The bytes of a public address, or the reason why the row is rejected; both are remembered."""
        known = self._addresses.find(text)
        if known is not None:
            return known
        result: bytes | str
        try:
            address = net.address_bytes(text) if "/" not in text else _single(text)
            result = address if net.is_public(address) else "not_public"
        except net.AddressError:
            result = "bad_address"
        if len(text) <= 64:
            self._addresses.young[text] = result
        return result

    def _torrent(self, raw: tuple[str, int, bool | None], job: Submission) -> int | None:
        """The id or stand-in of a torrent; 0 when its identifier can't be kept, None when the quota is spent."""
        torrents = self.dictionaries.torrents
        known = _known(torrents, raw)
        if known is not None:
            return known
        text, size, private = raw
        identifier: bytes | str = text.replace("\0", "")
        if not 0 < len(identifier) <= 128:
            return 0
        if len(text) == 64:
            try:
                identifier = bytes.fromhex(text)
            except ValueError:
                identifier = text
        if not self.dictionaries.may_add(job.userapp, job.received_at):
            return None
        entry = Torrent(identifier, max(size, 0), _PRIVATE[private], int(job.dialect.family is Family.QBCB))
        return torrents.want(raw, entry, job.userapp, job.received_at)

    def _client(self, raw: tuple[str | None, str | None], job: Submission) -> int | None:
        """The id or stand-in of a client identity; None when the quota is spent."""
        clients = self.dictionaries.clients
        known = _known(clients, raw)
        if known is not None:
            return known
        if not self.dictionaries.may_add(job.userapp, job.received_at):
            return None
        name = (raw[1] or "").replace("\0", "")
        if len(name) > NAME_LENGTH:
            name = f"{name[:_NAME_END]}[...]{name[-_NAME_END:]}"
        entry = ClientIdentity((raw[0] or "").replace("\0", "")[:PEER_ID_LENGTH], name)
        return clients.want(raw, entry, job.userapp, job.received_at)

    def _label(self, raw: str, job: Submission) -> int | None:
        """The id or stand-in of a label."""
        labels = self.dictionaries.labels
        known = labels.cache.young.get(raw) or _known(labels, raw)
        if known is not None:
            return known
        if not self.dictionaries.may_add(job.userapp, job.received_at):
            return None
        return labels.want(raw, (raw.replace("\0", "")[:NAME_LENGTH],), job.userapp, job.received_at)

    # On the writer task: from values to files.

    async def _store(self, group: _Group) -> None:
        await self._store_main(group)
        for kind, stream in self.streams.items():
            parts = group.parts[kind]
            if not parts:
                continue
            submissions = [part.submission for part in parts]
            values = group.values[kind]
            try:
                await stream.append(values, submissions)
                await stream.commit(len(values) // _WIDTH[kind], submissions)
            except BaseException:
                await stream.roll_back()
                raise
            for part in parts:
                self._seen[kind].add(part.submission.digest, part.submission.received_at)
                clients = values[part.start + _CLIENT[kind] : part.end : _WIDTH[kind]]
                self.dictionaries.saw(set(clients), part.job.userapp, part.job.received_at)
            if stream.is_full(self._clock()):
                await stream.roll(self._database.main, self._clock())
                self.on_closed()

    async def _store_main(self, group: _Group) -> None:
        """Commit dictionary entries and bans; afterwards the group's values hold real ids."""
        if not self.dictionaries.missing and not group.ban_submissions:
            self.dictionaries.settle(committed=True)
            return
        async with transaction(self._database.main) as main:
            resolved = await self.dictionaries.resolve(main)
            for kind, values in group.values.items():
                for places, ids in zip(_PLACES[kind], resolved, strict=True):
                    for place in places if ids else ():
                        _replace(values, place, _WIDTH[kind], ids)
            for row in group.bans:
                for places, ids in zip(_PLACES["ban"], resolved, strict=True):
                    for place in places:
                        row[place] = ids.get(row[place], row[place])
            new = await bans.add_bans(main, group.bans, group.ban_submissions) if group.ban_submissions else 0
        self.dictionaries.settle(committed=True)
        self._next_ban_submission += len(group.ban_submissions)
        self._metrics.accepted.labels("ban").inc(new)
        self._metrics.duplicates.labels("ban").inc(len(group.bans) - new)
        for job, submission in zip(group.ban_jobs, group.ban_submissions, strict=True):
            self._seen["ban"].add(submission.digest, job.received_at)
        client = bans.BAN_COLUMNS.index("client")
        for row in group.bans:
            self.dictionaries.saw((row[client],), row[2], row[1])


def _known(dictionary: Dictionary[Any], raw: Any) -> int | None:
    return dictionary.cache.find(raw) or dictionary.wanted(raw)


def _replace(values: list[Any], place: int, width: int, ids: dict[int, int]) -> None:
    values[place::width] = [ids[value] if value is not None and value < 0 else value for value in values[place::width]]


def _single(text: str) -> bytes:
    """The address of a network of one; qBittorrent-ClientBlocker writes whole networks where it bans them."""
    network = net.parse_network(text)
    if network.prefix != network.bits:
        raise net.AddressError(f"{text[:64]!r} is a network")
    return network.address


def _text(text: str | None, length: int) -> str | None:
    return None if text is None else text.replace("\0", "")[:length]


def _number(*parts: object) -> int:
    """A stable signed 64-bit number of some values."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _ban_key(job: Submission, row: Ban, address: bytes) -> tuple[int, int]:
    """What makes a ban the same ban when it is sent again, and since when (ms) an equal one counts."""
    where = (address, row.peer_port, row.torrent_identifier, row.module)
    match row.dedupe:
        case "id":
            return _number(job.userapp, "id", row.ban_unique_id, address, row.peer_port), 0
        case "id_time":
            return _number(job.userapp, "id_time", row.ban_unique_id, row.ban_at), 0
        case "time":
            return _number(job.userapp, "time", row.ban_at, *where), 0
        case "content":
            return _number(job.userapp, "content", *where, row.rule), job.received_at - _DAY_MS


def _version_key(job: Submission, row: Swarm, address: bytes) -> int:
    """What makes two cumulative rows versions of the same one; the newest wins on reading."""
    if row.origin == "swarm":
        return _number(job.userapp, "swarm", row.downloader, row.torrent_identifier, address, row.peer_port)
    if job.dialect.family is Family.QBCB:
        # Its first_time_seen is always now.
        return _number(job.userapp, "qbcb", address, row.peer_port, row.torrent_identifier)
    return _number(job.userapp, "history", address, row.torrent_identifier, row.first_time_seen)
