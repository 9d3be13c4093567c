"""What people are shown of the stored rows, as JSON and as tables.

Names, order and types of the fields are those of Sparkle's published API; `insertTime`, `populateTime`, `banAt`,
`lastReportedAt`, `description`, `privateTorrent`, `totalExact`, `next` and everything about swarms are additions.
"""

import re
from collections.abc import Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from sparkle_lite import net
from sparkle_lite.db.conditions import NAMELESS, identity_hash
from sparkle_lite.db.observed import Discovered, Observed, ObservedBan, ObservedSwarm, Person

T = TypeVar("T")


class Viewer(NamedTuple):
    """Who looks: only a user's own rows say from whom, and with which others, they came; administrators see all."""

    user: int
    is_admin: bool

    def sees(self, user: int) -> bool:
        """Whether what would tell of a user may be shown."""
        return self.is_admin or user == self.user


class Torrent(msgspec.Struct, frozen=True, rename="camel"):
    """A torrent: `identifier` is 64 hex digits, or what a client sent in their place; size in bytes."""

    id: int
    identifier: str
    size: int
    private_torrent: bool | None


class _Peer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: int
    app_id: str | None
    submit_id: UUID | None
    peer_ip: str
    peer_port: int
    peer_id: str
    peer_client_name: str
    torrent: Torrent
    from_peer_traffic: int
    from_peer_traffic_speed: int
    to_peer_traffic: int
    to_peer_traffic_speed: int
    peer_progress: float | None
    downloader_progress: float | None
    flags: str | None


class Snapshot(_Peer, frozen=True, kw_only=True, rename="camel"):
    """A peer as it was seen once. Traffic in bytes, speeds in bytes/s, times in ms; -1 is unknown.

    `appId`, `submitId` and `populateTime` are null where the row is somebody else's.
    """

    insert_time: int
    populate_time: int | None


class BanHistory(_Peer, frozen=True, kw_only=True, rename="camel"):
    """A ban, with what was first said of it. `structuredData` is JSON as a string, `lastReportedAt` ms.

    `appId`, `submitId`, `populateTime` and `banAt` are null where the row is somebody else's.
    """

    btn_ban: bool
    module: str
    rule: str | None
    ban_unique_id: str | None
    structured_data: str
    insert_time: int
    populate_time: int | None
    ban_at: int | None
    description: str | None
    last_reported_at: int


class Swarm(_Peer, frozen=True, kw_only=True, rename="camel"):
    """The version of a cumulative row that counts: what one application counted of one peer in one torrent.

    `appId`, `submitId`, `populateTime` and `downloader` are null where the row is somebody else's.
    """

    origin: Literal["HISTORY", "SWARM"]
    downloader: str | None
    from_peer_traffic_offset: int
    from_peer_traffic_speed_max: int
    to_peer_traffic_offset: int
    to_peer_traffic_speed_max: int
    first_time_seen: int | None
    last_time_seen: int | None
    insert_time: int
    populate_time: int | None


class Discoverer(msgspec.Struct, frozen=True, rename="camel"):
    """The user whose application saw a client identity; times in ms."""

    id: int
    avatar: str | None
    nickname: str
    register_at: int
    last_seen_at: int


class ClientDiscovery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A client identity. `foundBy` and `lastSeenBy` are null where they are somebody else."""

    hash: int
    client_name: str
    peer_id: str
    found_at: int
    found_by: Discoverer | None
    last_seen_at: int
    last_seen_by: Discoverer | None


class ResultPage(msgspec.Struct, Generic[T], frozen=True, kw_only=True, rename="camel"):
    """One page. `total` is a lower bound unless `totalExact`.

    `next` is for `after`, null on the last page; `previous` is for `before`, null on the first.
    """

    page: int
    size: int
    total: int
    results: list[T]
    total_exact: bool
    next: str | None
    previous: str | None


def present(row: Observed | Discovered, viewer: Viewer) -> Snapshot | BanHistory | Swarm | ClientDiscovery:
    """A row as a viewer may see it."""
    if isinstance(row, Discovered):
        return _discovery(row, viewer)
    peer = _peer(row, viewer)
    if isinstance(row, ObservedBan):
        return BanHistory(
            **peer,
            btn_ban=bool(row.btn_ban),
            module=row.module,
            rule=row.rule,
            ban_unique_id=row.ban_unique_id,
            structured_data=row.structured_data or "null",
            # By its client's clock; where clients don't say it, it is the time that they gave for all of a request.
            ban_at=row.ban_at if viewer.sees(row.user) else None,
            description=row.description,
            last_reported_at=row.last_reported_at,
        )
    if isinstance(row, ObservedSwarm):
        return Swarm(
            **peer,
            origin="SWARM" if row.origin else "HISTORY",
            downloader=row.downloader if viewer.sees(row.user) else None,
            from_peer_traffic_offset=row.from_peer_traffic_offset,
            from_peer_traffic_speed_max=row.from_peer_traffic_speed_max,
            to_peer_traffic_offset=row.to_peer_traffic_offset,
            to_peer_traffic_speed_max=row.to_peer_traffic_speed_max,
            first_time_seen=row.first_time_seen,
            last_time_seen=row.last_time_seen,
        )
    return Snapshot(**peer)


def _peer(row: Observed, viewer: Viewer) -> dict[str, Any]:
    identifier, is_shown = row.torrent_identifier, viewer.sees(row.user)
    return {
        "id": row.id,
        "app_id": row.app_id if is_shown else None,
        "submit_id": UUID(bytes=row.submission) if is_shown else None,
        "peer_ip": net.address_text(row.peer_ip),
        "peer_port": row.peer_port,
        "peer_id": row.peer_id or NAMELESS,
        "peer_client_name": row.peer_client_name or NAMELESS,
        "torrent": Torrent(
            row.torrent,
            identifier.hex() if isinstance(identifier, bytes) else identifier,
            row.torrent_size,
            None if row.torrent_private < 0 else bool(row.torrent_private),
        ),
        "from_peer_traffic": row.from_peer_traffic,
        "from_peer_traffic_speed": row.from_peer_traffic_speed,
        "to_peer_traffic": row.to_peer_traffic,
        "to_peer_traffic_speed": row.to_peer_traffic_speed,
        "peer_progress": row.peer_progress,
        "downloader_progress": row.downloader_progress,
        "flags": row.flags,
        "insert_time": row.received_at,
        "populate_time": row.populate_time if is_shown else None,
    }


def _discovery(row: Discovered, viewer: Viewer) -> ClientDiscovery:
    return ClientDiscovery(
        hash=identity_hash(row.peer_id, row.client_name),
        client_name=row.client_name or NAMELESS,
        peer_id=row.peer_id or NAMELESS,
        found_at=row.found_at,
        found_by=_discoverer(row.found_by, viewer),
        last_seen_at=row.last_seen_at,
        last_seen_by=_discoverer(row.last_seen_by, viewer),
    )


def _discoverer(person: Person | None, viewer: Viewer) -> Discoverer | None:
    if person is None or not viewer.sees(person.id):
        return None
    # Scripts expect a number: nobody was seen before they were registered.
    last_seen_at = person.registered_at if person.last_seen_at is None else person.last_seen_at
    return Discoverer(person.id, person.avatar, person.nickname, person.registered_at, last_seen_at)


# --- Tables for other programs ----------------------------------------------------------------------------------------

# A spreadsheet takes a text that begins so, perhaps behind blanks or controls, for a formula and runs it.
_FORMULA = re.compile(r"[\t\r\n]|[\s\x00-\x20]*[=+\-@\uff1d\uff0b\uff0d\uff20]")
# Where a spreadsheet separates by another sign than the comma, quotes in the middle of its cell keep nothing together.
_FORMULA_WITHIN = re.compile(r"([;\t\r\n|])(?=[\s\x00-\x20\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_NESTED = {"torrent": Torrent, "foundBy": Discoverer, "lastSeenBy": Discoverer}


def csv_columns(shape: type[msgspec.Struct]) -> list[tuple[str, ...]]:
    """The columns of a table of such rows, each as the path to its value."""
    columns: list[tuple[str, ...]] = []
    for name in shape.__struct_encode_fields__:
        nested = _NESTED.get(name)
        columns += [(name, inner) for inner in nested.__struct_encode_fields__] if nested else [(name,)]
    return columns


def csv_cells(row: msgspec.Struct, columns: Sequence[tuple[str, ...]]) -> list[str | int | float]:
    """A row's cells: nothing for null, and an apostrophe before all that a spreadsheet would take for a formula."""
    values = msgspec.to_builtins(row)
    cells: list[str | int | float] = []
    for path in columns:
        value = values
        for name in path:
            value = value.get(name) if value else None
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, str):
            value = _FORMULA_WITHIN.sub(r"\1'", value)
            value = f"'{value}" if _FORMULA.match(value) else value
        cells.append("" if value is None else value)
    return cells
