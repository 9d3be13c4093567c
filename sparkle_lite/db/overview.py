"""What the first page tells: how much came in, from whom, what was banned, which rules there are.

It is read on a thread of its own and kept for half a minute: nobody waits for it but who asks first.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from sparkle_lite import net
from sparkle_lite.db import segments
from sparkle_lite.db.connection import Connection, fetch_all, fetch_one, refused
from sparkle_lite.db.database import Database
from sparkle_lite.db.keeper import Keeper
from sparkle_lite.db.readers import Gone, Reader
from sparkle_lite.db.segments import Kind, SegmentRow, Stream
from sparkle_lite.db.torrents import DIFFERENT_SQL
from sparkle_lite.units import DAY_MS, HOUR_MS, HOUR_S, MINUTE_MS

T = TypeVar("T")
Activity = Literal["snapshot", "swarm", "ban"]

WEEK_MS = 7 * DAY_MS
# Figures younger than the first are shown as they are; younger than the second, too, while new ones are read.
FRESH_S, STALE_S = 30, 900
# Of the week's bans the newest so many are broken down.
BANS = 50_000
# Of so many days it is told what somebody reported.
REPORTED_DAYS = 14
TOP = 8
_PATIENCE_MS = 20_000
# A body counts for the hour in which it came; it is committed within seconds.
_SETTLED_MS = 2 * MINUTE_MS
_ATTEMPTS = 3

# How wide the steps of a chart are (hours), and how many there are: few enough to tell apart on a phone.
SPANS: Mapping[str, tuple[int, int]] = {"week": (2, 84), "month": (12, 60), "year": (168, 53)}


class Share(NamedTuple):
    """How many bans something has, and how many applications reported them."""

    name: str
    bans: int
    reporters: int


class Origin(NamedTuple):
    """How many listings an origin has in force, and had a week ago."""

    name: str
    now: int
    before: int


class Figures(NamedTuple):
    """The figures of one moment: `rows` counts observations by kind, `counted` the bans that were broken down."""

    people: int
    apps: int
    apps_day: int
    apps_week: int
    last_access_at: int | None
    rows: Mapping[str, int]
    segments: int
    bans: int
    torrents: int
    identities: int
    counted: int
    modules: Sequence[Share]
    networks: Sequence[Share]
    clients: Sequence[Share]
    origins: Sequence[Origin]


class Series(NamedTuple):
    """One chart: the beginning of each step (s), and for each kind the rows and submissions that came in it."""

    times: list[int]
    rows: Mapping[Activity, list[int]]
    submissions: list[int]


class Sent(NamedTuple):
    """What an application sent of one kind within a day: rows (new bans), bodies, and when the last came (ms)."""

    rows: int
    submissions: int
    last_at: int


class Reported(NamedTuple):
    """The bans by their own judgement that somebody's clients reported: how many of late, and the first (ms)."""

    recent: int
    first_at: int


class Helped(NamedTuple):
    """How many listings in force strike what somebody's clients banned by their own judgement (`rules`).

    `met` are those that strike what they banned for whatever reason: what is listed is turned away.
    """

    rules: int
    met: int


class Stored(NamedTuple):
    """The files of one kind of observations in one state; `first_at` and `last_at` are receipts (ms)."""

    kind: Kind
    state: str
    files: int
    rows: int
    bytes: int
    first_at: int | None
    last_at: int | None


_Hours = dict[tuple[int, Activity], tuple[int, int]]


class Overview:
    """The reads of the first page, and the table of activity that they need."""

    def __init__(
        self,
        database: Database,
        streams: Mapping[Kind, Stream],
        clock: Callable[[], int],
        keeper: Keeper | None = None,
        *,
        nobody: str,
    ) -> None:
        """`keeper` is told of segments that can't be read; `nobody` is the name (key) of who is no person."""
        self._database = database
        self._nobody = nobody
        self._keeper = keeper
        self._streams = streams
        self._clock = clock
        self._reader = Reader("overview", database)
        self._figures: tuple[float, Figures] | None = None
        self._tail: tuple[float, _Hours] | None = None
        self._sent: tuple[float, dict[int, dict[Activity, Sent]]] | None = None
        self._reported: tuple[float, dict[int, Reported]] | None = None
        self._reading: asyncio.Task[Figures] | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Stop what runs, and close every connection."""
        if self._reading is not None:
            self._reading.cancel()
        await asyncio.to_thread(self._reader.close)

    async def tidy(self) -> None:
        """Let go of the files of segments that are no more."""
        await self._reader.run(Reader.tidy)

    # --- Figures ------------------------------------------------------------------------------------------------------

    async def figures(self) -> Figures:
        """The figures, half a minute old at the most where somebody looks all the time."""
        age = time.monotonic() - self._figures[0] if self._figures else STALE_S
        if self._figures is not None and age < FRESH_S:
            return self._figures[1]
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="overview")
        if self._figures is not None and age < STALE_S:
            return self._figures[1]
        return await asyncio.shield(self._reading)

    async def _read(self) -> Figures:
        chain = await self._catalogue()
        read = partial(_figures, now=self._clock(), rows=self._rows(chain), chain=len(chain), nobody=self._nobody)
        figures = await self._reader.run(read)
        self._figures = time.monotonic(), figures
        return figures

    async def _catalogue(self, since: int = 0) -> list[SegmentRow]:
        async with self._database.reader() as connection:
            chain = await segments.catalogue(connection, "state='hot' OR last_received_at>=?", (since,))
        return [segment for segment in chain if not self._keeper or segment.id not in self._keeper.skipped]

    def _rows(self, chain: Iterable[SegmentRow]) -> dict[str, int]:
        counts: dict[str, int] = defaultdict(int)
        for segment in chain:
            counts[segment.kind] += segment.rows if segment.state != "hot" else self._streams[segment.kind].rows
        return counts

    # --- Activity -----------------------------------------------------------------------------------------------------

    async def activity(self, span: str) -> Series:
        """What came in over a span of SPANS until now."""
        hours, steps = SPANS[span]
        last = self._clock() // (hours * HOUR_MS)
        first = last - steps + 1
        async with self._database.reader() as connection:
            sql = "SELECT hour, kind, submissions, rows FROM activity WHERE hour>=?"
            stored = await fetch_all(connection, sql, (first * hours,))
        by_hour: _Hours = {(hour, kind): (submissions, rows) for hour, kind, submissions, rows in stored}
        by_hour |= await self._unrecorded()
        series = Series(
            [step * hours * HOUR_S for step in range(first, last + 1)],
            {"snapshot": [0] * steps, "swarm": [0] * steps, "ban": [0] * steps},
            [0] * steps,
        )
        for (hour, kind), (submissions, rows) in by_hour.items():
            step = hour // hours - first
            if 0 <= step < steps:
                series.rows[kind][step] += rows
                series.submissions[step] += submissions
        return series

    async def _unrecorded(self) -> _Hours:
        """The hours since the last one that was recorded."""
        async with self._lock:
            if self._tail is None or time.monotonic() - self._tail[0] >= FRESH_S:
                async with self._database.reader() as connection:
                    since = await _recorded_until(connection)
                self._tail = time.monotonic(), await self._hours(since, self._clock() + HOUR_MS)
            return self._tail[1]

    async def record(self) -> None:
        """Write down the hours that are over, and have the figures ready for whoever looks next."""
        until = (self._clock() - _SETTLED_MS) // HOUR_MS * HOUR_MS
        async with self._database.reader() as connection:
            since = await _recorded_until(connection)
        hours = await self._hours(since, until)

        async def command(connection: Connection) -> None:
            await connection.executemany(
                "INSERT OR REPLACE INTO activity (hour, kind, submissions, rows) VALUES (?,?,?,?)",
                [(hour, kind, *numbers) for (hour, kind), numbers in hours.items()],
            )
            await connection.execute("DELETE FROM activity WHERE hour<?", (until // HOUR_MS - 2 * 366 * 24,))

        if hours:
            await self._database.write(command)
            self._tail = None
        await self.figures()

    async def _hours(self, since: int, until: int) -> _Hours:
        return await self._over(since, partial(_hours, since=since, until=until), {})

    async def _over(self, since: int, read: Callable[..., T], otherwise: T) -> T:
        """What a function reads from the segments with rows received since; retention may unlink one under it."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._reader.run(partial(read, chain=await self._catalogue(since)))
            except Gone as gone:
                if self._keeper:
                    await self._keeper.suspect(gone.segment.id)
        return otherwise

    # --- Applications and files ---------------------------------------------------------------------------------------

    async def sent(self) -> Mapping[int, Mapping[Activity, Sent]]:
        """What each application (row id) sent within the last day, by kind."""
        async with self._lock:
            if self._sent is None or time.monotonic() - self._sent[0] >= FRESH_S:
                since = self._clock() - DAY_MS
                self._sent = time.monotonic(), await self._over(since, partial(_sent, since=since), {})
            return self._sent[1]

    async def reported(self) -> Mapping[int, Reported]:
        """What everybody (user row ids) reported; `recent` is of the last `REPORTED_DAYS` days."""
        async with self._lock:
            if self._reported is None or time.monotonic() - self._reported[0] >= FRESH_S:
                since = self._clock() - REPORTED_DAYS * DAY_MS
                self._reported = time.monotonic(), await self._reader.run(partial(_reported, since=since))
            return self._reported[1]

    async def helped(self, user: int, origins: Collection[str]) -> Helped:
        """What listings in force of some origins have to do with what a user's clients met."""
        return await self._reader.run(partial(_helped, user=user, origins=origins, now=self._clock()))

    async def storage(self) -> list[Stored]:
        """The files of observations by kind and state."""
        rows = await self._database.read(
            "SELECT kind, state, count(*), sum(rows), sum(bytes), min(first_received_at), max(last_received_at)"
            " FROM segment GROUP BY 1, 2 ORDER BY 1, 2 DESC"
        )
        return [self._fresh(Stored(*row)) for row in rows]

    def _fresh(self, stored: Stored) -> Stored:
        """The catalogue learns of a hot segment's rows only when it is closed."""
        stream = self._streams[stored.kind]
        if stored.state != "hot" or stream.hot is None:
            return stored
        return stored._replace(
            rows=stream.rows,
            bytes=segments.file_size(stream.path(stream.hot.id)),
            first_at=stream.first_received_at,
            last_at=stream.last_received_at,
        )


async def _recorded_until(connection: Connection) -> int:
    """Up to when (ms) hours are recorded."""
    row = await fetch_one(connection, "SELECT max(hour) FROM activity")
    return 0 if row is None or row[0] is None else (int(row[0]) + 1) * HOUR_MS


# --- On the reader's thread -------------------------------------------------------------------------------------------


def _hours(reader: Reader, chain: Sequence[SegmentRow], since: int, until: int) -> _Hours:
    sql = (
        f"SELECT received_at / {HOUR_MS}, count(*), sum(rows) FROM submission"
        " WHERE received_at>=? AND received_at<? GROUP BY 1"
    )
    found: dict[tuple[int, Activity], tuple[int, int]] = {}
    reader.until(_PATIENCE_MS)
    with refused("read", reader.path), reader.snapshot():
        for segment in (None, *chain):
            kind: Activity = segment.kind if segment else "ban"
            for hour, submissions, rows in reader.fetch(segment, sql, (since, until)):
                before = found.get((hour, kind), (0, 0))
                found[hour, kind] = before[0] + submissions, before[1] + rows
    return found


def _sent(reader: Reader, chain: Sequence[SegmentRow], since: int) -> dict[int, dict[Activity, Sent]]:
    sql = "SELECT userapp, sum(rows), count(*), max(received_at) FROM submission WHERE received_at>=? GROUP BY 1"
    by_userapp: dict[int, dict[Activity, Sent]] = defaultdict(dict)
    reader.until(_PATIENCE_MS)
    with refused("read", reader.path), reader.snapshot():
        for segment in (None, *chain):
            kind: Activity = segment.kind if segment else "ban"
            for userapp, rows, submissions, last_at in reader.fetch(segment, sql, (since,)):
                before = by_userapp[userapp].get(kind, Sent(0, 0, 0))
                by_userapp[userapp][kind] = Sent(
                    before.rows + rows, before.submissions + submissions, max(before.last_at, last_at)
                )
    return dict(by_userapp)


def _reported(reader: Reader, since: int) -> dict[int, Reported]:
    # The index has all of it, so that no ban itself is read.
    sql = (
        "SELECT a.user, sum(b.recent), min(b.first_at) FROM"
        " (SELECT userapp, sum(received_at>=?) AS recent, min(received_at) AS first_at"
        " FROM ban INDEXED BY ban_evidence WHERE btn_ban=0 GROUP BY 1) b JOIN userapp a ON a.id=b.userapp GROUP BY 1"
    )
    reader.until(_PATIENCE_MS)
    with refused("read", reader.path), reader.snapshot():
        return {user: Reported(recent, first_at) for user, recent, first_at in reader.main(sql, (since,))}


def _helped(reader: Reader, user: int, origins: Collection[str], now: int) -> Helped:
    # Pieces of a network, whose prefix ends within a byte, came of reports from all of it.
    last = f"substr(x'{'ff' * 16}', 1, length(d.address)-d.prefix/8)"
    first = "substr(d.address, 1, d.prefix/8)"
    met = (
        "EXISTS (SELECT 1 FROM ban b INDEXED BY {} WHERE b.btn_ban={}"
        f" AND b.peer_ip BETWEEN d.address AND CAST({first} || {last} AS BLOB)"
        " AND b.userapp IN (SELECT id FROM userapp WHERE user=?))"
    )
    sql = (
        "SELECT coalesce(sum(judged), 0), coalesce(sum(judged OR turned_away), 0) FROM"
        f" (SELECT {met.format('ban_evidence', 0)} AS judged, {met.format('ban_caused', 1)} AS turned_away"
        " FROM decision d WHERE d.kind='ip' AND d.action='deny' AND d.state='active' AND d.ends_at>?"
        f" AND d.origin IN ({', '.join('?' * len(origins))}))"
    )
    reader.until(_PATIENCE_MS)
    with refused("read", reader.path), reader.snapshot():
        return Helped._make(reader.main(sql, (user, user, now, *origins))[0])


def _figures(reader: Reader, now: int, rows: Mapping[str, int], chain: int, nobody: str) -> Figures:
    reader.until(_PATIENCE_MS)
    with refused("read", reader.path), reader.snapshot():
        day, week = now - DAY_MS, now - WEEK_MS
        apps = reader.main(
            "SELECT count(*), coalesce(sum(last_access_at>=?), 0), coalesce(sum(last_access_at>=?), 0),"
            " max(last_access_at) FROM userapp WHERE deleted_at IS NULL",
            (day, week),
        )[0]
        newest = (week, BANS)
        return Figures(
            people=reader.main("SELECT count(*) FROM user WHERE name_key<>?", (nobody,))[0][0],
            apps=apps[0],
            apps_day=apps[1],
            apps_week=apps[2],
            last_access_at=apps[3],
            rows=rows,
            segments=chain,
            bans=_count(reader, "ban"),
            torrents=reader.main(DIFFERENT_SQL)[0][0],
            identities=_count(reader, "client_identity"),
            counted=reader.main(f"SELECT count(*) FROM {_NEWEST}", newest)[0][0],
            modules=_shares(reader, "l.text", "JOIN label l ON l.id=b.module", newest),
            networks=[
                share._replace(name=_network(share.name))
                for share in _shares(reader, "substr(peer_ip, 1, iif(length(peer_ip)=4, 3, 6))", "", newest)
            ],
            clients=_shares(reader, "c.client_name", "JOIN client_identity c ON c.id=b.client", newest),
            origins=_origins(reader, now),
        )


_NEWEST = "(SELECT module, client, peer_ip, userapp FROM ban WHERE received_at>=? ORDER BY received_at DESC LIMIT ?) b"


def _count(reader: Reader, table: str) -> int:
    return int(reader.main(f"SELECT count(*) FROM {table}")[0][0])


def _shares(reader: Reader, what: str, join: str, newest: tuple[int, int]) -> list[Share]:
    sql = (
        f"SELECT {what}, count(*), count(DISTINCT userapp) FROM {_NEWEST} {join} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?"
    )
    return [Share(*row) for row in reader.main(sql, (*newest, TOP))]


def _network(start: Any) -> str:
    """A network by the first bytes of its address: a /24, or a /48."""
    length = 4 if len(start) == 3 else 16
    return f"{net.address_text(start + bytes(length - len(start)))}/{len(start) * 8}"


def _origins(reader: Reader, now: int) -> list[Origin]:
    week = now - WEEK_MS
    rows = reader.main(
        "SELECT origin, sum(ends_at>?1), sum(created_at<=?2) FROM decision"
        " WHERE action='deny' AND state='active' AND ends_at>?2 GROUP BY 1 ORDER BY 2 DESC, 1",
        (now, week),
    )
    return [Origin(*row) for row in rows]
