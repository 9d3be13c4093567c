"""Who was seen under a disguise, and who bears the name truly."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparkle_lite.db.evidence.workspace import (
    DAYS,
    TORRENTS,
    VOUCHED_VOTER,
    Evidence,
    enough,
    network_of,
    people_in,
    subject_of,
    users_of,
)
from sparkle_lite.db.segments import KINDS, Kind
from sparkle_lite.units import DAY_MS


class Disguise(NamedTuple):
    """A way to tell a disguised client: names that begin so, whose true bearers have a peer_id like one of these.

    `peer_ids` are GLOB patterns of ours. `compared`: it matters how many bear the name truly.
    """

    name: str
    peer_ids: tuple[str, ...]
    compared: bool = True


class Bearers(NamedTuple):
    """Who was seen under a disguise: `percent` of the addresses with that name didn't have its peer_id.

    `words` of those who saw them (hundredths, collapsed by networks). `vouched`: an administrator vouches for one of
    them.
    """

    disguise: int
    voices: int
    words: int
    addresses: int
    percent: int
    torrents: int
    days: int
    first: int
    last: int
    decisive: tuple[int, ...]
    vouched: bool


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
        f" (SELECT key FROM seen GROUP BY key HAVING count(DISTINCT address)>=? AND {people_in('TRUE')}>=?)",
        (numbers["min_addresses"], enough(numbers["min_people"])),
    )
    _collect_true(evidence, since)
    evidence.do("CREATE TEMP TABLE against (key INTEGER, voter INTEGER, net BLOB, less INTEGER)")
    evidence.make_voters(numbers["min_people"], torrents=numbers["min_torrents"])
    rows = evidence.do(
        "SELECT s.key, w.voices, min(w.users, w.nets), s.addresses, s.addresses*100/(s.addresses+(SELECT"
        " count(DISTINCT o.address) FROM owner o WHERE o.disguise=s.key AND o.address NOT IN"
        " (SELECT address FROM seen WHERE key=s.key))) AS percent, s.torrents, s.days, s.first, s.last, d.users,"
        " s.vouched FROM"
        f" (SELECT key, count(DISTINCT address) AS addresses, {TORRENTS}, {DAYS} AS days, min(at) AS first,"
        f" max(at) AS last, max({VOUCHED_VOTER}) AS vouched FROM seen GROUP BY key) s JOIN whole w ON w.key=s.key"
        " LEFT JOIN decisive d ON d.key=s.key"
    )
    return [Bearers._make((*row[:9], users_of(row[9]), bool(row[10]))) for row in rows]


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
        "CREATE TEMP TABLE seen AS SELECT b.disguise AS key, b.address, r.voter, b.net, t.torrent, t.big_endian,"
        " 0 AS grp, b.at FROM bearer b JOIN title t ON t.id=b.torrent"
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
