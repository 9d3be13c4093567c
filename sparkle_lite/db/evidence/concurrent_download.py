"""What an address downloaded at the same time."""

from collections.abc import Mapping
from typing import NamedTuple

from sparkle_lite.db.evidence.workspace import (
    DISTINCT,
    FINDINGS,
    TORRENTS,
    VOUCHED_VOTER,
    Evidence,
    about,
    enough,
    network_of,
    people_in,
    range_of,
    subject_of,
    users_of,
)
from sparkle_lite.db.segments import KINDS
from sparkle_lite.units import MIB, MINUTE_MS

# As often as clients report, at the most.
BUCKET_MS = 30 * MINUTE_MS

# A snapshot or swarm row of less is a handshake and some requests, not a download.
DOWNLOAD_FLOOR = MIB


class Crowd(NamedTuple):
    """What an address took at the same time, in its busiest half hour; `buckets` counts those that qualify.

    `words` of the people who saw it (hundredths, collapsed by networks); `against` of those who got anything back.
    `vouched_torrents` are those on which people saw it for whom an administrator vouches.
    """

    key: bytes
    voices: int
    words: int
    torrents: int
    buckets: int
    first: int
    last: int
    knocked: int
    against: int
    decisive: tuple[int, ...]
    vouched_torrents: int


def find_crowds(evidence: Evidence, numbers: Mapping[str, int], only: bytes | None = None) -> list[Crowd]:
    """Addresses by the torrents that they download at the same time; with `only` one, however few.

    numbers: window (ms), min_people, min_torrents. Somebody to whom it gave anything at all speaks against it.
    """
    since = evidence.now - numbers["window"]
    _collect_moments(evidence, since, only)
    if not evidence.has("seen_moment"):
        return []
    values = {
        "words": 0 if only else enough(numbers["min_people"]),
        "torrents": 0 if only else numbers["min_torrents"],
    }
    evidence.do(
        f"CREATE TEMP TABLE busy AS SELECT key, bucket, {TORRENTS} FROM seen_moment GROUP BY key, bucket"
        f" HAVING torrents>=:torrents AND {people_in('TRUE')}>=:words",
        values,
    )
    evidence.do(
        "CREATE TEMP TABLE busiest AS SELECT *, count(*) OVER (PARTITION BY key) AS buckets,"
        " row_number() OVER (PARTITION BY key ORDER BY torrents DESC, bucket) AS place FROM busy"
    )
    evidence.make_candidates("SELECT DISTINCT key FROM busy", {}, only)
    evidence.make_knocks(numbers["window"], None if only is None else range_of(only))
    evidence.make_met(since)
    evidence.make_gifts()
    evidence.do(
        "CREATE TEMP TABLE seen AS SELECT m.key, m.voter, m.net, m.torrent, m.big_endian, 0 AS grp, m.at"
        " FROM seen_moment m JOIN busiest b ON b.key=m.key AND b.bucket=m.bucket AND b.place=1"
    )
    evidence.make_voters(numbers["min_people"], torrents=numbers["min_torrents"])
    rows = evidence.do(
        f"SELECT b.key, w.voices, min(w.users, w.nets), b.torrents, b.buckets, s.first*{BUCKET_MS}, w.last,"
        " max(w.last, coalesce(k.knocked, 0)), w.against, d.users,"
        f" (SELECT {DISTINCT} FROM seen WHERE key=b.key AND {VOUCHED_VOTER})"
        " FROM busiest b JOIN whole w ON w.key=b.key LEFT JOIN decisive d ON d.key=b.key"
        " LEFT JOIN knock k ON k.key=b.key"
        " JOIN (SELECT key, min(bucket) AS first FROM busy GROUP BY key) s ON s.key=b.key"
        " WHERE b.place=1 ORDER BY b.torrents DESC, b.key LIMIT ?",
        (FINDINGS,),
    )
    return [Crowd._make((*row[:9], users_of(row[9]), row[10])) for row in rows]


def _collect_moments(evidence: Evidence, since: int, only: bytes | None) -> None:
    """Make `seen_moment`: who saw an address download which torrent in which half hour."""
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
        "CREATE TEMP TABLE seen_moment AS SELECT m.key, m.bucket, r.voter, m.net, t.torrent, t.big_endian, m.at"
        " FROM (SELECT *, TRUE AS has_grown FROM moment WHERE peer IS NULL UNION ALL"
        " SELECT *, taken>lag(taken) OVER (PARTITION BY userapp, peer, port, kind, torrent ORDER BY at, taken)"
        " FROM moment WHERE peer IS NOT NULL) m JOIN title t ON t.id=m.torrent"
        " JOIN reporter r ON r.userapp=m.userapp WHERE m.has_grown AND NOT t.private"
    )
    evidence.do("DROP TABLE moment")
