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
from sparkle_lite.units import DAY_MS, MIB, MINUTE_MS

T = TypeVar("T")
BUCKET_MS = 10 * MINUTE_MS

# Swarm rows below it (bytes that a peer took more than it gave) are left out of over-downloads: they are most rows.
TAKEN_FLOOR = 4 * MIB

# A snapshot or swarm row of less is a handshake and some requests, not a download.
DOWNLOAD_FLOOR = MIB

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


class Module(NamedTuple):
    """A ban module by its full name, for a rule (None: for whatever rule)."""

    name: str
    group: int
    rule: str | None


class Votes(NamedTuple):
    """What people reported of a subject. `cheat_*`: in the first group of modules alone; times in ms."""

    key: bytes
    users: int
    networks: int
    cheat_users: int
    cheat_networks: int
    torrents: int
    days: int
    groups: int
    reports: int
    first: int
    last: int
    against: int
    weight: float
    decisive: tuple[int, ...]
    members: int
    sharing: int

    @property
    def people(self) -> int:
        """Votes: people collapsed by their networks, less those to whom the peer gave."""
        return max(min(self.users, self.networks) - self.against, 0)

    @property
    def cheat_people(self) -> int:
        """The same in the first group of modules alone."""
        return max(min(self.cheat_users, self.cheat_networks) - self.against, 0)


class Flow(NamedTuple):
    """What an address took of torrents, the worst of them in full: `percent` of its size for each of `pairs`."""

    key: bytes
    users: int
    networks: int
    percent: int
    taken: int
    size: int
    sizes: int
    pairs: int
    torrents: int
    days: int
    first: int
    last: int
    against: int
    decisive: tuple[int, ...]

    @property
    def people(self) -> int:
        """Votes: people collapsed by their networks, less those to whom the peer gave."""
        return max(min(self.users, self.networks) - self.against, 0)


class Crowd(NamedTuple):
    """What an address took at the same time, in its busiest ten minutes; `buckets` counts those that qualify."""

    key: bytes
    users: int
    networks: int
    torrents: int
    buckets: int
    first: int
    last: int
    against: int
    decisive: tuple[int, ...]

    @property
    def people(self) -> int:
        """Votes: people collapsed by their networks."""
        return min(self.users, self.networks)


class Disguise(NamedTuple):
    """A way to tell a disguised client: names that begin so, whose true bearers have a peer_id like one of these.

    `peer_ids` are GLOB patterns of ours. `compared`: it matters how many bear the name truly.
    """

    name: str
    peer_ids: tuple[str, ...]
    compared: bool = True


class Bearers(NamedTuple):
    """Who was seen under a disguise: `percent` of the addresses with that name didn't have its peer_id."""

    disguise: int
    users: int
    networks: int
    addresses: int
    percent: int
    torrents: int
    days: int
    first: int
    last: int
    decisive: tuple[int, ...]

    @property
    def people(self) -> int:
        """Votes: people collapsed by their networks."""
        return min(self.users, self.networks)


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
            self._open(database.path, stop)
            self._reporters(trust)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, stop: Callable[[], bool]) -> None:
        self._connection.set_progress_handler(stop, _STEPS)
        for pragma in ("temp_store=FILE", f"cache_size=-{_CACHE_KIB}", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            self.do(f"PRAGMA {pragma}")
        self.do(f"PRAGMA temp.cache_size=-{_CACHE_KIB}")
        self.do("ATTACH ? AS m", (f"{path.as_uri()}?mode=ro",))

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


# --- Votes --------------------------------------------------------------------------------------------------------


def find_votes(
    evidence: Evidence, modules: Sequence[Module], numbers: Mapping[str, int], only: bytes | None = None
) -> list[Votes]:
    """Addresses by what people's clients banned them for, strongest first; with `only` one, however weak.

    numbers: window, half_life (ms), share_percent, min_people (in the first group), min_people_any, min_torrents,
    min_days.
    """
    least = min(numbers["min_people"], numbers["min_people_any"])
    collect_reports(evidence, modules, numbers["window"], 0 if only else least, only=only)
    if not evidence.has("report"):
        return []
    if only is None:
        # What can't be listed anyway needs no look at its traffic, which costs most.
        keep_candidates(
            evidence,
            f"SELECT key FROM report GROUP BY key HAVING ({people_in('grp=0')}>=:min_people"
            f" OR {people_in('TRUE')}>=:min_people_any)"
            f" AND max({DISTINCT}, {DAYS})>=:min_torrents AND max({DAYS}, count(DISTINCT grp))>=:min_days",
            dict(numbers),
        )
    evidence.do("CREATE TEMP TABLE seen AS SELECT * FROM report")
    evidence.make_givers(evidence.now - numbers["window"], numbers["share_percent"])
    evidence.do("CREATE TEMP VIEW against AS SELECT * FROM giver")
    return count_votes(evidence, numbers, only)


def find_prefix_votes(
    evidence: Evidence, modules: Sequence[Module], numbers: Mapping[str, int], only: bytes | None = None
) -> list[Votes]:
    """Prefixes (/24, /56) by their members that qualify each by itself; the votes are those over all of them.

    numbers: as for `find_votes`, and member_people, min_hosts (IPv4), min_subnets (IPv6). With `only`, the prefix of
    that address.
    """
    window = numbers["window"]
    collect_reports(evidence, modules, window, numbers["member_people"], near=only)
    if not evidence.has("report"):
        return []
    wide = "substr({0}, 1, iif(length({0})=4, 3, 7))"
    least = {"hosts": 0 if only else numbers["min_hosts"], "subnets": 0 if only else numbers["min_subnets"]}
    enough = "HAVING count(*)>=iif(length(max({0}))=4, :hosts, :subnets)"
    keep_candidates(
        evidence,
        f"SELECT key FROM candidate WHERE {wide.format('key')} IN (SELECT {wide.format('c.key')} FROM candidate c"
        f" GROUP BY 1 {enough.format('c.key')})",
        least,
    )
    evidence.make_givers(evidence.now - window, numbers["share_percent"])
    evidence.do(
        f"CREATE TEMP TABLE member AS SELECT key FROM report GROUP BY key HAVING {people_in('TRUE')}"
        " -coalesce((SELECT min(count(DISTINCT g.user),"
        " count(DISTINCT g.net)) FROM giver g WHERE g.key=report.key), 0)>=?",
        (numbers["member_people"],),
    )
    evidence.do(
        f"CREATE TEMP TABLE prefix AS SELECT {wide.format('m.key')} AS key FROM member m"
        f" GROUP BY 1 {enough.format('m.key')}",
        least,
    )
    evidence.do(
        f"CREATE TEMP TABLE seen AS SELECT {wide.format('r.key')} AS key, r.key AS member, r.user, r.net,"
        " r.torrent, r.big_endian, r.grp, r.at, r.value FROM report r"
        f" WHERE r.key IN (SELECT key FROM member) AND {wide.format('r.key')} IN (SELECT key FROM prefix)"
    )
    evidence.do(f"CREATE TEMP VIEW against AS SELECT {wide.format('key')} AS key, user, net FROM giver")
    return count_votes(evidence, numbers, only and prefix_of(only))


def collect_reports(
    evidence: Evidence,
    modules: Sequence[Module],
    window: int,
    people: int,
    *,
    only: bytes | None = None,
    near: bytes | None = None,
) -> None:
    """Make `report`: every ban that counts, of the subjects that at least so many people reported."""
    values: dict[str, Any] = {"since": evidence.now - window, "now": evidence.now, "people": people}
    evidence.do("CREATE TEMP TABLE module (id INTEGER, grp INTEGER, rule TEXT)")
    for module in modules:
        evidence.do(
            "INSERT INTO module SELECT id, ?, ? FROM m.label WHERE text=?", (module.group, module.rule, module.name)
        )
    evidence.do("CREATE INDEX temp.module_id ON module (id)")
    counted = "b.btn_ban=0 AND b.received_at BETWEEN :since AND :now AND coalesce(b.ban_at, b.received_at)>=:since"
    beside = ""
    if near is not None:
        prefix, rest = prefix_of(near), (1 if len(near) == 4 else 9)
        values |= {"low": prefix + b"\0" * rest, "high": prefix + b"\xff" * rest}
        beside = " AND b.peer_ip BETWEEN :low AND :high"
    evidence.make_candidates(
        # The index gives each reporter of an address once; only then the addresses of a /64 come together.
        f"SELECT key FROM (SELECT DISTINCT {subject_of('d.peer_ip')} AS key, r.user FROM (SELECT b.peer_ip, b.userapp"
        f" FROM m.ban b INDEXED BY ban_evidence WHERE {counted} AND b.module IN (SELECT id FROM module){beside}"
        " GROUP BY b.peer_ip, b.userapp) d JOIN reporter r ON r.userapp=d.userapp)"
        " GROUP BY key HAVING count(*)>=:people",
        values,
        only,
    )
    evidence.do(
        "CREATE TEMP TABLE raw AS SELECT c.key, r.user, sub.address, b.torrent, mo.grp,"
        " min(b.received_at, coalesce(b.ban_at, b.received_at)) AS at"
        " FROM candidate c CROSS JOIN m.ban b INDEXED BY ban_evidence ON b.peer_ip BETWEEN c.low AND c.high"
        " JOIN module mo ON mo.id=b.module JOIN reporter r ON r.userapp=b.userapp"
        f" LEFT JOIN m.submission sub ON sub.id=b.submission WHERE {counted}"
        " AND (mo.rule IS NULL OR b.rule=mo.rule)",
        values,
    )
    evidence.make_titles("raw")
    evidence.do(
        f"CREATE TEMP TABLE report AS SELECT w.key, w.user, {network_of('w.address')} AS net, t.torrent, t.big_endian,"
        " w.grp, w.at, 0 AS value, w.key AS member FROM raw w JOIN title t ON t.id=w.torrent WHERE NOT t.private"
    )
    evidence.do("DROP TABLE raw")
    # Some fall below when private torrents are left out.
    keep_candidates(evidence, f"SELECT key FROM report GROUP BY key HAVING {people_in('TRUE')}>=:people", values)


def keep_candidates(evidence: Evidence, sql: str, values: Mapping[str, Any]) -> None:
    """Drop all subjects but those that a query gives."""
    evidence.do(f"DELETE FROM candidate WHERE key NOT IN ({sql})", values)
    evidence.do("DELETE FROM report WHERE key NOT IN (SELECT key FROM candidate)")


def count_votes(evidence: Evidence, numbers: Mapping[str, int], only: bytes | None) -> list[Votes]:
    evidence.make_voters(numbers["min_people"], anyhow=numbers["min_people_any"], torrents=numbers["min_torrents"])
    # A vote loses half its weight with every half-life, which is longer the more days there is evidence of.
    # Straight lines between the powers of two: not every SQLite has a logarithm.
    weight = (
        "SELECT v.key, {who}, (2.0-(v.age%v.half)*1.0/v.half)/(2 << min(v.age/v.half, 60)) AS weight FROM"
        " (SELECT s.key, {who}, :now-max(s.at) AS age, :half*min(a.days, :longest) AS half FROM seen s"
        " JOIN span a ON a.key=s.key GROUP BY s.key, {who}) v"
    )
    evidence.do(f"CREATE TEMP TABLE span AS SELECT key, {DAYS} AS days FROM seen GROUP BY key")
    evidence.do("CREATE INDEX temp.span_key ON span (key)")
    values = {"now": evidence.now, "half": numbers["half_life"], "longest": LONGEST_RECURRENCE}
    for table, who in (("user_weight", "user"), ("net_weight", "net")):
        evidence.do(
            f"CREATE TEMP TABLE {table} AS SELECT key, sum(weight) AS weight FROM ({weight.format(who=who)})"
            " GROUP BY key",
            values,
        )
        evidence.do(f"CREATE INDEX temp.{table}subject_of ON {table} (key)")
    where = "WHERE key=:only" if only else ""
    rows = evidence.do(
        f"SELECT s.*, w.against, min(u.weight, n.weight), d.users FROM"
        f" (SELECT key, count(DISTINCT user), count(DISTINCT net), count(DISTINCT iif(grp=0, user, NULL)),"
        f" count(DISTINCT iif(grp=0, net, NULL)), {TORRENTS}, {DAYS},"
        f" count(DISTINCT grp), count(*), min(at), max(at), count(DISTINCT member) AS members FROM seen {where}"
        " GROUP BY key) s JOIN whole w ON w.key=s.key JOIN user_weight u ON u.key=s.key"
        " JOIN net_weight n ON n.key=s.key LEFT JOIN decisive d ON d.key=s.key"
        " ORDER BY min(w.users, w.nets)-w.against DESC, s.key LIMIT :limit",
        {"only": only, "limit": FINDINGS},
    )
    sharing = dict(
        evidence.do(
            "SELECT key, max(members) FROM (SELECT key, count(DISTINCT member) AS members FROM seen"
            " WHERE torrent IS NOT NULL GROUP BY key, torrent) GROUP BY key"
        )
        if any(row[11] > 1 for row in rows)
        else ()
    )
    return [
        Votes._make((*row[:11], row[12], row[13], users_of(row[14]), row[11], sharing.get(row[0], 0))) for row in rows
    ]


# --- Traffic ------------------------------------------------------------------------------------------------------


def find_flows(evidence: Evidence, numbers: Mapping[str, int], only: bytes | None = None) -> list[Flow]:
    """Addresses by what they took of single torrents, worst first; with `only` one, however little.

    numbers: window (ms), share_percent, min_people, min_percent, person_percent, min_traffic (bytes).
    """
    since = evidence.now - numbers["window"]
    _collect_flows(evidence, since, only)
    if not evidence.has("part"):
        return []
    _shares(evidence, {**numbers, "least": 0 if only else numbers["min_people"]})
    enough = "TRUE" if only else "percent>=:percent AND taken>=:traffic"
    evidence.do(
        f"CREATE TEMP TABLE over AS SELECT *, taken*100/size/pairs AS percent FROM share WHERE {enough}",
        {"percent": numbers["min_percent"], "traffic": numbers["min_traffic"]},
    )
    evidence.make_candidates("SELECT DISTINCT key FROM over", {}, only)
    evidence.make_givers(since, numbers["share_percent"])
    evidence.do("CREATE TEMP VIEW against AS SELECT * FROM giver")
    evidence.do(
        "CREATE TEMP TABLE worst AS SELECT *, row_number() OVER"
        " (PARTITION BY key ORDER BY percent DESC, torrent) AS place FROM over"
    )
    evidence.do(
        "CREATE TEMP TABLE seen AS SELECT p.key, p.user, p.net, NULL AS torrent, 0 AS big_endian, 0 AS grp, p.at,"
        " iif(row_number() OVER (PARTITION BY p.key, p.user ORDER BY p.net)=1,"
        " (SELECT min(u.taken, w.cap)*100/w.size/w.pairs FROM person u"
        " WHERE u.key=p.key AND u.torrent=p.torrent AND u.user=p.user), 0) AS value"
        " FROM (SELECT q.key, q.torrent, q.user, q.net, max(q.at) AS at FROM worst o CROSS JOIN part q"
        " ON q.key=o.key AND q.torrent=o.torrent WHERE o.place=1 GROUP BY q.key, q.torrent, q.user, q.net) p"
        " JOIN worst w ON w.key=p.key AND w.torrent=p.torrent AND w.place=1"
    )
    evidence.make_voters(numbers["min_people"], value=numbers["min_percent"])
    rows = evidence.do(
        "SELECT w.key, w.users, w.nets, w.percent, w.taken, w.size, w.sizes, w.pairs, o.torrents, o.days, o.first,"
        " o.last, v.against, d.users FROM worst w JOIN whole v ON v.key=w.key"
        " JOIN (SELECT o.key, count(DISTINCT o.torrent) AS torrents,"
        f" count(DISTINCT p.at/{DAY_MS}) AS days, min(p.at) AS first, max(p.at) AS last FROM over o"
        " JOIN part p ON p.key=o.key AND p.torrent=o.torrent GROUP BY o.key) o ON o.key=w.key"
        " LEFT JOIN decisive d ON d.key=w.key WHERE w.place=1 ORDER BY w.percent DESC, w.key LIMIT ?",
        (FINDINGS,),
    )
    return [Flow._make((*row[:13], users_of(row[13]))) for row in rows]


def _collect_flows(evidence: Evidence, since: int, only: bytes | None) -> None:
    """Make `part`: what each person's applications together gave an address of a torrent within the window.

    Counters are totals: of one that began before the window, or nobody knows when, only the growth counts.
    """
    evidence.do(
        "CREATE TEMP TABLE flow (version INTEGER, userapp INTEGER, key BLOB, net BLOB, torrent INTEGER,"
        " port INTEGER, client INTEGER, taken INTEGER, began INTEGER, at INTEGER)"
    )
    at = "min(sub.received_at, coalesce(s.last_time_seen, sub.received_at))"
    near, bounds = about(only)
    for _ in evidence.segments(("swarm",), since):
        evidence.do(
            f"INSERT INTO flow SELECT s.version_key, sub.userapp, {subject_of('s.peer_ip')},"
            f" {network_of('sub.address')}, s.torrent, s.peer_port, s.client,"
            f" min(s.to_peer_traffic-max(s.from_peer_traffic, 0), {MOST}),"
            f" s.first_time_seen, {at} FROM seg.swarm s {'CROSS' if only else ''} JOIN seg.submission sub"
            " ON sub.id=s.submission WHERE s.to_peer_traffic-max(s.from_peer_traffic, 0)>=:floor"
            " AND sub.userapp IN (SELECT userapp FROM reporter)"
            f" AND sub.received_at BETWEEN :since AND :now AND {at}>=:since{near}",
            {"floor": TAKEN_FLOOR, "since": since, "now": evidence.now, **bounds},
        )
    evidence.make_titles("flow")
    evidence.do(
        f"CREATE TEMP TABLE part AS SELECT f.key, t.torrent, r.user, f.net, min(t.size, {MOST}) AS size, f.port,"
        " f.client, f.most-iif(f.is_older OR t.big_endian, f.least, 0) AS taken, f.at FROM"
        " (SELECT key, userapp, torrent, max(net) AS net, port, client, max(at) AS at, max(taken) AS most,"
        " min(taken) AS least, min(coalesce(began, 0))<:since AS is_older FROM flow"
        " GROUP BY version) f JOIN title t ON t.id=f.torrent JOIN reporter r ON r.userapp=f.userapp"
        " WHERE NOT t.private AND t.torrent IS NOT NULL AND taken>0",
        {"since": since},
    )
    evidence.do("DROP TABLE flow")
    evidence.do("CREATE INDEX temp.part_key ON part (key, torrent, user)")


def _shares(evidence: Evidence, numbers: Mapping[str, int]) -> None:
    """Make `share`: of each (address, torrent) the median size and what was taken, no person counting twice.

    Nobody can say more than `person_percent` of the size, and neither can everybody in one network together. Peers
    behind one address (NAT) are told apart by client and port.
    """
    evidence.do(
        "CREATE TEMP TABLE person AS SELECT key, torrent, user, CAST(total(taken) AS INTEGER) AS taken,"
        " max(size) AS size FROM part GROUP BY key, torrent, user"
    )
    evidence.do("CREATE INDEX temp.person_key ON person (key, torrent, user)")
    evidence.do(
        "CREATE TEMP TABLE sized AS SELECT key, torrent, size, sizes, (:person*size+99)/100 AS cap FROM"
        " (SELECT key, torrent, size, count(*) OVER w AS sizes, row_number() OVER (w ORDER BY size) AS place"
        " FROM person WHERE size>0 AND (key, torrent) IN (SELECT key, torrent FROM person GROUP BY key, torrent"
        " HAVING count(*)>=:least) WINDOW w AS (PARTITION BY key, torrent))"
        " WHERE place=(sizes+1)/2 AND sizes>=:least",
        {"person": numbers["person_percent"], "least": numbers["least"]},
    )
    evidence.do(
        "CREATE TEMP TABLE share AS SELECT z.key, z.torrent, z.size, z.sizes, z.cap,"
        " (SELECT count(*) FROM person u WHERE u.key=z.key AND u.torrent=z.torrent) AS users,"
        " n.nets, n.pairs, min(n.taken, (SELECT CAST(total(min(u.taken, z.cap)) AS INTEGER) FROM person u"
        " WHERE u.key=z.key AND u.torrent=z.torrent)) AS taken FROM sized z JOIN"
        " (SELECT key, torrent, count(*) AS nets, CAST(total(min(taken, cap)) AS INTEGER) AS taken,"
        " max(pairs) AS pairs FROM (SELECT p.key, p.torrent, p.net, CAST(total(p.taken) AS INTEGER) AS taken,"
        " z.cap, (SELECT count(*) FROM (SELECT DISTINCT q.client, q.port FROM part q"
        " WHERE q.key=p.key AND q.torrent=p.torrent)) AS pairs FROM sized z"
        " JOIN part p ON p.key=z.key AND p.torrent=z.torrent GROUP BY p.key, p.torrent, p.net)"
        " GROUP BY key, torrent) n ON n.key=z.key AND n.torrent=z.torrent WHERE min(users, n.nets)>=:least",
        {"least": numbers["least"]},
    )


# --- Many at once -------------------------------------------------------------------------------------------------


def find_crowds(evidence: Evidence, numbers: Mapping[str, int], only: bytes | None = None) -> list[Crowd]:
    """Addresses by the torrents that they download at the same time; with `only` one, however few.

    numbers: window (ms), min_people, min_torrents. Somebody to whom it gave anything at all speaks against it.
    """
    since = evidence.now - numbers["window"]
    _collect_moments(evidence, since, only)
    if not evidence.has("seen_moment"):
        return []
    values = {
        "people": 0 if only else numbers["min_people"],
        "torrents": 0 if only else numbers["min_torrents"],
    }
    evidence.do(
        f"CREATE TEMP TABLE busy AS SELECT key, bucket, {TORRENTS}, count(DISTINCT user) AS users,"
        " count(DISTINCT net) AS nets FROM seen_moment GROUP BY key, bucket"
        " HAVING torrents>=:torrents AND min(users, nets)>=:people",
        values,
    )
    evidence.do(
        "CREATE TEMP TABLE busiest AS SELECT *, count(*) OVER (PARTITION BY key) AS buckets,"
        " row_number() OVER (PARTITION BY key ORDER BY torrents DESC, bucket) AS place FROM busy"
    )
    evidence.make_candidates("SELECT DISTINCT key FROM busy", {}, only)
    evidence.make_givers(since, 0)
    evidence.do("CREATE TEMP VIEW against AS SELECT * FROM giver")
    evidence.do(
        "CREATE TEMP TABLE seen AS SELECT m.key, m.user, m.net, m.torrent, m.big_endian, 0 AS grp, m.at, 0 AS value"
        " FROM seen_moment m JOIN busiest b ON b.key=m.key AND b.bucket=m.bucket AND b.place=1"
    )
    evidence.make_voters(numbers["min_people"], torrents=numbers["min_torrents"])
    rows = evidence.do(
        f"SELECT b.key, b.users, b.nets, b.torrents, b.buckets, s.first*{BUCKET_MS}, w.last, w.against, d.users"
        " FROM busiest b JOIN whole w ON w.key=b.key LEFT JOIN decisive d ON d.key=b.key"
        " JOIN (SELECT key, min(bucket) AS first FROM busy GROUP BY key) s ON s.key=b.key"
        " WHERE b.place=1 ORDER BY b.torrents DESC, b.key LIMIT ?",
        (FINDINGS,),
    )
    return [Crowd._make((*row[:8], users_of(row[8]))) for row in rows]


def _collect_moments(evidence: Evidence, since: int, only: bytes | None) -> None:
    """Make `seen_moment`: who saw an address download which torrent in which ten minutes."""
    evidence.do(
        "CREATE TEMP TABLE moment (key BLOB, bucket INTEGER, userapp INTEGER, net BLOB, torrent INTEGER,"
        " at INTEGER, peer BLOB, port INTEGER, kind TEXT, taken INTEGER)"
    )
    evidence.do("CREATE TEMP TABLE turned AS SELECT id FROM m.torrent WHERE big_endian")
    evidence.do("CREATE INDEX temp.turned_id ON turned (id)")
    # What tells a row of the one before is only held for those that need it.
    growing = ", ".join(f"iif(q.id, {value}, NULL)" for value in ("s.peer_ip", "s.peer_port", "'{kind}'"))
    said = {"snapshot": "sub.populate_time", "swarm": "s.last_time_seen"}
    near, bounds = about(only)
    for kind, _ in evidence.segments(KINDS, since):
        at = f"min(sub.received_at, coalesce({said[kind]}, sub.received_at))"
        evidence.do(
            f"INSERT INTO moment SELECT {subject_of('s.peer_ip')}, {at}/{BUCKET_MS}, sub.userapp,"
            f" {network_of('sub.address')}, s.torrent, {at}, {growing.format(kind=kind)}, s.to_peer_traffic"
            f" FROM seg.{kind} s {'CROSS' if only else ''} JOIN seg.submission sub ON sub.id=s.submission"
            " LEFT JOIN turned q ON q.id=s.torrent WHERE s.to_peer_traffic>=:floor AND s.from_peer_traffic<=0"
            " AND coalesce(s.peer_progress, 0)<1 AND sub.userapp IN (SELECT userapp FROM reporter)"
            f" AND sub.received_at BETWEEN :since AND :now AND {at}>=:since{near}",
            {"floor": DOWNLOAD_FLOOR, "since": since, "now": evidence.now, **bounds},
        )
    evidence.make_titles("moment")
    evidence.do(
        "CREATE TEMP TABLE seen_moment AS SELECT m.key, m.bucket, r.user, m.net, t.torrent, t.big_endian, m.at"
        " FROM (SELECT *, TRUE AS has_grown FROM moment WHERE peer IS NULL UNION ALL"
        " SELECT *, taken>lag(taken) OVER (PARTITION BY userapp, peer, port, kind, torrent ORDER BY at, taken)"
        " FROM moment WHERE peer IS NOT NULL) m JOIN title t ON t.id=m.torrent"
        " JOIN reporter r ON r.userapp=m.userapp WHERE m.has_grown AND NOT t.private"
    )
    evidence.do("DROP TABLE moment")


# --- Disguises ----------------------------------------------------------------------------------------------------


def find_bearers(evidence: Evidence, disguises: Sequence[Disguise], numbers: Mapping[str, int]) -> list[Bearers]:
    """Who was seen downloading under each disguise, and how many bore the name truly.

    numbers: window (ms), min_people, min_addresses, min_torrents.
    """
    since = evidence.now - numbers["window"]
    evidence.do("CREATE TEMP TABLE suspect (client INTEGER, disguise INTEGER, hidden INTEGER)")
    for number, disguise in enumerate(disguises):
        true = " OR ".join(["peer_id GLOB ?"] * len(disguise.peer_ids)) or "FALSE"
        evidence.do(
            f"INSERT INTO suspect SELECT id, ?, NOT ({true}) AS hidden FROM m.client_identity"
            " WHERE peer_id<>'' AND substr(client_name, 1, length(?))=? AND (hidden OR ?)",
            (number, *disguise.peer_ids, disguise.name, disguise.name, disguise.compared),
        )
    evidence.do("CREATE INDEX temp.suspect_client ON suspect (client)")
    _collect_disguised(evidence, since)
    # True bearers are many, and matter only where enough others pass for them.
    evidence.do(
        "CREATE TEMP TABLE rival AS SELECT client, disguise FROM suspect WHERE NOT hidden AND disguise IN"
        " (SELECT key FROM seen GROUP BY key HAVING count(DISTINCT address)>=? AND count(DISTINCT user)>=?)",
        (numbers["min_addresses"], numbers["min_people"]),
    )
    _collect_true(evidence, since)
    evidence.do("CREATE TEMP TABLE against (key INTEGER, user INTEGER, net BLOB)")
    evidence.make_voters(numbers["min_people"], torrents=numbers["min_torrents"])
    rows = evidence.do(
        "SELECT s.*, s.addresses*100/(s.addresses+(SELECT count(DISTINCT o.address) FROM owner o"
        " WHERE o.disguise=s.key AND o.address NOT IN (SELECT address FROM seen WHERE key=s.key))) AS percent,"
        " d.users FROM (SELECT key, count(DISTINCT user), count(DISTINCT net),"
        f" count(DISTINCT address) AS addresses, {TORRENTS}, {DAYS}, min(at),"
        " max(at) FROM seen GROUP BY key) s LEFT JOIN decisive d ON d.key=s.key"
    )
    return [Bearers._make((*row[:4], row[8], *row[4:8], users_of(row[9]))) for row in rows]


def _collect_disguised(evidence: Evidence, since: int) -> None:
    """Make `seen`: who saw a suspect download what."""
    evidence.do(
        "CREATE TEMP TABLE bearer (disguise INTEGER, address BLOB, userapp INTEGER, net BLOB, torrent INTEGER,"
        " at INTEGER)"
    )
    for kind, indexed in evidence.segments(KINDS, since):
        evidence.do(
            f"INSERT INTO bearer SELECT x.disguise, {subject_of('s.peer_ip')} AS peer, sub.userapp,"
            f" {network_of('sub.address')} AS net, s.torrent, max(sub.received_at)"
            f" FROM {_of_clients('suspect', kind, indexed)} CROSS JOIN seg.submission sub ON sub.id=s.submission"
            " WHERE x.hidden AND sub.received_at BETWEEN ? AND ? AND sub.userapp IN (SELECT userapp FROM reporter)"
            " AND s.to_peer_traffic>max(s.from_peer_traffic, 0)"
            f" GROUP BY x.disguise, peer, sub.userapp, net, s.torrent, sub.received_at/{DAY_MS}",
            (since, evidence.now),
        )
    evidence.make_titles("bearer")
    evidence.do(
        "CREATE TEMP TABLE seen AS SELECT b.disguise AS key, b.address, r.user, b.net, t.torrent, t.big_endian,"
        " 0 AS grp, b.at, 0 AS value FROM bearer b JOIN title t ON t.id=b.torrent"
        " JOIN reporter r ON r.userapp=b.userapp WHERE NOT t.private"
    )


def _collect_true(evidence: Evidence, since: int) -> None:
    """Make `owner`: the addresses of those who bear a name truly, whoever tells of them."""
    evidence.do("CREATE INDEX temp.rival_client ON rival (client)")
    evidence.do(
        "CREATE TEMP TABLE owner (disguise INTEGER, address BLOB, PRIMARY KEY (disguise, address)) WITHOUT ROWID"
    )
    if not evidence.do("SELECT 1 FROM rival LIMIT 1"):
        return
    for kind, indexed in evidence.segments(KINDS, since):
        evidence.do(
            f"INSERT OR IGNORE INTO owner SELECT x.disguise, {subject_of('s.peer_ip')}"
            f" FROM {_of_clients('rival', kind, indexed)}"
        )


def _of_clients(table: str, kind: Kind, indexed: bool) -> str:
    """The rows `s` of a segment with a client of a table `x`."""
    if indexed:
        return f"{table} x CROSS JOIN seg.{kind} s ON s.client=x.client"
    return f"seg.{kind} s CROSS JOIN {table} x ON x.client=s.client"


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
        with refused("read"):
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
