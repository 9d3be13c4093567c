"""Prefixes whose members were banned, each by itself."""

from collections.abc import Mapping, Sequence

from sparkle_lite.db.evidence.untrusted_vote import Module, Votes, collect_reports, count_votes, keep_candidates
from sparkle_lite.db.evidence.workspace import Evidence, people_in, prefix_of


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
