"""Addresses of peers whose name and peer id are those of two different clients."""

from collections.abc import Mapping
from typing import NamedTuple

from sparkle_lite.db.evidence.workspace import (
    DAYS,
    FINDINGS,
    GIVEN_FLOOR,
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
from sparkle_lite.units import MIB

# A row of less is a handshake and some requests, not a download.
_TAKEN_FLOOR = MIB


class KnownClient(NamedTuple):
    """A known client: how its names begin, and the GLOB patterns of its peer ids (of ours)."""

    names: tuple[str, ...]
    peer_ids: tuple[str, ...]


class Impostor(NamedTuple):
    """Who was seen at an address with a false identity.

    `words` of those who saw it (hundredths, collapsed by networks). `gave`: whether anybody whose word counts got
    anything back from the address; `is_shared`: whether it was met as so many clients that it is several people's.
    `knocked`: when it was turned away last, or was seen last. Times in ms.
    """

    key: bytes
    voices: int
    words: int
    torrents: int
    days: int
    first: int
    last: int
    knocked: int
    gave: bool
    is_shared: bool
    decisive: tuple[int, ...]
    vouched: bool


def find_impostors(
    evidence: Evidence, clients: tuple[KnownClient, ...], numbers: Mapping[str, int], only: bytes | None = None
) -> list[Impostor]:
    """Addresses that took something under a false identity; with `only` one, however few saw it.

    numbers: window (ms), min_people, min_torrents. An identity is false where the name is one of the clients', and the
    peer id another's; whatever is missing or unknown says nothing.
    """
    since = evidence.now - numbers["window"]
    _collect_seen(evidence, clients, since, only)
    if not evidence.has("seen"):
        return []
    evidence.make_candidates(
        f"SELECT key FROM seen GROUP BY key HAVING {people_in('TRUE')}>=:words",
        {"words": enough(numbers["min_people"])},
        only,
    )
    evidence.do("DELETE FROM seen WHERE key NOT IN (SELECT key FROM candidate)")
    evidence.make_knocks(numbers["window"], None if only is None else range_of(only))
    evidence.make_met(since)
    evidence.make_gifts()
    evidence.make_voters(numbers["min_people"], torrents=numbers["min_torrents"])
    rows = evidence.do(
        "SELECT s.key, w.voices, min(w.users, w.nets), s.torrents, s.days, s.first, w.last,"
        " max(w.last, coalesce(k.knocked, 0)), EXISTS (SELECT 1 FROM met m WHERE m.key=s.key AND m.gave>=:floor),"
        f" s.key IN (SELECT key FROM shared), d.users, s.vouched FROM (SELECT key, {TORRENTS}, {DAYS} AS days,"
        f" min(at) AS first, max({VOUCHED_VOTER}) AS vouched FROM seen GROUP BY key) s JOIN whole w ON w.key=s.key"
        " LEFT JOIN knock k ON k.key=s.key LEFT JOIN decisive d ON d.key=s.key"
        " ORDER BY w.users DESC, s.key LIMIT :limit",
        {"floor": GIVEN_FLOOR, "limit": FINDINGS},
    )
    return [Impostor._make((*row[:8], bool(row[8]), bool(row[9]), users_of(row[10]), bool(row[11]))) for row in rows]


def _collect_seen(evidence: Evidence, clients: tuple[KnownClient, ...], since: int, only: bytes | None) -> None:
    """Make `seen`: who saw a false identity take what."""
    evidence.do("CREATE TEMP TABLE suspect (client INTEGER PRIMARY KEY)")
    for client in clients:
        others = [pattern for other in clients if other is not client for pattern in other.peer_ids]
        names = " OR ".join(["substr(client_name, 1, length(?))=?"] * len(client.names))
        evidence.do(
            "INSERT OR IGNORE INTO suspect SELECT id FROM m.client_identity"
            f" WHERE ({names}) AND ({' OR '.join(['peer_id GLOB ?'] * len(others))})",
            [*(each for name in client.names for each in (name, name)), *others],
        )
    evidence.do("CREATE TEMP TABLE disguised (key BLOB, userapp INTEGER, net BLOB, torrent INTEGER, at INTEGER)")
    near, bounds = about(only)
    for kind, indexed in evidence.segments(KINDS, since) if evidence.has("suspect") else ():
        rows = (
            f"suspect x CROSS JOIN seg.{kind} s ON s.client=x.client"
            if indexed and only is None
            else f"seg.{kind} s CROSS JOIN suspect x ON x.client=s.client"
        )
        evidence.do(
            f"INSERT INTO disguised SELECT {subject_of('s.peer_ip')}, sub.userapp, {network_of('sub.address')},"
            f" s.torrent, sub.received_at FROM {rows} CROSS JOIN seg.submission sub ON sub.id=s.submission"
            " WHERE sub.received_at BETWEEN :since AND :now AND sub.userapp IN (SELECT userapp FROM reporter)"
            f" AND s.to_peer_traffic-max(s.from_peer_traffic, 0)>=:floor{near}",
            {"since": since, "now": evidence.now, "floor": _TAKEN_FLOOR, **bounds},
        )
    evidence.make_titles("disguised")
    evidence.do(
        "CREATE TEMP TABLE seen AS SELECT f.key, r.voter, f.net, t.torrent, t.big_endian, 0 AS grp, f.at"
        " FROM disguised f JOIN title t ON t.id=f.torrent JOIN reporter r ON r.userapp=f.userapp WHERE NOT t.private"
    )
