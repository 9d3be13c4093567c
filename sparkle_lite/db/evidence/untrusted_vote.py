"""What people's clients banned an address for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparkle_lite.db.evidence.workspace import (
    DAYS,
    DISTINCT,
    FINDINGS,
    LONGEST_RECURRENCE,
    TORRENTS,
    Evidence,
    network_of,
    people_in,
    prefix_of,
    subject_of,
    users_of,
)


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
