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
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from sparkle_lite.db.accounts import KNOWN, VOUCHED
from sparkle_lite.db.connection import BUSY_TIMEOUT_MS, refused
from sparkle_lite.db.database import Database
from sparkle_lite.db.segments import KINDS, Kind, segment_path
from sparkle_lite.db.torrents import UNKNOWN_SQL
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import DAY_MS, MIB

T = TypeVar("T")

# No counter is believed beyond it (16 TiB); sums of what is below don't overflow.
MOST = 1 << 44

# What somebody must have got from a peer to speak for it, or lost to it of a torrent without banning it: the modules of
# clients look at nobody who took less than 48 MiB, and let a tenth of the size pass.
GIVEN_FLOOR, MET_FLOOR, _MET_PERCENT = MIB, 48 * MIB, 12
# An address that was met as so many clients is a VPN's exit, a household or a carrier's.
_SHARED_BY = 4
# What somebody lost is believed up to so much where it is held against what others got back.
_LOSS_CAP = 1024 * MIB
_GAVE = "(m.gave>=:floor AND m.gave*100>=m.took*:share)"

# Findings of one analysis: the strongest; more than this is an attack or a mistake.
FINDINGS = 20_000

# Beyond it a scan of a segment is cheaper than looking its addresses up one by one.
_LOOKUPS = 3_000

# Virtual machine steps between two looks at the clock: some milliseconds, each takes the interpreter lock once.
_STEPS = 400_000
_CACHE_KIB = 32_768

# A listing that ended within it may only have been a little too short.
_JUST_MS = DAY_MS

# How long a listing may last on evidence that is no longer renewed, because its peer is turned away.
LONGEST_MS = 60 * DAY_MS

# A vote's half-life grows with the days of evidence up to so many times.
LONGEST_RECURRENCE = 4


# What one whole word is worth: words are counted in hundredths. So much may be missing of what people are needed, since
# a word that is earned is never quite whole.
WORD, SLACK = 100, 40

# A voter is one number: who speaks (a user, who may stand for a group) and, in the lowest bits, what the word is worth.
# So the words of different voters can be summed in one pass: the bits are enough for all that can come together.
WORD_BITS = 24
_WORD_MASK = (1 << WORD_BITS) - 1
WORD_OF = f"(voter & {_WORD_MASK})"

# What it is worth that an imported list names an address, too.
SUPPORT = WORD // 2

# A word below it is silent; above, it is worth so many hundredths of it.
SILENT, WORTH = 0.5, 125


# What is told of an address and counts for nothing: reports on private torrents, people whose word is silent, people
# whom it cost next to nothing.
LeftOut = Literal["left_private", "left_silent", "left_harmless"]


class Trust(NamedTuple):
    """Whose word counts: self-registered accounts of this age (ms) with so many active days; never `nobody`.

    `private`: whether what is seen on private torrents is evidence. `min_harm`: what a peer must have taken of who
    votes against it (bytes).
    """

    account_age: int
    active_days: int
    nobody: str
    private: bool = False
    min_harm: int = 0


def enough(people: int) -> int:
    """What so many people's words must come to, in hundredths."""
    return max(people * WORD - SLACK, 1)


def subject_of(column: str) -> str:
    return f"iif(length({column})=4, {column}, substr({column}, 1, 8))"


def range_of(key: bytes) -> tuple[bytes, bytes]:
    """The first and the last address of a subject."""
    return (key, key) if len(key) == 4 else (key + bytes(8), key + b"\xff" * 8)


def about(only: bytes | None) -> tuple[str, dict[str, bytes]]:
    """The condition that a row `s` is about one subject, in a way that an index can answer, with its values."""
    if only is None:
        return "", {}
    low, high = range_of(only)
    return " AND s.peer_ip BETWEEN :low AND :high", {"low": low, "high": high}


def prefix_of(key: bytes) -> bytes:
    """The /24 or /56 of a subject."""
    return key[: 3 if len(key) == 4 else 7]


VOUCHED_VOTER = f"(voter >> {WORD_BITS}) IN (SELECT user FROM person WHERE vouched)"
"""Whether a voter is somebody for whom an administrator vouches."""


def users_of(text: str | None) -> tuple[int, ...]:
    """The users (row ids) behind a list of voters as text."""
    return tuple(sorted({int(voter) >> WORD_BITS for voter in text.split(",")})) if text else ()


def network_of(column: str) -> str:
    return f"coalesce(iif(length({column})=4, substr({column}, 1, 3), substr({column}, 1, 6)), x'')"


# Identifiers made in the two byte orders name the same torrents twice, so they are never added.
DISTINCT = "max(count(DISTINCT iif(big_endian, NULL, torrent)), count(DISTINCT iif(big_endian, torrent, NULL)))"
TORRENTS = f"{DISTINCT} AS torrents"
DAYS = f"count(DISTINCT at/{DAY_MS})"


def clients_in(table: str, groups: str) -> str:
    """A query of how many clients there are in each group (columns) of a table (client, voter), as `clients`.

    Programs call the same client differently, so that of different people only its peer_id tells them apart.
    """
    return (
        f"SELECT {groups}, max(clients) AS clients FROM (SELECT {groups}, count(DISTINCT i.peer_id) AS clients"
        f" FROM {table} JOIN m.client_identity i ON i.id={table}.client WHERE i.peer_id<>'' GROUP BY {groups}"
        f" UNION ALL SELECT {groups}, count(DISTINCT client) FROM {table} GROUP BY {groups}, voter) GROUP BY {groups}"
    )


def voices_in(condition: str) -> str:
    """The sum of the words of different voters (hundredths), of the rows of a group that meet a condition."""
    return f"(coalesce(sum(DISTINCT iif({condition}, voter, NULL)), 0) & {_WORD_MASK})"


def people_in(condition: str) -> str:
    """The same collapsed by networks at the most: what `make_voters` counts exactly is never more."""
    return f"min({voices_in(condition)}, {WORD}*count(DISTINCT iif({condition}, net, NULL)))"


class Listings:
    """Since when (ms) each network has been listed, of `rows` (address, prefix, since when)."""

    def __init__(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        self._since: dict[tuple[int, int], dict[int, int]] = {}
        for address, prefix, at in rows:
            shift = len(address) * 8 - prefix
            networks = self._since.setdefault((len(address), shift), {})
            networks[int.from_bytes(address, "big") >> shift] = at

    def since(self, key: bytes) -> int | None:
        """Since when (ms) a subject (its first 4 or 8 bytes) has been listed, however it was."""
        size = 4 if len(key) == 4 else 16
        value = int.from_bytes(key.ljust(size, b"\0"), "big")
        places = ((networks, value >> shift) for (length, shift), networks in self._since.items() if length == size)
        return min((networks[place] for networks, place in places if place in networks), default=None)


class Evidence:
    """The work space of one analysis at one instant; used on one thread, by `gather` alone."""

    def __init__(self, database: Database, trust: Trust, now_ms: int, stop: Callable[[], bool]) -> None:
        self.now = now_ms
        self._folder = database.segment_folder
        # Of a single address: how much is said of it that is no evidence here, by why.
        self.left_out: dict[LeftOut, int] = {}
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
        """The applications that count, with their people and what their words are worth.

        Banned, deleted and anonymous ones don't; nor does anybody's word before it is earned, but for those vouched
        for. `person` has everybody whose word may be weighed.
        """
        self._private, self.min_harm = trust.private, trust.min_harm
        self.do(
            "CREATE TEMP TABLE person (userapp INTEGER PRIMARY KEY, user INTEGER NOT NULL, vouched INTEGER NOT NULL)"
        )
        self.do("CREATE TEMP TABLE reporter (userapp INTEGER PRIMARY KEY, user INTEGER NOT NULL, voter INTEGER)")
        self.do("CREATE TEMP TABLE maturing (userapp INTEGER PRIMARY KEY, user INTEGER NOT NULL)")
        self.do("CREATE TEMP TABLE active (user INTEGER, day INTEGER, PRIMARY KEY (user, day)) WITHOUT ROWID")
        values = {"nobody": trust.nobody, "old": self.now - trust.account_age, "days": trust.active_days}
        # An account's activity counts with applications that are deleted by now too.
        self.do(
            "INSERT INTO maturing SELECT a.id, u.id FROM m.userapp a JOIN m.user u ON u.id=a.user"
            f" WHERE NOT {KNOWN} AND u.registered_at<=:old AND u.name_key<>:nobody",
            values,
        )
        if self.do("SELECT 1 FROM maturing LIMIT 1"):
            self._active_days()
        self.do(
            f"INSERT INTO person SELECT a.id, u.id, {VOUCHED} FROM m.userapp a JOIN m.user u ON u.id=a.user"
            " WHERE a.banned_at IS NULL AND a.deleted_at IS NULL AND u.banned_at IS NULL AND u.name_key<>:nobody"
            f" AND ({KNOWN} OR (u.registered_at<=:old"
            " AND (SELECT count(*) FROM active WHERE active.user=u.id)>=:days))",
            values,
        )
        self.do(
            f"INSERT INTO reporter SELECT p.userapp, p.user, iif(p.vouched, p.user<<{WORD_BITS} | {WORD},"
            # Who spoke for others and is vouched for by now speaks for nobody else any more.
            f" iif(w.voice IN (SELECT user FROM person WHERE vouched), p.user, w.voice)<<{WORD_BITS}"
            f" | min(CAST({WORTH}*w.value AS INTEGER), {WORD})) FROM person p"
            " LEFT JOIN m.word w ON w.user=p.user WHERE p.vouched OR w.value>=?",
            (SILENT,),
        )
        # Who stand for one another speak as loudly as the loudest of them.
        self.do(
            f"UPDATE reporter SET voter=o.voter FROM (SELECT voter>>{WORD_BITS} AS voice, max(voter) AS voter"
            f" FROM reporter GROUP BY 1) o WHERE o.voice=reporter.voter>>{WORD_BITS}"
        )

    def grown(self) -> frozenset[int]:
        """The users whose word may be weighed: vouched for, added by an administrator, or here for long enough."""
        return frozenset(user for (user,) in self.do("SELECT DISTINCT user FROM person"))

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

    # --- Ends ---------------------------------------------------------------------------------------------------------

    def make_knocks(self, window: int, within: tuple[bytes, bytes] | None = None) -> None:
        """Make `knock`: when those whose words count turned a listed peer away last, within a window (ms).

        Of all peers, or of those `within` a range of addresses.
        While it keeps knocking nobody can see it cheat: so its listing doesn't fade, for `LONGEST_MS` at the most. What
        isn't listed any more has nothing to keep: nobody's knocks bring back what is over.
        """
        near = "" if within is None else " AND b.peer_ip BETWEEN ? AND ?"
        self.do(
            f"CREATE TEMP TABLE knock AS SELECT {subject_of('b.peer_ip')} AS key, max(b.received_at) AS knocked"
            " FROM m.ban b INDEXED BY ban_caused JOIN reporter r ON r.userapp=b.userapp"
            f" WHERE b.btn_ban=1 AND b.received_at BETWEEN ? AND ?{near} GROUP BY 1",
            (self.now - window, self.now, *(within or ())),
        )
        self.do("CREATE UNIQUE INDEX temp.knock_key ON knock (key)")
        if not self.has("knock"):
            return
        listings = self.listings(self.now - _JUST_MS)
        kept = [key.hex().upper() for (key,) in self.do("SELECT key FROM knock") if listings.since(key) is not None]
        self.do("DELETE FROM knock WHERE hex(key) NOT IN (SELECT value FROM json_each(?))", (json.dumps(kept),))

    def listings(self, since: int) -> Listings:
        """What was listed at some time since then (ms), by whomever."""
        return Listings(
            self.do(
                "SELECT address, prefix, min(created_at) FROM m.decision WHERE kind='ip' AND action='deny'"
                " AND state='active' AND ends_at>? GROUP BY address, prefix",
                (since,),
            )
        )

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
        """Make the table of the torrents that a table (torrent, userapp) refers to: a number for all of one identifier.

        A torrent is private when most of those who report it say so, one person one voice, by their words; where
        private torrents count, none is.
        """
        self.do(
            "CREATE TEMP TABLE title"
            " (id INTEGER PRIMARY KEY, torrent INTEGER, big_endian INTEGER, size INTEGER, private INTEGER)"
        )
        self.do(
            f"INSERT INTO title SELECT t.id, iif(t.identifier IN ({UNKNOWN_SQL}), NULL,"
            " (SELECT min(o.id) FROM m.torrent o WHERE o.identifier=t.identifier)), t.big_endian, t.size, 0"
            f" FROM m.torrent t WHERE t.id IN (SELECT torrent FROM {source})"
        )
        if self._private:
            return
        self.do(
            # Most torrents nobody calls private.
            "CREATE TEMP TABLE contested AS SELECT id FROM title WHERE torrent IN"
            " (SELECT t.torrent FROM title t JOIN m.torrent p ON p.id=t.id WHERE p.private=1)"
        )
        self.do("CREATE INDEX temp.contested_id ON contested (id)")
        self.do(
            "UPDATE title SET private=1 WHERE torrent IN (SELECT t.torrent FROM title t JOIN m.torrent p ON p.id=t.id"
            f" JOIN (SELECT DISTINCT torrent, userapp FROM {source} WHERE torrent IN (SELECT id FROM contested)) s"
            " ON s.torrent=t.id"
            " JOIN reporter r ON r.userapp=s.userapp WHERE t.torrent IS NOT NULL"
            f" GROUP BY t.torrent HAVING {voices_in('p.private=1')}>{voices_in('p.private=0')})"
            " OR (torrent IS NULL AND id IN (SELECT id FROM m.torrent WHERE private=1))"
        )

    def make_met(self, since: int, of: str = "reporter") -> None:
        """Make the table of the people whom candidates met: what they gave and took (bytes), over all torrents.

        `shared` are those that were met as so many different clients that several people must be behind them.
        `judged` is what they took of torrents of which they took so much that a module had to judge them, from whatever
        ports they came.

        A row of traffic is one connection as one application tells it; of its versions the largest count. Both kinds
        of rows tell of the same bytes, so that the larger sum counts. `of` is a table of applications with voters.
        """
        self.do(
            "CREATE TEMP TABLE traffic (key BLOB, voter INTEGER, net BLOB, torrent INTEGER, port INTEGER, kind TEXT,"
            " client INTEGER, gave INTEGER, took INTEGER)"
        )
        lookups = int(self.do("SELECT count(*) FROM candidate")[0][0]) <= _LOOKUPS
        for kind, indexed in self.segments(KINDS, since):
            peers = (
                f"candidate c CROSS JOIN seg.{kind} s ON s.peer_ip BETWEEN c.low AND c.high"
                if indexed and lookups
                else f"seg.{kind} s CROSS JOIN candidate c ON c.key={subject_of('s.peer_ip')}"
            )
            self.do(
                f"INSERT INTO traffic SELECT c.key, r.voter, {network_of('sub.address')} AS net, s.torrent,"
                f" s.peer_port, '{kind}', s.client, max(s.from_peer_traffic), max(s.to_peer_traffic) FROM {peers}"
                f" CROSS JOIN seg.submission sub ON sub.id=s.submission JOIN {of} r ON r.userapp=sub.userapp"
                " WHERE sub.received_at BETWEEN ? AND ? GROUP BY c.key, r.voter, net, s.torrent, s.peer_port, s.client",
                (since, self.now),
            )
        self.do(
            "CREATE TEMP TABLE met AS SELECT key, voter, net, CAST(total(gave) AS INTEGER) AS gave,"
            " CAST(total(took) AS INTEGER) AS took, CAST(total(iif(t.size>0 AND"
            f" took>=max({MET_FLOOR}, t.size*{_MET_PERCENT}/100), took-gave, 0)) AS INTEGER) AS judged"
            " FROM (SELECT key, voter, net, torrent, max(gave) AS gave, max(took) AS took FROM"
            " (SELECT key, voter, net, torrent, kind, CAST(total(gave) AS INTEGER) AS gave,"
            " CAST(total(took) AS INTEGER) AS took FROM (SELECT key, voter, net, torrent, kind, max(max(gave), 0)"
            " AS gave, max(max(took), 0) AS took FROM traffic GROUP BY key, voter, net, torrent, kind, port)"
            " GROUP BY key, voter, net, torrent, kind) GROUP BY key, voter, net, torrent)"
            " JOIN m.torrent t ON t.id=torrent GROUP BY key, voter, net"
        )
        self.do("CREATE INDEX temp.met_key ON met (key, voter)")
        self.do(
            f"CREATE TEMP TABLE shared AS SELECT key FROM ({clients_in('traffic', 'key')}) WHERE clients>=?",
            (_SHARED_BY,),
        )
        self.do("DROP TABLE traffic")

    def make_against(self, losses: str, share_percent: int) -> None:
        """From `met` make the table of those who speak for a peer, and how much (`less`, hundredths).

        They got at least this share back of what it took of them, or lost as much as makes a module look and didn't ban
        it: that is half their word, in proportion to what those lost who speak against it. Where several people share
        the address, whoever got anything back would lose an honest peer, and counts twice. `losses` is a query of the
        losses (key, voter, lost in bytes), of which nobody's counts beyond a gibibyte: a loss is easily made up.
        """
        self.do(f"CREATE TEMP TABLE loss AS {losses}")
        self.do("CREATE INDEX temp.loss_key ON loss (key, voter)")
        self.do(
            f"CREATE TEMP TABLE usual AS SELECT key, max(total(min(lost, {_LOSS_CAP}))/count(*), 1.0) AS lost FROM loss"
            " GROUP BY key"
        )
        self.do("CREATE INDEX temp.usual_key ON usual (key)")
        shared = "(m.gave>=:floor AND m.key IN (SELECT key FROM shared))"
        self.do(
            "CREATE TEMP TABLE against AS SELECT m.key, m.voter, m.net,"
            f" CAST((m.voter & {_WORD_MASK})*iif({shared}, 2.0,"
            f" 0.5*min(1.0, iif({_GAVE}, m.gave, m.judged)/coalesce(u.lost, 1.0))) AS INTEGER) AS less"
            f" FROM met m LEFT JOIN usual u ON u.key=m.key WHERE {shared} OR {_GAVE} OR"
            " (m.judged>=:met AND NOT EXISTS (SELECT 1 FROM loss l WHERE l.key=m.key AND l.voter=m.voter))",
            {"floor": GIVEN_FLOOR, "share": share_percent, "met": MET_FLOOR},
        )
        self.do("CREATE INDEX temp.against_key ON against (key)")

    def make_gifts(self) -> None:
        """The same table from `met`, of everybody who got anything at all back."""
        self.do(
            f"CREATE TEMP TABLE against AS SELECT key, voter, net, {WORD_OF}/2 AS less FROM met WHERE gave>=?",
            (GIVEN_FLOOR,),
        )
        self.do("CREATE INDEX temp.against_key ON against (key)")

    def make_supported(self) -> None:
        """Make the table of the candidates in a network of an imported list that only supports what people here saw."""
        self._connection.create_function("cut", 2, _cut, deterministic=True)
        self.do("CREATE TEMP TABLE width AS SELECT DISTINCT length(address) AS size, prefix FROM m.import_support")
        self.do(
            "CREATE TEMP TABLE supported AS SELECT c.key FROM candidate c WHERE EXISTS (SELECT 1 FROM width w"
            " CROSS JOIN m.import_support s ON s.address=cut(c.low, w.prefix) AND s.prefix=w.prefix"
            " WHERE w.size=length(c.low))"
            # What lies in a subscriber's network is about that subscriber.
            " OR (length(c.key)=8 AND EXISTS (SELECT 1 FROM m.import_support s"
            " WHERE s.address BETWEEN c.low AND c.high AND length(s.address)=16))"
        )
        self.do("CREATE INDEX temp.supported_key ON supported (key)")

    # --- Counting people ----------------------------------------------------------------------------------------------

    def make_voters(
        self, people: int, *, anyhow: int | None = None, torrents: int = 0, is_supported: bool = False
    ) -> None:
        """From `seen` and `against` make `whole` (words per key, in hundredths) and `decisive`.

        These are the voters whose removal would drop the target below a threshold. Needed are the words of so many
        people in the first group of modules or, where more suffice of whatever group, `anyhow`; and so many torrents
        or days. `is_supported`: what is in the table of those is worth half a word more.
        """
        self.do("CREATE TEMP TABLE heard AS SELECT key, voter, net, max(grp=0) AS first FROM seen GROUP BY 1, 2, 3")
        # Of a network the loudest counts; `lone` is what it would lose without that voter.
        for table, where in (("loud", "TRUE"), ("loud_first", "first")):
            self.do(
                f"CREATE TEMP TABLE {table} AS SELECT key, voter, word, word-coalesce(next, 0) AS lone FROM (SELECT"
                f" key, voter, {WORD_OF} AS word, lead({WORD_OF}) OVER w AS next, row_number() OVER w AS place"
                f" FROM heard WHERE {where} WINDOW w AS (PARTITION BY key, net ORDER BY {WORD_OF} DESC, voter))"
                " WHERE place=1"
            )
            self.do(f"CREATE INDEX temp.{table}_key ON {table} (key, voter)")
        self.do(
            f"CREATE TEMP TABLE whole AS SELECT key, count(DISTINCT voter) AS voices, {voices_in('TRUE')} AS users,"
            f" {voices_in('grp=0')} AS first_users,"
            " (SELECT CAST(total(l.word) AS INTEGER) FROM loud l WHERE l.key=seen.key) AS nets,"
            " (SELECT CAST(total(l.word) AS INTEGER) FROM loud_first l WHERE l.key=seen.key) AS first_nets,"
            f" max({DISTINCT}, {DAYS}) AS torrents, max(at) AS last, 0 AS against, 0 AS support"
            " FROM seen GROUP BY key"
        )
        self.do("CREATE INDEX temp.whole_key ON whole (key)")
        if is_supported:
            self.do(
                f"UPDATE whole SET support={SUPPORT}, users=users+{SUPPORT}, nets=nets+{SUPPORT},"
                f" first_users=first_users+iif(first_users>0, {SUPPORT}, 0),"
                f" first_nets=first_nets+iif(first_users>0, {SUPPORT}, 0) WHERE key IN (SELECT key FROM supported)"
            )
        self.do(
            "UPDATE whole SET against=a.less FROM (SELECT u.key, min(u.less, n.less) AS less FROM"
            " (SELECT key, sum(less) AS less FROM (SELECT key, max(less) AS less FROM against GROUP BY key, voter)"
            " GROUP BY key) u JOIN (SELECT key, sum(less) AS less FROM (SELECT key, max(less) AS less FROM against"
            " GROUP BY key, net) GROUP BY key) n ON n.key=u.key) a WHERE a.key=whole.key"
        )
        self.do(
            "CREATE TEMP TABLE lone_torrent AS SELECT key, voter, count(*) AS lone FROM (SELECT key, torrent,"
            " min(voter) AS voter FROM seen WHERE torrent IS NOT NULL GROUP BY key, torrent"
            " HAVING min(voter)=max(voter)) GROUP BY key, voter"
        )
        self.do("CREATE INDEX temp.lone_torrent_key ON lone_torrent (key, voter)")
        self.do(
            "CREATE TEMP TABLE decisive AS SELECT v.key, group_concat(v.voter) AS users FROM"
            f" (SELECT key, voter, {WORD_OF} AS word, max(grp=0) AS first FROM seen"
            " GROUP BY key, voter) v JOIN whole w ON w.key=v.key"
            " LEFT JOIN lone_torrent t ON t.key=v.key AND t.voter=v.voter"
            f" WHERE (min(w.users-v.word, w.nets-{_lone('loud')})-w.against<:anyhow"
            f" AND min(w.first_users-v.first*v.word, w.first_nets-{_lone('loud_first')})-w.against<:people)"
            " OR w.torrents-coalesce(t.lone, 0)<:torrents GROUP BY v.key",
            {
                "people": enough(people),
                "anyhow": enough(people if anyhow is None else anyhow),
                "torrents": torrents,
            },
        )
        self.do("CREATE INDEX temp.decisive_key ON decisive (key)")


def _cut(address: bytes, prefix: int) -> bytes:
    """An address (4 or 16 bytes) with nothing left behind a prefix."""
    rest = len(address) * 8 - prefix
    return (int.from_bytes(address, "big") >> rest << rest).to_bytes(len(address), "big")


def _lone(table: str) -> str:
    """What the networks of a key would lose without the voter `v`."""
    return f"(SELECT CAST(total(l.lone) AS INTEGER) FROM {table} l WHERE l.key=v.key AND l.voter=v.voter)"


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
