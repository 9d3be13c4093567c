"""What this network knows of one address, as PeerBanHelper's panel shows it.

Nothing in it leads to whoever reported: no applications, no torrent identifiers, and the numbers that stand for
torrents are good only within one report.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from sparkle_lite import net
from sparkle_lite.config import LimitsSection
from sparkle_lite.db.conditions import Filter, Query
from sparkle_lite.db.observed import Observed, ObservedBan, ObservedSwarm
from sparkle_lite.db.search import Page, Search
from sparkle_lite.db.torrents import UNKNOWN_TORRENTS, different
from sparkle_lite.net import Network
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.turns import Owner
from sparkle_lite.units import DAY_MS, HOUR_MS
from sparkle_lite.wire import answers

# Newest rows of each kind in one report; the panel pages by ten.
RECORDS = 500
WINDOW_MS = 7 * DAY_MS
_CONCURRENT_MS = HOUR_MS


class AddressQuestion(NamedTuple):
    """Which address is asked about, by whom, and when (ms)."""

    address: bytes
    asker: Owner
    now_ms: int


async def look_up(
    asked: AddressQuestion, decisions: Decisions, search: Search, limits: LimitsSection
) -> answers.IpQuery:
    """What this network knows of one address. Raises SparkleError when the look-up takes too long."""
    address, asker, now_ms = asked
    verdict = await decisions.verdict(address)
    bans, swarms = [
        await search.page(query._replace(asker=asker, is_client=True), int(limits.query_time), int(limits.count_time))
        for query in queries(address, now_ms)
    ]
    listed = [(match.decision.category, match.reason) for match in verdict.matches]
    return report(listed, verdict.excepted, bans, swarms, now_ms)


def queries(address: bytes, now_ms: int) -> tuple[Query, Query]:
    """Which bans and which swarms of an address a report is made of: those reported within the last seven days."""
    since = now_ms - WINDOW_MS
    of_address = Filter("peer_ip", "EQUALS", Network(address, len(address) * 8))
    reported = Filter("last_reported_at", "GREATER_THAN_EQUAL", since)
    return (
        Query("ban", (of_address,), always=(reported,), limit=RECORDS),
        Query("swarm", (of_address,), time_from=since, limit=RECORDS),
    )


def report(
    listed: Sequence[tuple[str, Phrase]], excepted: bool, bans: Page, swarms: Page, now_ms: int
) -> answers.IpQuery:
    """The report from the address's bans and swarms, the answers to `queries`.

    `listed` are the categories and reasons of the rules that cover the address, `excepted` whether an exception frees
    it. Colour: red is listed, green is excepted or gives back at least what it takes, orange was banned by somebody,
    gray is the rest.
    """
    torrents: dict[bytes | str, str] = {}
    transfers = _transfers([row for row in swarms.rows if isinstance(row, ObservedSwarm)])
    records = [_swarm(row, torrents) for row in transfers]
    banned = [_ban(row, torrents) for row in bans.rows if isinstance(row, ObservedBan)]
    to_peer = sum(max(0, row.to_peer_traffic) for row in transfers)
    from_peer = sum(max(0, row.from_peer_traffic) for row in transfers)
    gives = from_peer > 0 and from_peer >= to_peer
    # Bans that our own rules caused tell nothing new.
    people = len({row.user for row in bans.rows if isinstance(row, ObservedBan) and not row.btn_ban})
    recent = [row for row in transfers if row.received_at >= now_ms - _CONCURRENT_MS]
    return answers.IpQuery(
        color=_color(bool(listed), excepted or (gives and not people), bool(people)),
        labels=_labels(listed, excepted, people, gives, bool(records or banned)),
        bans=answers.Bans(WINDOW_MS, bans.total, banned),
        swarms=answers.Swarms(
            WINDOW_MS, swarms.total - len(swarms.rows) + len(transfers), records, *_concurrent(recent)
        ),
        traffic=answers.Traffic(
            WINDOW_MS, to_peer, from_peer, from_peer / to_peer if to_peer else float(from_peer > 0)
        ),
        torrents=answers.Torrents(WINDOW_MS, _torrents([*swarms.rows, *bans.rows])),
    )


def _transfers(rows: Sequence[ObservedSwarm]) -> list[ObservedSwarm]:
    """The rows without those that tell once more of a transfer, in their order.

    PeerBanHelper counts in two ways, a history of an address or a swarm of each of its ports, and sends both where the
    operator or a new release changed the shape. A history and swarms by one application of one torrent at one time are
    the same transfer: those that count more of it stay.
    """
    together: dict[tuple[str, bytes | str], list[ObservedSwarm]] = defaultdict(list)
    for row in rows:
        if row.torrent_identifier not in UNKNOWN_TORRENTS:
            together[row.app_id, row.torrent_identifier].append(row)
    again: set[int] = set()
    for mine in together.values():
        if len({row.origin for row in mine}) > 1:
            for one_time in _overlapping(mine):
                again |= _counted_less(one_time)
    return [row for row in rows if row.id not in again]


def _overlapping(rows: Sequence[ObservedSwarm]) -> list[list[ObservedSwarm]]:
    """Rows in groups: the times (first to last seen) of different groups don't overlap."""
    groups: list[list[ObservedSwarm]] = []
    until = 0
    for row in sorted(rows, key=_first_seen):
        if not groups or _first_seen(row) > until:
            groups.append([])
        groups[-1].append(row)
        until = max(until, _last_seen(row))
    return groups


def _counted_less(rows: Sequence[ObservedSwarm]) -> set[int]:
    """The ids of the histories or of the swarms, whichever count fewer bytes; none where only one of them is there."""
    counted: dict[int, int] = defaultdict(int)
    for row in rows:
        counted[row.origin] += max(0, row.to_peer_traffic) + max(0, row.from_peer_traffic)
    most = max(counted, key=counted.__getitem__)
    return {row.id for row in rows if row.origin != most}


def _first_seen(row: ObservedSwarm) -> int:
    return row.received_at if row.first_time_seen is None else row.first_time_seen


def _last_seen(row: ObservedSwarm) -> int:
    return row.received_at if row.last_time_seen is None else row.last_time_seen


def _color(listed: bool, good: bool, banned: bool) -> str:
    if listed:
        return "red"
    if good:
        return "green"
    return "orange" if banned else "gray"


def _labels(listed: Sequence[tuple[str, Phrase]], excepted: bool, people: int, gives: bool, seen: bool) -> list[str]:
    """What is known, each thing in several languages: nobody knows which of them the panel is read in."""
    said = [phrase("address_report.listed", category=category, why=why) for category, why in listed]
    if excepted:
        said.append(phrase("address_report.excepted"))
    if people:
        said.append(phrase("address_report.banned.one" if people == 1 else "address_report.banned.other", n=people))
    if gives:
        said.append(phrase("address_report.gives"))
    if not said:
        said.append(phrase("address_report.seen" if seen else "address_report.unknown"))
    return [each.raw(" / ") for each in said]


def _concurrent(rows: Sequence[Observed]) -> tuple[int, int]:
    """How many torrents the address is downloading, and seeding, in the last hour."""
    seeds = [row for row in rows if (row.peer_progress or 0) >= 1]
    seeding = {row.torrent_identifier for row in seeds}
    return _torrents([row for row in rows if row.torrent_identifier not in seeding]), _torrents(seeds)


def _torrents(rows: Sequence[Observed]) -> int:
    # By their identifiers: clients differ in what they say of a torrent's size.
    return different((row.torrent_identifier, bool(row.torrent_big_endian)) for row in rows)


def _torrent(row: Observed, torrents: dict[bytes | str, str]) -> str:
    """A number that stands for a torrent; of the same one in the other byte order nobody can tell that it is."""
    if row.torrent_identifier in UNKNOWN_TORRENTS:
        return "unknown"
    return torrents.setdefault(row.torrent_identifier, f"T{len(torrents) + 1}")


def _fraction(progress: float | None) -> float:
    return min(max(progress or 0.0, 0.0), 1.0)


def _ban(row: ObservedBan, torrents: dict[bytes | str, str]) -> answers.BanRecord:
    return answers.BanRecord(
        # By our clock: by how far one of theirs is off, the bans of one client could be told from others.
        populate_time=row.received_at,
        torrent=_torrent(row, torrents),
        peer_ip=net.address_text(row.peer_ip),
        peer_port=row.peer_port,
        peer_id=row.peer_id or None,
        peer_client_name=row.peer_client_name or None,
        peer_progress=_fraction(row.peer_progress),
        peer_flags=row.flags,
        reporter_progress=_fraction(row.downloader_progress),
        to_peer_traffic=max(row.to_peer_traffic, 0),
        from_peer_traffic=max(row.from_peer_traffic, 0),
        module_name=row.module,
        rule=row.rule or "",
        description=row.description or "",
        structured_data=_object(row.structured_data),
    )


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if text else None
    except msgspec.MsgspecError:
        return None


def _swarm(row: ObservedSwarm, torrents: dict[bytes | str, str]) -> answers.SwarmRecord:
    return answers.SwarmRecord(
        torrent=_torrent(row, torrents),
        peer_ip=net.address_text(row.peer_ip),
        peer_port=row.peer_port,
        peer_id=row.peer_id or None,
        peer_client_name=row.peer_client_name or None,
        peer_progress=_fraction(row.peer_progress),
        from_peer_traffic=max(row.from_peer_traffic, 0),
        to_peer_traffic=max(row.to_peer_traffic, 0),
        from_peer_traffic_offset=row.from_peer_traffic_offset,
        to_peer_traffic_offset=row.to_peer_traffic_offset,
        flags=row.flags,
        first_time_seen=_first_seen(row),
        last_time_seen=_last_seen(row),
        user_progress=_fraction(row.downloader_progress),
    )
