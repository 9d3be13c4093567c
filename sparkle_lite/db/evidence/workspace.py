"""SQL of the analyses: whose reports count, what they tell of an address, and how many people that makes.

One `Evidence` is the work space of one analysis: a thread's own connection with the main database as `m`, one segment
after the other as `seg`, both read-only, and temporary tables on disk, so that memory stays bounded and the
interpreter lock is free while SQLite works. Only what qualifies comes back as Python rows.

A subject is named by its first bytes: 4 an IPv4 address, 8 an IPv6 /64, 3 a /24, 7 a /56. A person's networks are the
/24 and /48 that reports came from. Evidence counts at the earlier of its receipt and the client's own time; a ban at
that of its first report, however long it is prolonged.

qBittorrent-ClientBlocker never empties its list of peers, and says of all of them that it sees them now. Its rows, told
by the byte order of their torrents, are evidence only where a counter has grown since the row before.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sparkle_lite.db.connection import BUSY_TIMEOUT_MS, refused
from sparkle_lite.db.database import Database
from sparkle_lite.db.segments import KINDS, Kind, segment_path
from sparkle_lite.db.torrents import UNKNOWN_SQL
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import DAY_MS, MIB

T = TypeVar("T")

# No counter is believed beyond it (16 TiB); sums of what is below don't overflow.
MOST = 1 << 44

# What somebody must have got from a peer to speak for it.
GIVEN_FLOOR = MIB

# Findings of one analysis: the strongest; more than this is an attack or a mistake.
FINDINGS = 20_000

# Beyond it a scan of a segment is cheaper than looking its addresses up one by one.
_LOOKUPS = 3_000

# Virtual machine steps between two looks at the clock: some milliseconds, each takes the interpreter lock once.
_STEPS = 400_000
_CACHE_KIB = 32_768

# A vote's half-life grows with the days of evidence up to so many times.
LONGEST_RECURRENCE = 4


class Trust(NamedTuple):
    """Whose word counts: self-registered accounts of this age (ms) with so many active days; never `nobody`."""

    account_age: int
    active_days: int
    nobody: str


def subject_of(column: str) -> str:
    return f"iif(length({column})=4, {column}, substr({column}, 1, 8))"


def _range(key: bytes) -> tuple[bytes, bytes]:
    """The first and the last address of a subject."""
    return (key, key) if len(key) == 4 else (key + bytes(8), key + b"\xff" * 8)


def about(only: bytes | None) -> tuple[str, dict[str, bytes]]:
    """The condition that a row `s` is about one subject, in a way that an index can answer, with its values."""
    if only is None:
        return "", {}
    low, high = _range(only)
    return " AND s.peer_ip BETWEEN :low AND :high", {"low": low, "high": high}


def prefix_of(key: bytes) -> bytes:
    """The /24 or /56 of a subject."""
    return key[: 3 if len(key) == 4 else 7]


def users_of(text: str | None) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split(",")))) if text else ()


def network_of(column: str) -> str:
    return f"coalesce(iif(length({column})=4, substr({column}, 1, 3), substr({column}, 1, 6)), x'')"


# Identifiers made in the two byte orders name the same torrents twice, so they are never added.
DISTINCT = "max(count(DISTINCT iif(big_endian, NULL, torrent)), count(DISTINCT iif(big_endian, torrent, NULL)))"
TORRENTS = f"{DISTINCT} AS torrents"
DAYS = f"count(DISTINCT at/{DAY_MS})"


def people_in(condition: str) -> str:
    """People collapsed by their networks, of the rows of a group that meet a condition."""
    return f"min(count(DISTINCT iif({condition}, user, NULL)), count(DISTINCT iif({condition}, net, NULL)))"


class Evidence:
    """The work space of one analysis at one instant; used on one thread, by `gather` alone."""

    def __init__(self, database: Database, trust: Trust, now_ms: int, stop: Callable[[], bool]) -> None:
        self.now = now_ms
        self._folder = database.segment_folder
        self._connection = sqlite3.connect(":memory:", isolation_level=None, uri=True)
        try:
            self._open(database.uri, stop)
            self._reporters(trust)
        except BaseException:
            self.close()
            raise

    def _open(self, uri: str, stop: Callable[[], bool]) -> None:
        self._connection.set_progress_handler(stop, _STEPS)
        for pragma in ("temp_store=FILE", f"cache_size=-{_CACHE_KIB}", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            self.do(f"PRAGMA {pragma}")
        self.do(f"PRAGMA temp.cache_size=-{_CACHE_KIB}")
        self.do("ATTACH ? AS m", (uri,))

    def close(self) -> None:
        """Close the connection; the temporary tables go with it."""
        self._connection.close()

    def do(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()

    def has(self, table: str) -> bool:
        return bool(self.do(f"SELECT 1 FROM {table} LIMIT 1"))

    # --- Whose word counts --------------------------------------------------------------------------------------------

    def _reporters(self, trust: Trust) -> None:
        """The applications that count, with their people: banned, deleted, anonymous and young ones don't."""
        self.do("CREATE TEMP TABLE reporter (userapp INTEGER PRIMARY KEY, user INTEGER NOT NULL)")
        self.do("CREATE TEMP TABLE maturing (userapp INTEGER PRIMARY KEY, user INTEGER NOT NULL)")
        self.do("CREATE TEMP TABLE active (user INTEGER, day INTEGER, PRIMARY KEY (user, day)) WITHOUT ROWID")
        values = {"nobody": trust.nobody, "old": self.now - trust.account_age, "days": trust.active_days}
        # An account's activity counts with applications that are deleted by now too.
        self.do(
            "INSERT INTO maturing SELECT a.id, u.id FROM m.userapp a JOIN m.user u ON u.id=a.user"
            " WHERE u.registered_by<>'admin' AND u.registered_at<=:old AND u.name_key<>:nobody",
            values,
        )
        if self.do("SELECT 1 FROM maturing LIMIT 1"):
            self._active_days()
        self.do(
            "INSERT INTO reporter SELECT a.id, u.id FROM m.userapp a JOIN m.user u ON u.id=a.user"
            " WHERE a.banned_at IS NULL AND a.deleted_at IS NULL AND u.banned_at IS NULL AND u.name_key<>:nobody"
            " AND (u.registered_by='admin' OR (u.registered_at<=:old"
            " AND (SELECT count(*) FROM active WHERE active.user=u.id)>=:days))",
            values,
        )

    def people(self) -> frozenset[int]:
        """The users whose word counts."""
        return frozenset(user for (user,) in self.do("SELECT DISTINCT user FROM reporter"))

    def _active_days(self) -> None:
        sql = (
            "INSERT OR IGNORE INTO active SELECT DISTINCT t.user, s.received_at/{day} FROM {schema}.submission s"
            " JOIN maturing t ON t.userapp=s.userapp WHERE s.received_at<=?"
        )
        self.do(sql.format(schema="m", day=DAY_MS), (self.now,))
        for _ in self.segments(KINDS, 0):
            self.do(sql.format(schema="seg", day=DAY_MS), (self.now,))

    # --- Walking the segments -----------------------------------------------------------------------------------------

    def segments(self, kinds: Sequence[Kind], since: int) -> Iterator[tuple[Kind, bool]]:
        """Attach one segment after the other as `seg`: its kind, and whether it has its indexes."""
        found = self.do(
            "SELECT kind, id, state FROM m.segment WHERE state='hot' OR last_received_at>=? ORDER BY id", (since,)
        )
        for kind, number, state in found:
            if kind not in kinds or not self._attach(segment_path(self._folder, kind, number), state, number):
                continue
            try:
                yield kind, state == "indexed"
            finally:
                self.do("DETACH seg")

    def _attach(self, path: Path, state: str, number: int) -> bool:
        still = "&immutable=1" if state == "indexed" else ""
        try:
            self.do("ATTACH ? AS seg", (f"{path.as_uri()}?mode=ro{still}",))
        except sqlite3.OperationalError:
            # Retention may have unlinked it since the catalogue was read.
            if self.do("SELECT 1 FROM m.segment WHERE id=?", (number,)):
                raise
            return False
        return True

    # --- Subjects and torrents ----------------------------------------------------------------------------------------

    def make_candidates(self, sql: str, values: Mapping[str, Any], only: bytes | None) -> None:
        """Make the table of subjects that are looked at closely: what a query gives, or one alone."""
        self.do("CREATE TEMP TABLE candidate (key BLOB PRIMARY KEY, low BLOB, high BLOB) WITHOUT ROWID")
        if only is None:
            self.do(f"INSERT INTO candidate (key) {sql}", values)
        else:
            self.do("INSERT INTO candidate (key) VALUES (?)", (only,))
        self.do(
            "UPDATE candidate SET low=iif(length(key)=4, key, CAST(key || zeroblob(8) AS BLOB)),"
            " high=iif(length(key)=4, key, CAST(key || x'ffffffffffffffff' AS BLOB))"
        )

    def make_titles(self, source: str) -> None:
        """Make the table of the torrents that a table refers to: one number for all rows of one identifier."""
        self.do(
            "CREATE TEMP TABLE title"
            " (id INTEGER PRIMARY KEY, torrent INTEGER, big_endian INTEGER, size INTEGER, private INTEGER)"
        )
        self.do(
            f"INSERT INTO title SELECT t.id, iif(t.identifier IN ({UNKNOWN_SQL}), NULL,"
            " (SELECT min(o.id) FROM m.torrent o WHERE o.identifier=t.identifier)), t.big_endian, t.size,"
            " EXISTS (SELECT 1 FROM m.torrent p WHERE p.identifier=t.identifier AND p.private=1)"
            f" FROM m.torrent t WHERE t.id IN (SELECT torrent FROM {source})"
        )

    def make_givers(self, since: int, share_percent: int) -> None:
        """Make the table of the people to whom candidates gave at least this share of what they took.

        A row of traffic is one connection as one application tells it; of its versions the largest count.
        """
        self.do(
            "CREATE TEMP TABLE traffic (key BLOB, user INTEGER, net BLOB, torrent INTEGER, port INTEGER, kind TEXT,"
            " gave INTEGER, took INTEGER)"
        )
        lookups = int(self.do("SELECT count(*) FROM candidate")[0][0]) <= _LOOKUPS
        for kind, indexed in self.segments(KINDS, since):
            peers = (
                f"candidate c CROSS JOIN seg.{kind} s ON s.peer_ip BETWEEN c.low AND c.high"
                if indexed and lookups
                else f"seg.{kind} s CROSS JOIN candidate c ON c.key={subject_of('s.peer_ip')}"
            )
            self.do(
                f"INSERT INTO traffic SELECT c.key, r.user, {network_of('sub.address')} AS net, s.torrent, s.peer_port,"
                f" '{kind}', max(s.from_peer_traffic), max(s.to_peer_traffic) FROM {peers}"
                " CROSS JOIN seg.submission sub ON sub.id=s.submission JOIN reporter r ON r.userapp=sub.userapp"
                " WHERE sub.received_at BETWEEN ? AND ? GROUP BY c.key, r.user, net, s.torrent, s.peer_port",
                (since, self.now),
            )
        self.do(
            "CREATE TEMP TABLE giver AS SELECT key, user, net FROM (SELECT key, user, net, max(gave) AS gave,"
            " max(took) AS took FROM traffic GROUP BY key, user, net, torrent, port, kind) GROUP BY key, user, net"
            " HAVING total(max(gave, 0))>=? AND total(max(gave, 0))*100>=total(max(took, 0))*?",
            (GIVEN_FLOOR, share_percent),
        )
        self.do("CREATE INDEX temp.giver_key ON giver (key)")

    # --- Counting people ----------------------------------------------------------------------------------------------

    def make_voters(self, people: int, *, anyhow: int | None = None, torrents: int = 0, value: int = 0) -> None:
        """From `seen` and `against` make `whole` (people per key) and `decisive`.

        These are the users whose removal would drop the target below a threshold. Needed are so many people in the
        first group of modules or, where more suffice of whatever group, `anyhow`; so many torrents or days; and such a
        sum of values.
        """
        counts = "count(DISTINCT user) AS users, count(DISTINCT net) AS nets"
        self.do(
            f"CREATE TEMP TABLE whole AS SELECT key, {counts}, count(DISTINCT iif(grp=0, user, NULL)) AS first_users,"
            " count(DISTINCT iif(grp=0, net, NULL)) AS first_nets,"
            f" max({DISTINCT}, {DAYS}) AS torrents, total(value) AS value, max(at) AS last,"
            " coalesce((SELECT min(count(DISTINCT g.user), count(DISTINCT g.net)) FROM against g"
            " WHERE g.key=seen.key), 0) AS against FROM seen GROUP BY key"
        )
        self.do("CREATE INDEX temp.whole_key ON whole (key)")
        for table, column, where in (
            ("lone_net", "net", "TRUE"),
            ("lone_first", "net", "grp=0"),
            ("lone_torrent", "torrent", "torrent IS NOT NULL"),
        ):
            self.do(
                f"CREATE TEMP TABLE {table} AS SELECT key, user, count(*) AS lone FROM (SELECT key, {column},"
                f" min(user) AS user FROM seen WHERE {where} GROUP BY key, {column} HAVING min(user)=max(user))"
                " GROUP BY key, user"
            )
            self.do(f"CREATE INDEX temp.{table}subject_of ON {table} (key, user)")
        self.do(
            "CREATE TEMP TABLE decisive AS SELECT v.key, group_concat(v.user) AS users FROM"
            " (SELECT key, user, max(grp=0) AS first, total(value) AS value FROM seen GROUP BY key, user) v"
            " JOIN whole w ON w.key=v.key"
            " LEFT JOIN lone_net n ON n.key=v.key AND n.user=v.user"
            " LEFT JOIN lone_first f ON f.key=v.key AND f.user=v.user"
            " LEFT JOIN lone_torrent t ON t.key=v.key AND t.user=v.user"
            " WHERE (min(w.users-1, w.nets-coalesce(n.lone, 0))-w.against<:anyhow"
            " AND min(w.first_users-v.first, w.first_nets-coalesce(f.lone, 0))-w.against<:people)"
            " OR w.torrents-coalesce(t.lone, 0)<:torrents OR w.value-v.value<:value"
            " GROUP BY v.key",
            {
                "people": people,
                "anyhow": people if anyhow is None else anyhow,
                "torrents": torrents,
                "value": value,
            },
        )
        self.do("CREATE INDEX temp.decisive_key ON decisive (key)")


# --- Off the event loop -----------------------------------------------------------------------------------------------


async def gather(
    database: Database, trust: Trust, now_ms: int, work: Callable[[Evidence], T], time_limit_s: float
) -> T:
    """Run some work on its evidence on a thread of its own.

    Raises SparkleError when it takes longer. A caller that is cancelled waits until the thread has ended.
    """
    deadline = time.monotonic() + time_limit_s
    cancelled = threading.Event()

    def stop() -> bool:
        return cancelled.is_set() or time.monotonic() > deadline

    def run() -> T:
        with refused("read", database.path):
            evidence = Evidence(database, trust, now_ms, stop)
            try:
                return work(evidence)
            except sqlite3.OperationalError as error:
                if "interrupted" not in str(error):
                    raise
                raise _too_slow(time_limit_s) from None
            finally:
                evidence.close()

    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, thread_name_prefix="analysis")
    future = loop.run_in_executor(executor, run)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([future])
        # That it was interrupted is nobody's news; asyncio would log what nobody asks for.
        future.exception()
        raise
    finally:
        executor.shutdown(wait=False)


def _too_slow(limit_s: float) -> SparkleError:
    return SparkleError("overloaded", "analysis.too_slow", seconds=limit_s, retry_after=600)
