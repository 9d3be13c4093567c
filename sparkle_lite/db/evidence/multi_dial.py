"""Prefixes whose members were seen cheating, each by itself."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparkle_lite.db.evidence.untrusted_vote import LOSSES, Module, Votes, collect_reports, count_votes, keep_candidates
from sparkle_lite.db.evidence.workspace import (
    GIVEN_FLOOR,
    Evidence,
    enough,
    people_in,
    prefix_of,
    subject_of,
)
from sparkle_lite.db.segments import KINDS


class Prefix(NamedTuple):
    """A prefix: the votes on all its members, how many addresses of it people met at all, and which of them gave.

    `givers` are subjects that gave and aren't among the members.
    """

    votes: Votes
    met: int
    givers: tuple[bytes, ...]


_WIDE = "substr({0}, 1, iif(length({0})=4, 3, 7))"


def find_prefix_votes(
    evidence: Evidence, modules: Sequence[Module], numbers: Mapping[str, int], only: bytes | None = None
) -> list[Prefix]:
    """Prefixes (/24, /56) by their members that qualify each by itself; the votes are those over all of them.

    numbers: as for `find_votes`, and member_people, min_hosts (IPv4), min_subnets (IPv6). With `only`, the prefix of
    that address. Whom somebody only counted in a network (dialing) qualifies nobody: a carrier's pool would.
    """
    collect_reports(evidence, modules, numbers, enough(numbers["member_people"]), near=only)
    if not evidence.has("report"):
        return []
    least = {"hosts": 0 if only else numbers["min_hosts"], "subnets": 0 if only else numbers["min_subnets"]}
    many = "HAVING count(*)>=iif(length(max({0}))=4, :hosts, :subnets)"
    wide = _WIDE.format
    keep_candidates(
        evidence,
        f"SELECT key FROM candidate WHERE {wide('key')} IN (SELECT {wide('c.key')} FROM candidate c"
        f" GROUP BY 1 {many.format('c.key')})",
        least,
    )
    evidence.make_met(evidence.now - numbers["window"])
    evidence.make_against(LOSSES, numbers["share_percent"])
    evidence.do(
        f"CREATE TEMP TABLE member AS SELECT key FROM report GROUP BY key HAVING {people_in('grp=0')}"
        " -coalesce((SELECT total(less) FROM (SELECT max(less) AS less FROM against g WHERE g.key=report.key"
        " GROUP BY g.voter)), 0)>=?",
        (enough(numbers["member_people"]),),
    )
    evidence.do(
        f"CREATE TEMP TABLE prefix AS SELECT {wide('m.key')} AS key FROM member m GROUP BY 1 {many.format('m.key')}",
        least,
    )
    evidence.do(
        f"CREATE TEMP TABLE seen AS SELECT {wide('r.key')} AS key, r.key AS member, r.voter, r.net,"
        " r.torrent, r.big_endian, r.grp, r.at FROM report r"
        f" WHERE r.key IN (SELECT key FROM member) AND {wide('r.key')} IN (SELECT key FROM prefix)"
    )
    # From here on it is about prefixes: who speaks for one of their members speaks for all.
    evidence.do(f"UPDATE against SET key={wide('key')}")
    neighbours = _neighbours(evidence, evidence.now - numbers["window"])
    found = []
    for votes in count_votes(evidence, numbers, only and prefix_of(only)):
        met, givers = neighbours.get(votes.key, (0, ()))
        found.append(Prefix(votes=votes, met=met + votes.members, givers=givers))
    return found


def _neighbours(evidence: Evidence, since: int) -> dict[bytes, tuple[int, tuple[bytes, ...]]]:
    """By prefix: how many others of its addresses people whose words count met, and which gave as much as they took."""
    evidence.do(
        "CREATE TEMP TABLE near (key BLOB, member BLOB, voter INTEGER, torrent INTEGER, port INTEGER, kind TEXT,"
        " gave INTEGER, took INTEGER)"
    )
    evidence.do("CREATE INDEX temp.prefix_key ON prefix (key)")
    low = "CAST(p.key || zeroblob(iif(length(p.key)=3, 1, 9)) AS BLOB)"
    wide = _WIDE.format("s.peer_ip")
    high = "CAST(p.key || iif(length(p.key)=3, x'ff', x'ffffffffffffffffff') AS BLOB)"
    for kind, indexed in evidence.segments(KINDS, since):
        peers = (
            f"prefix p CROSS JOIN seg.{kind} s ON s.peer_ip BETWEEN {low} AND {high} AND {wide}=p.key"
            if indexed
            else f"seg.{kind} s CROSS JOIN prefix p ON p.key={wide}"
        )
        evidence.do(
            f"INSERT INTO near SELECT p.key, {subject_of('s.peer_ip')} AS member, r.voter, s.torrent,"
            f" s.peer_port, '{kind}', max(s.from_peer_traffic), max(s.to_peer_traffic) FROM {peers}"
            " CROSS JOIN seg.submission sub ON sub.id=s.submission JOIN reporter r ON r.userapp=sub.userapp"
            " WHERE sub.received_at BETWEEN ? AND ? AND max(s.from_peer_traffic, s.to_peer_traffic)>=?"
            " GROUP BY p.key, member, r.voter, s.torrent, s.peer_port",
            (since, evidence.now, GIVEN_FLOOR),
        )
    rows = evidence.do(
        "SELECT key, member, total(gave)>=total(took)"
        " FROM (SELECT key, member, max(gave, 0) AS gave, max(took, 0) AS took FROM (SELECT key, member,"
        " max(gave) AS gave, max(took) AS took FROM near GROUP BY key, member, voter, torrent, port, kind))"
        " WHERE member NOT IN (SELECT key FROM member) GROUP BY key, member ORDER BY key, member"
    )
    found: dict[bytes, tuple[int, tuple[bytes, ...]]] = {}
    for key, member, gave in rows:
        met, givers = found.get(key, (0, ()))
        found[key] = met + 1, (*givers, member) if gave else givers
    return found
