"""What an address took of torrents, all told."""

from collections.abc import Mapping
from typing import NamedTuple

from sparkle_lite.db.evidence.workspace import (
    DISTINCT,
    FINDINGS,
    GIVEN_FLOOR,
    MOST,
    VOUCHED_VOTER,
    WORD,
    Evidence,
    about,
    clients_in,
    enough,
    network_of,
    range_of,
    subject_of,
    users_of,
    voices_in,
)
from sparkle_lite.units import DAY_MS, MIB

# Swarm rows below it (bytes that a peer took more than it gave) are left out of over-downloads: they are most rows.
TAKEN_FLOOR = 4 * MIB

# Of a torrent so much of its size is a copy: the last pieces often come from somebody else.
_COPY_PERCENT = 80

# Who asks how far an address is from it is told of copies from so small a part on of what is needed.
_TOLD_OF_COPIES = 20

# A torrent counts among several when so many people's counters tell of it.
_SEVERAL_PEOPLE = 2


class Flow(NamedTuple):
    """What an address took of torrents, the worst of them in full: `percent` of its size for each of `pairs`.

    `torrents` are those of which it took more than anybody needs, `least_percent` what it took of the least of them.
    `words` of those whom it took them from (hundredths, collapsed by networks), less those that speak for it
    (`against`). `knocked`: when it was turned away last, or was seen last (ms). `vouched`: of one of the torrents the
    counters of people for whom an administrator vouches alone tell of more than anybody needs.
    """

    key: bytes
    voices: int
    words: int
    percent: int
    least_percent: int
    taken: int
    size: int
    pairs: int
    torrents: int
    days: int
    first: int
    last: int
    knocked: int
    against: int
    decisive: tuple[int, ...]
    vouched: bool


class Copies(NamedTuple):
    """How many torrents an address took a copy of: each is what anybody may take, but nobody needs so many.

    `clients` were met there; `gave`: whether anybody whose word counts got anything back. The rest as in `Flow`.
    """

    key: bytes
    voices: int
    words: int
    copies: int
    clients: int
    taken: int
    gave: bool
    days: int
    first: int
    last: int
    knocked: int
    decisive: tuple[int, ...]
    vouched: bool


def find_flows(evidence: Evidence, numbers: Mapping[str, int], only: bytes | None = None) -> list[Flow]:
    """Addresses by what they took of single torrents, worst first; with `only` one, however little.

    numbers: window (ms), share_percent, min_people, min_percent, several_percent, person_percent, min_traffic (bytes),
    min_copies.
    """
    since = evidence.now - numbers["window"]
    _collect_flows(evidence, since, only)
    if not evidence.has("part"):
        return []
    _shares(evidence, {**numbers, "least": 0 if only else enough(min(numbers["min_people"], _SEVERAL_PEOPLE))})
    qualifies = "TRUE" if only else "percent>=:several"
    evidence.do(
        f"CREATE TEMP TABLE over AS SELECT *, taken*100/size/pairs AS percent FROM share WHERE {qualifies}",
        {"several": min(numbers["several_percent"], numbers["min_percent"])},
    )
    few = numbers["min_copies"] // _TOLD_OF_COPIES
    _collect_copies(evidence, {**numbers, "least": max(few, 1) if only else numbers["min_copies"]})
    if only is not None and evidence.has("hoard"):
        # What is told is about the torrents of which it took too much, or else about the many that it took whole.
        evidence.do("DELETE FROM over WHERE percent<?", (numbers["several_percent"],))
    elif only is not None:
        # Or about the one that is nearest to it.
        evidence.do(
            "DELETE FROM over WHERE percent<? AND torrent NOT IN"
            " (SELECT torrent FROM over ORDER BY percent DESC, taken DESC LIMIT 1)",
            (numbers["several_percent"],),
        )
    else:
        # Two people's counters are enough of one torrent among several.
        evidence.do(
            "DELETE FROM over WHERE key NOT IN (SELECT key FROM over GROUP BY key HAVING total(taken)>=:traffic"
            " AND (count(*)>1 OR max(percent)>=:percent))",
            {"percent": numbers["min_percent"], "traffic": numbers["min_traffic"]},
        )
    evidence.do("CREATE INDEX temp.over_key ON over (key)")
    evidence.make_candidates("SELECT key FROM over UNION SELECT key FROM hoard", {}, only)
    evidence.make_knocks(numbers["window"], None if only is None else range_of(only))
    evidence.make_met(since)
    evidence.make_against(
        "SELECT key, voter, max(taken) AS lost FROM source WHERE key IN (SELECT key FROM over) GROUP BY key, voter",
        numbers["share_percent"],
    )
    evidence.do(
        "CREATE TEMP TABLE worst AS SELECT *, row_number() OVER"
        " (PARTITION BY key ORDER BY percent DESC, taken DESC, torrent) AS place FROM over"
    )
    evidence.do(
        "CREATE TEMP TABLE seen AS SELECT q.key, q.voter, q.net, NULL AS torrent, 0 AS big_endian, 0 AS grp,"
        " max(q.at) AS at FROM over o CROSS JOIN part q ON q.key=o.key AND q.torrent=o.torrent"
        " GROUP BY q.key, q.voter, q.net UNION ALL"
        " SELECT c.key, q.voter, q.net, NULL, 0, 0, max(q.at) FROM copied c CROSS JOIN part q"
        " ON q.key=c.key AND q.torrent=c.torrent WHERE c.key NOT IN (SELECT key FROM over)"
        " GROUP BY q.key, q.voter, q.net"
    )
    evidence.make_voters(numbers["min_people"])
    rows = evidence.do(
        "SELECT w.key, v.voices, max(min(v.users, v.nets)-v.against, 0), w.percent, o.least, o.taken, w.size, w.pairs,"
        " o.torrents, o.days, o.first, o.last, max(o.last, coalesce(k.knocked, 0)), v.against, d.users,"
        " o.vouched FROM worst w JOIN whole v ON v.key=w.key"
        " JOIN (SELECT o.key, count(DISTINCT o.torrent) AS torrents, min(o.percent) AS least,"
        " (SELECT CAST(total(t.taken) AS INTEGER) FROM over t WHERE t.key=o.key) AS taken,"
        f" count(DISTINCT p.at/{DAY_MS}) AS days, min(p.at) AS first, max(p.at) AS last,"
        # To have served an honest peer confirms nothing: nobody takes a torrent more than once of vouched people alone.
        " (SELECT max((SELECT total(s.taken) FROM source s WHERE s.key=t.key AND s.torrent=t.torrent"
        f" AND {VOUCHED_VOTER})>t.size*t.pairs) FROM over t WHERE t.key=o.key) AS vouched FROM over o"
        " JOIN part p ON p.key=o.key AND p.torrent=o.torrent GROUP BY o.key) o ON o.key=w.key"
        " LEFT JOIN knock k ON k.key=w.key LEFT JOIN decisive d ON d.key=w.key"
        " WHERE w.place=1 ORDER BY w.percent DESC, w.key LIMIT ?",
        (FINDINGS,),
    )
    return [Flow._make((*row[:14], users_of(row[14]), bool(row[15]))) for row in rows]


def find_copies(evidence: Evidence) -> list[Copies]:
    """Addresses by the torrents that they took a copy of, most first: after `find_flows`, of what that left out."""
    if not evidence.has("part"):
        return []
    rows = evidence.do(
        "SELECT h.key, w.voices, min(w.users, w.nets), h.copies, h.clients, h.taken,"
        " EXISTS (SELECT 1 FROM met m WHERE m.key=h.key AND m.gave>=:floor), s.days, s.first, w.last,"
        " max(w.last, coalesce(k.knocked, 0)), d.users, s.vouched*4>=h.copies FROM hoard h JOIN whole w ON w.key=h.key"
        f" JOIN (SELECT c.key, count(DISTINCT q.at/{DAY_MS}) AS days, min(q.at) AS first,"
        f" count(DISTINCT iif({VOUCHED_VOTER}, q.torrent, NULL)) AS vouched FROM copied c CROSS JOIN part q"
        " ON q.key=c.key AND q.torrent=c.torrent GROUP BY c.key) s ON s.key=h.key"
        " LEFT JOIN knock k ON k.key=h.key LEFT JOIN decisive d ON d.key=h.key"
        " WHERE h.key NOT IN (SELECT key FROM over) ORDER BY h.copies DESC, h.key LIMIT :limit",
        {"floor": GIVEN_FLOOR, "limit": FINDINGS},
    )
    return [Copies._make((*row[:6], bool(row[6]), *row[7:11], users_of(row[11]), bool(row[12]))) for row in rows]


def _collect_copies(evidence: Evidence, numbers: Mapping[str, int]) -> None:
    """Make `hoard`, who took a copy of at least so many (`least`) torrents, and `copied`, which (key, torrent)."""
    evidence.do(
        "CREATE TEMP TABLE copied AS SELECT key, torrent, max(big_endian) AS big_endian,"
        " CAST(total(min(taken, size)) AS INTEGER) AS taken FROM source WHERE size>0 GROUP BY key, torrent"
        " HAVING total(min(taken, size))*100>=max(size)*:copy",
        {"copy": _COPY_PERCENT},
    )
    many = "SELECT key FROM copied GROUP BY key HAVING count(*)>=:least"
    evidence.do(f"DELETE FROM copied WHERE key NOT IN ({many})", numbers)
    evidence.do("CREATE INDEX temp.copied_key ON copied (key, torrent)")
    evidence.do(
        "CREATE TEMP TABLE bearer AS SELECT c.key, q.client, q.voter FROM copied c CROSS JOIN part q"
        " ON q.key=c.key AND q.torrent=c.torrent GROUP BY 1, 2, 3"
    )
    evidence.do(
        f"CREATE TEMP TABLE hoard AS SELECT c.key, {DISTINCT} AS copies, n.clients,"
        " CAST(total(c.taken) AS INTEGER) AS taken"
        f" FROM copied c JOIN ({clients_in('bearer', 'key')}) n ON n.key=c.key GROUP BY c.key HAVING copies>=:least",
        numbers,
    )


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
        "CREATE TEMP TABLE part AS SELECT f.key, t.torrent, t.big_endian, r.voter, f.net,"
        f" min(t.size, {MOST}) AS size, f.port, f.client, f.most-iif(f.is_older OR t.big_endian, f.least, 0) AS taken,"
        " coalesce(f.began, f.at) AS began, f.at FROM"
        " (SELECT key, userapp, torrent, max(net) AS net, port, client, max(at) AS at, max(taken) AS most,"
        " min(taken) AS least, min(coalesce(began, 0))<:since AS is_older, min(began) AS began FROM flow"
        " GROUP BY version) f JOIN title t ON t.id=f.torrent JOIN reporter r ON r.userapp=f.userapp"
        " WHERE NOT t.private AND t.torrent IS NOT NULL AND taken>0",
        {"since": since},
    )
    evidence.do("DROP TABLE flow")
    evidence.do("CREATE INDEX temp.part_key ON part (key, torrent, voter)")


def _shares(evidence: Evidence, numbers: Mapping[str, int]) -> None:
    """Make `share`: of each (address, torrent) the median size and what was taken, no person counting twice.

    Nobody can say more than `person_percent` of the size, and neither can everybody in one network together. Peers
    behind one address (NAT) are told apart by their clients, or by what one person saw there at one time: over a week
    anybody can come from any number of ports.
    """
    evidence.do(
        "CREATE TEMP TABLE source AS SELECT key, torrent, voter, CAST(total(taken) AS INTEGER) AS taken,"
        " max(size) AS size, max(big_endian) AS big_endian FROM part GROUP BY key, torrent, voter"
    )
    evidence.do("CREATE INDEX temp.source_key ON source (key, torrent, voter)")
    evidence.do(
        "CREATE TEMP TABLE sized AS SELECT key, torrent, size, (:person*size+99)/100 AS cap FROM"
        " (SELECT key, torrent, size, count(*) OVER w AS sizes, row_number() OVER (w ORDER BY size) AS place"
        " FROM source WHERE size>0 AND (key, torrent) IN (SELECT key, torrent FROM source GROUP BY key, torrent"
        f" HAVING {voices_in('TRUE')}>=:least) WINDOW w AS (PARTITION BY key, torrent))"
        f" WHERE place=(sizes+1)/2 AND sizes*{WORD}>=:least",
        {"person": numbers["person_percent"], "least": numbers["least"]},
    )
    _count_behind(evidence)
    evidence.do(
        "CREATE TEMP TABLE share AS SELECT z.key, z.torrent, z.size, n.pairs, min(n.taken,"
        " (SELECT CAST(total(min(u.taken, z.cap)) AS INTEGER) FROM source u"
        " WHERE u.key=z.key AND u.torrent=z.torrent)) AS taken FROM sized z JOIN"
        " (SELECT key, torrent, count(*) AS nets, CAST(total(min(taken, cap)) AS INTEGER) AS taken,"
        " max(pairs) AS pairs FROM (SELECT p.key, p.torrent, p.net, CAST(total(p.taken) AS INTEGER) AS taken,"
        " z.cap, b.pairs FROM sized z JOIN behind b ON b.key=z.key AND b.torrent=z.torrent"
        " JOIN part p ON p.key=z.key AND p.torrent=z.torrent GROUP BY p.key, p.torrent, p.net)"
        f" GROUP BY key, torrent) n ON n.key=z.key AND n.torrent=z.torrent WHERE n.nets*{WORD}>=:least",
        {"least": numbers["least"]},
    )


def _count_behind(evidence: Evidence) -> None:
    """Make `behind`: how many peers there are behind an address on a torrent of `sized` (`pairs`).

    By how many clients it was met as, or by how many of one client and port somebody saw there at one time.
    """
    evidence.do(
        "CREATE TEMP TABLE pair AS SELECT p.key, p.torrent, p.voter, p.client, min(p.began) AS began, max(p.at) AS at"
        " FROM sized z CROSS JOIN part p ON p.key=z.key AND p.torrent=z.torrent"
        " GROUP BY p.key, p.torrent, p.voter, p.client, p.port"
    )
    # Whoever comes adds one, whoever goes takes one away: the highest sum is how many were there together.
    evidence.do(
        "CREATE TEMP TABLE behind AS SELECT c.key, c.torrent, max(c.clients, t.together) AS pairs FROM"
        f" ({clients_in('pair', 'key, torrent')}) c JOIN"
        " (SELECT key, torrent, max(here) AS together FROM (SELECT key, torrent, sum(step) OVER"
        " (PARTITION BY key, torrent, voter ORDER BY at, step DESC ROWS UNBOUNDED PRECEDING) AS here FROM"
        " (SELECT key, torrent, voter, began AS at, 1 AS step FROM pair UNION ALL"
        " SELECT key, torrent, voter, max(at, began), -1 FROM pair)) GROUP BY key, torrent) t"
        " ON t.key=c.key AND t.torrent=c.torrent"
    )
    evidence.do("CREATE INDEX temp.behind_key ON behind (key, torrent)")
