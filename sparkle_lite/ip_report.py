"""What this network knows of one address, as PeerBanHelper's panel shows it.

Nothing in it leads to whoever reported: no applications, no torrent identifiers, and the numbers that stand for
torrents are good only within one report.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sparkle_lite import net
from sparkle_lite.config import LimitsSection
from sparkle_lite.db.conditions import Filter, Query, Table
from sparkle_lite.db.observed import Observed, ObservedBan, ObservedSwarm
from sparkle_lite.db.search import Page, Search
from sparkle_lite.db.torrents import UNKNOWN_TORRENTS, different
from sparkle_lite.decisions import Decisions
from sparkle_lite.net import Network
from sparkle_lite.reasons import Reason
from sparkle_lite.wire import answers

# Newest rows of each kind in one report; the panel pages by ten.
RECORDS = 500
WINDOW_MS = 7 * 24 * 3_600_000
_CONCURRENT_MS = 3_600_000


async def look_up(
    address: bytes, decisions: Decisions, search: Search, limits: LimitsSection, now_ms: int
) -> answers.IpQuery:
    """What this network knows of one address. Raises SparkleError when the look-up takes too long."""
    verdict = await decisions.verdict(address)
    tables: tuple[Table, ...] = ("ban", "swarm")
    bans, swarms = [
        await search.page(
            Query(table, filters(address), time_from=now_ms - WINDOW_MS, limit=RECORDS),
            int(limits.query_time),
            int(limits.count_time),
        )
        for table in tables
    ]
    listed = [(match.decision.category, match.reason) for match in verdict.matches]
    return report(listed, verdict.excepted, bans, swarms, now_ms)


def filters(address: bytes) -> tuple[Filter, ...]:
    """The rows of one address."""
    return (Filter("peer_ip", "EQUALS", Network(address, len(address) * 8)),)


def report(
    listed: Sequence[tuple[str, Reason]], excepted: bool, bans: Page, swarms: Page, now_ms: int
) -> answers.IpQuery:
    """The report from the address's bans and swarms of the last seven days.

    `listed` are the categories and reasons of the rules that cover the address, `excepted` whether an exception frees
    it. Colour: red is listed, green is excepted or gives back at least what it takes, orange was banned by somebody,
    gray is the rest.
    """
    torrents: dict[bytes | str, str] = {}
    records = [_swarm(row, torrents) for row in swarms.rows if isinstance(row, ObservedSwarm)]
    banned = [_ban(row, torrents) for row in bans.rows if isinstance(row, ObservedBan)]
    to_peer = sum(max(0, row.to_peer_traffic) for row in swarms.rows)
    from_peer = sum(max(0, row.from_peer_traffic) for row in swarms.rows)
    gives = from_peer > 0 and from_peer >= to_peer
    # Bans that our own rules caused tell nothing new.
    people = len({row.user for row in bans.rows if isinstance(row, ObservedBan) and not row.btn_ban})
    recent = [row for row in swarms.rows if row.received_at >= now_ms - _CONCURRENT_MS]
    return answers.IpQuery(
        color=_color(bool(listed), excepted or (gives and not people), bool(people)),
        labels=_labels(listed, excepted, people, gives, bool(records or banned)),
        bans=answers.Bans(WINDOW_MS, bans.total, banned),
        swarms=answers.Swarms(WINDOW_MS, swarms.total, records, *_concurrent(recent)),
        traffic=answers.Traffic(
            WINDOW_MS, to_peer, from_peer, from_peer / to_peer if to_peer else float(from_peer > 0)
        ),
        torrents=answers.Torrents(WINDOW_MS, _torrents([*swarms.rows, *bans.rows])),
    )


def _color(listed: bool, good: bool, banned: bool) -> str:
    if listed:
        return "red"
    if good:
        return "green"
    return "orange" if banned else "gray"


def _labels(listed: Sequence[tuple[str, Reason]], excepted: bool, people: int, gives: bool, seen: bool) -> list[str]:
    """What is known, each thing in English and Chinese: nobody knows which of them the panel is read in."""
    labels = [f"Listed: {category}, {why.en} / 已列入：{category}，{why.zh}" for category, why in listed]
    if excepted:
        labels.append("Excepted by the operator / 已由管理员放行")
    if people:
        persons = "person" if people == 1 else "people"
        labels.append(f"Banned by {people} {persons} in 7 days / 7 天内被 {people} 人封禁")
    if gives:
        labels.append("Gives back what it takes / 上传不少于下载")
    return labels or ["Seen / 有记录" if seen else "Unknown / 无记录"]


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
        populate_time=row.received_at if row.ban_at is None else row.ban_at,
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
        first_time_seen=row.first_time_seen or row.received_at,
        last_time_seen=row.last_time_seen or row.received_at,
        user_progress=_fraction(row.downloader_progress),
    )
