"""What people's clients banned an address for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparkle_lite.db.evidence.workspace import (
    DAYS,
    DISTINCT,
    FINDINGS,
    LONGEST_MS,
    LONGEST_RECURRENCE,
    MOST,
    SUPPORT,
    TORRENTS,
    VOUCHED_VOTER,
    WORD,
    WORD_OF,
    Evidence,
    LeftOut,
    enough,
    network_of,
    people_in,
    prefix_of,
    range_of,
    subject_of,
    users_of,
    voices_in,
)


class Module(NamedTuple):
    """A ban module by its full name, for a rule (None: for whatever rule)."""

    name: str
    group: int
    rule: str | None


class Votes(NamedTuple):
    """What people reported of a subject: how many voices, and what their words come to (hundredths).

    `words` are collapsed by networks, less those that speak for the peer (`against`); `cheat_*` those in the first
    group of modules alone. `support` is what an imported list adds to both. `knocked`: when it was turned away last, or
    was reported last. `vouched_members`: how many of its members somebody reported so for whom an administrator
    vouches. Times in ms.
    """

    key: bytes
    voices: int
    cheat_voices: int
    words: int
    cheat_words: int
    torrents: int
    days: int
    groups: int
    reports: int
    first: int
    last: int
    knocked: int
    against: int
    support: int
    weight: float
    decisive: tuple[int, ...]
    members: int
    vouched_members: int
    sharing: int


# What the peer took of each who reports it: a total that grows from ban to ban of a torrent.
LOSSES = (
    "SELECT key, voter, CAST(total(lost) AS INTEGER) AS lost FROM (SELECT key, voter, torrent, max(lost) AS lost"
    " FROM report GROUP BY key, voter, torrent) GROUP BY key, voter"
)

_SUPPORT_OF = f"iif(report.key IN (SELECT key FROM supported), {SUPPORT}, 0)"


def find_votes(
    evidence: Evidence, modules: Sequence[Module], numbers: Mapping[str, int], only: bytes | None = None
) -> list[Votes]:
    """Addresses by what people's clients banned them for, strongest first; with `only` one, however weak.

    numbers: window, half_life (ms), share_percent, min_people (in the first group), min_people_any, min_torrents,
    min_days.
    """
    least = enough(min(numbers["min_people"], numbers["min_people_any"]))
    is_supported = evidence.has("m.import_support")
    if is_supported:
        # Somebody here must have reported it, whatever lists say.
        least = max(least - SUPPORT, 1)
    collect_reports(evidence, modules, numbers, 0 if only else least, only=only)
    if not evidence.has("report"):
        return []
    evidence.make_supported()
    if only is None:
        # What can't be listed anyway needs no look at its traffic, which costs most.
        keep_candidates(
            evidence,
            f"SELECT key FROM report GROUP BY key HAVING ({people_in('grp=0')}+{_SUPPORT_OF}>=:people"
            f" OR {people_in('TRUE')}+{_SUPPORT_OF}>=:anyhow)"
            f" AND max({DISTINCT}, {DAYS})>=:min_torrents AND max({DAYS}, count(DISTINCT grp))>=:min_days",
            {**numbers, "people": enough(numbers["min_people"]), "anyhow": enough(numbers["min_people_any"])},
        )
    evidence.do("CREATE TEMP TABLE seen AS SELECT * FROM report")
    evidence.make_met(evidence.now - numbers["window"])
    evidence.make_against(LOSSES, numbers["share_percent"])
    return count_votes(evidence, numbers, only, is_supported=True)


def collect_reports(
    evidence: Evidence,
    modules: Sequence[Module],
    numbers: Mapping[str, int],
    words: int,
    *,
    only: bytes | None = None,
    near: bytes | None = None,
) -> None:
    """Make `report`: every ban that counts, of the subjects that at least so many words (hundredths) are about.

    numbers: window (ms). What stands behind a vote is what the peer took of who reports it, less what it gave.
    """
    values: dict[str, Any] = {
        "since": evidence.now - numbers["window"],
        "ever": evidence.now - LONGEST_MS,
        "now": evidence.now,
        "words": words,
    }
    within = None if only is None else range_of(only)
    if near is not None:
        prefix, rest = prefix_of(near), (1 if len(near) == 4 else 9)
        within = prefix + b"\0" * rest, prefix + b"\xff" * rest
    evidence.make_knocks(numbers["window"], within)
    make_modules(evidence, modules)
    at = "min(b.received_at, coalesce(b.ban_at, b.received_at))"
    counted = (
        f"b.btn_ban=0 AND b.received_at BETWEEN :ever AND :now AND ({at}>=:since OR"
        f" ({at}>=:ever AND {subject_of('b.peer_ip')} IN (SELECT key FROM knock)))"
    )
    beside = ""
    if within is not None:
        values |= dict(zip(("low", "high"), within, strict=True))
        beside = " AND b.peer_ip BETWEEN :low AND :high"
    evidence.make_candidates(
        # The index gives each reporter of an address once; only then the addresses of a /64 come together.
        f"SELECT {subject_of('d.peer_ip')} AS key FROM (SELECT b.peer_ip, b.userapp"
        f" FROM m.ban b INDEXED BY ban_evidence WHERE {counted} AND b.module IN (SELECT id FROM module){beside}"
        " GROUP BY b.peer_ip, b.userapp) d JOIN reporter r ON r.userapp=d.userapp"
        f" GROUP BY 1 HAVING {voices_in('TRUE')}>=:words",
        values,
        only,
    )
    evidence.do(
        "CREATE TEMP TABLE raw AS SELECT c.key, r.voter, b.userapp, sub.address, b.torrent, mo.grp,"
        f" {at} AS at, min(max(b.to_peer_traffic, 0)-max(b.from_peer_traffic, 0), {MOST}) AS lost"
        " FROM candidate c CROSS JOIN m.ban b INDEXED BY ban_evidence ON b.peer_ip BETWEEN c.low AND c.high"
        " JOIN module mo ON mo.id=b.module JOIN reporter r ON r.userapp=b.userapp"
        f" LEFT JOIN m.submission sub ON sub.id=b.submission WHERE {counted}"
        " AND (mo.rule IS NULL OR b.rule=mo.rule)",
        values,
    )
    evidence.make_titles("raw")
    evidence.do(
        f"CREATE TEMP TABLE report AS SELECT w.key, w.voter, {network_of('w.address')} AS net, t.torrent, t.big_endian,"
        " w.grp, w.at, w.key AS member, w.lost FROM raw w JOIN title t ON t.id=w.torrent WHERE NOT t.private"
    )
    if only is not None:
        _count_left_out(evidence, counted, values)
    evidence.do("DROP TABLE raw")
    evidence.do(
        f"DELETE FROM report WHERE (key, voter) IN (SELECT key, voter FROM ({LOSSES}) WHERE lost<?)",
        (evidence.min_harm,),
    )
    # Some fall below when private torrents are left out.
    keep_candidates(evidence, f"SELECT key FROM report GROUP BY key HAVING {people_in('TRUE')}>=:words", values)


def _count_left_out(evidence: Evidence, counted: str, values: Mapping[str, Any]) -> None:
    """Tell what is said of the one candidate and doesn't count."""
    questions: Mapping[LeftOut, str] = {
        "left_private": "SELECT count(*) FROM raw w JOIN title t ON t.id=w.torrent WHERE t.private",
        "left_silent": "SELECT count(DISTINCT a.user) FROM candidate c CROSS JOIN m.ban b INDEXED BY ban_evidence"
        " ON b.peer_ip BETWEEN c.low AND c.high JOIN module mo ON mo.id=b.module JOIN m.userapp a ON a.id=b.userapp"
        f" WHERE {counted} AND (mo.rule IS NULL OR b.rule=mo.rule)"
        " AND b.userapp NOT IN (SELECT userapp FROM reporter)",
        "left_harmless": f"SELECT count(DISTINCT voter) FROM ({LOSSES}) WHERE lost<{evidence.min_harm}",
    }
    for why, sql in questions.items():
        evidence.left_out[why] = int(evidence.do(sql, values)[0][0])


def make_modules(evidence: Evidence, modules: Sequence[Module]) -> None:
    """Make the table of the modules whose bans count."""
    evidence.do("CREATE TEMP TABLE module (id INTEGER, grp INTEGER, rule TEXT)")
    for module in modules:
        evidence.do(
            "INSERT INTO module SELECT id, ?, ? FROM m.label WHERE text=?", (module.group, module.rule, module.name)
        )
    evidence.do("CREATE INDEX temp.module_id ON module (id)")


def keep_candidates(evidence: Evidence, sql: str, values: Mapping[str, Any]) -> None:
    """Drop all subjects but those that a query gives."""
    evidence.do(f"DELETE FROM candidate WHERE key NOT IN ({sql})", values)
    evidence.do("DELETE FROM report WHERE key NOT IN (SELECT key FROM candidate)")


def count_votes(
    evidence: Evidence, numbers: Mapping[str, int], only: bytes | None, *, is_supported: bool = False
) -> list[Votes]:
    """The votes on what is in `seen`, the strongest first; `loss` and `against` are there already.

    `is_supported`: so is `supported`, which counts.

    numbers: half_life (ms), min_people, min_people_any, min_torrents.
    """
    evidence.make_voters(
        numbers["min_people"],
        anyhow=numbers["min_people_any"],
        torrents=numbers["min_torrents"],
        is_supported=is_supported,
    )
    # A vote loses half its weight with every half-life, which is longer the more days there is evidence of.
    # Straight lines between the powers of two: not every SQLite has a logarithm.
    evidence.do(
        f"CREATE TEMP TABLE span AS SELECT s.key, {DAYS} AS days, max(k.knocked) AS knocked FROM seen s"
        " LEFT JOIN knock k ON k.key=s.member GROUP BY s.key"
    )
    evidence.do("CREATE INDEX temp.span_key ON span (key)")
    evidence.do(
        "CREATE TEMP TABLE faded AS SELECT v.key, v.voter, v.net,"
        f" (2.0-(v.age%v.half)*1.0/v.half)/(2 << min(v.age/v.half, 60))*{WORD_OF}/{WORD} AS weight FROM"
        " (SELECT s.key, s.voter, s.net, :now-max(max(s.at), coalesce(a.knocked, 0)) AS age,"
        " :half*min(a.days, :longest) AS half FROM seen s JOIN span a ON a.key=s.key GROUP BY s.key, s.voter, s.net) v",
        {"now": evidence.now, "half": numbers["half_life"], "longest": LONGEST_RECURRENCE},
    )
    for who in ("voter", "net"):
        evidence.do(
            f"CREATE TEMP TABLE {who}_weight AS SELECT key, sum(weight) AS weight FROM (SELECT key, max(weight) AS"
            f" weight FROM faded GROUP BY key, {who}) GROUP BY key"
        )
        evidence.do(f"CREATE INDEX temp.{who}_weight_key ON {who}_weight (key)")
    where = "WHERE key=:only" if only else ""
    rows = evidence.do(
        "SELECT s.key, w.voices, s.cheat_voices, max(min(w.users, w.nets)-w.against, 0) AS words,"
        " max(min(w.first_users, w.first_nets)-w.against, 0), s.torrents, s.days, s.groups, s.reports, s.first, s.last,"
        " max(s.last, coalesce(a.knocked, 0)), w.against, w.support, min(u.weight, n.weight), d.users, s.members,"
        " s.vouched_members FROM"
        f" (SELECT key, count(DISTINCT iif(grp=0, voter, NULL)) AS cheat_voices, {TORRENTS}, {DAYS} AS days,"
        " count(DISTINCT grp) AS groups, count(*) AS reports, min(at) AS first, max(at) AS last,"
        " count(DISTINCT member) AS members,"
        f" count(DISTINCT iif(grp=0 AND {VOUCHED_VOTER}, member, NULL)) AS vouched_members"
        f" FROM seen {where} GROUP BY key) s"
        " JOIN whole w ON w.key=s.key JOIN span a ON a.key=s.key JOIN voter_weight u ON u.key=s.key"
        " JOIN net_weight n ON n.key=s.key"
        " LEFT JOIN decisive d ON d.key=s.key ORDER BY words DESC, s.key LIMIT :limit",
        {"only": only, "limit": FINDINGS},
    )
    sharing = dict(
        evidence.do(
            "SELECT key, max(members) FROM (SELECT key, count(DISTINCT member) AS members FROM seen"
            " WHERE torrent IS NOT NULL GROUP BY key, torrent) GROUP BY key"
        )
        if any(row[16] > 1 for row in rows)
        else ()
    )
    return [Votes._make((*row[:15], users_of(row[15]), *row[16:], sharing.get(row[0], 0))) for row in rows]
