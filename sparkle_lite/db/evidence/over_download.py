"""What an address took of torrents, all told."""

from collections.abc import Mapping
from typing import NamedTuple

from sparkle_lite.db.evidence.workspace import (
    FINDINGS,
    MOST,
    Evidence,
    about,
    network_of,
    subject_of,
    users_of,
)
from sparkle_lite.units import DAY_MS, MIB

# Swarm rows below it (bytes that a peer took more than it gave) are left out of over-downloads: they are most rows.
TAKEN_FLOOR = 4 * MIB


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
