"""Rows as people are shown them: an observation with everything that it refers to."""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from sparkle_lite.db.conditions import LAST_REPORTED_AT, Table

Fetch = Callable[[str, Sequence[Any]], list[Any]]


class Person(NamedTuple):
    """The part of a user that others may be shown. Times in ms."""

    id: int
    nickname: str
    avatar: str | None
    registered_at: int
    last_seen_at: int | None


class Observed(Struct, gc=False):
    """One stored row. `id` counts through all segments; addresses are bytes, times in ms, -1 is unknown.

    A torrent's identifier is 32 bytes or text as sent, its size in bytes, private 1, public 0 or unknown -1;
    `torrent_big_endian`: the identifier was made in the byte order in which the same torrent has another one.
    """

    id: int
    submission: bytes
    received_at: int
    populate_time: int | None
    app_id: str
    user: int
    peer_id: str
    peer_client_name: str
    torrent: int
    torrent_identifier: bytes | str
    torrent_size: int
    torrent_private: int
    torrent_big_endian: int
    flags: str | None
    peer_ip: bytes
    peer_port: int
    from_peer_traffic: int
    from_peer_traffic_speed: int
    to_peer_traffic: int
    to_peer_traffic_speed: int
    peer_progress: float | None
    downloader_progress: float | None


class ObservedBan(Observed, gc=False):
    """A ban; times are those of its first report, but `last_reported_at`, which is when the last one was received."""

    module: str
    btn_ban: int
    rule: str | None
    description: str | None
    ban_unique_id: str | None
    ban_at: int | None
    structured_data: str | None
    last_reported_at: int


class ObservedSwarm(Observed, gc=False):
    """The version of a cumulative row that counts; `origin` 0 is a history, 1 a swarm.

    `first_time_seen` is the smallest of all versions.
    """

    downloader: str | None
    origin: int
    from_peer_traffic_offset: int
    from_peer_traffic_speed_max: int
    to_peer_traffic_offset: int
    to_peer_traffic_speed_max: int
    first_time_seen: int | None
    last_time_seen: int | None


class Discovered(Struct, kw_only=True, gc=False):
    """A client identity, and who saw it first and last; times in ms."""

    id: int
    peer_id: str
    client_name: str
    found_at: int
    found_by: Person | None
    last_seen_at: int
    last_seen_by: Person | None


_TYPES: dict[Table, type[Observed]] = {"snapshot": Observed, "ban": ObservedBan, "swarm": ObservedSwarm}
# The columns of a row that need no look-up: the fields from `peer_ip` on, without a label of the table's own.
_OWN_LABEL: dict[Table, str] = {"ban": "module", "swarm": "downloader"}
_FIRST = Observed.__struct_fields__.index("peer_ip")
_COMMON = Observed.__struct_fields__[_FIRST:]
_PLAIN: dict[Table, tuple[str, ...]] = {
    table: tuple(name for name in kind.__struct_fields__[_FIRST:] if name != _OWN_LABEL.get(table))
    for table, kind in _TYPES.items()
}
# Values that are no column of the row's own table.
_ELSEWHERE = {"last_reported_at": LAST_REPORTED_AT}
# What a label is that a row doesn't have.
_NOTHING = (None,)
_REFERENCES = "s.id, sub.digest, sub.received_at, sub.populate_time, sub.userapp, s.client, s.torrent, s.flags"


def observed(
    table: Table, source: str, ids: Sequence[int], first: int, *, fetch: Fetch, fetch_main: Fetch
) -> list[Observed]:
    """The rows of one source (a table's name) by their numbers there; `first` is the public id of number 1.

    `fetch` reads the source and `fetch_main` the main database as `m`. In no particular order.
    """
    label = _OWN_LABEL.get(table)
    plain = (_ELSEWHERE.get(name, f"s.{name}") for name in _PLAIN[table])
    what = ", ".join((_REFERENCES, f"s.{label}" if label else "NULL", *plain))
    rows = fetch(
        f"SELECT {what} FROM {source} s"
        f" CROSS JOIN {source.removesuffix(table)}submission sub ON sub.id=s.submission"
        " WHERE s.id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    )
    userapps = _entries(fetch_main, "userapp", "app_id, user", {row[4] for row in rows})
    clients = _entries(fetch_main, "client_identity", "peer_id, client_name", {row[5] for row in rows})
    torrents = _entries(fetch_main, "torrent", "identifier, size, private, big_endian", {row[6] for row in rows})
    labels = _entries(fetch_main, "label", "text", {number for row in rows for number in row[7:9]})
    before, common = first - 1, 9 + len(_COMMON)
    values = (
        (
            row[0] + before,
            *row[1:4],
            *userapps[row[4]],
            *clients[row[5]],
            row[6],
            *torrents[row[6]],
            *labels.get(row[7], _NOTHING),
            *row[9:common],
            *((*labels.get(row[8], _NOTHING), *row[common:]) if label else ()),
        )
        for row in rows
    )
    # In the order of the fields: naming twenty of each of thousands of rows takes twice as long.
    return list(itertools.starmap(_TYPES[table], values))


def _entries(fetch: Fetch, table: str, names: str, ids: set[int | None]) -> dict[int | None, tuple[Any, ...]]:
    wanted = [number for number in ids if number is not None]
    if not wanted:
        return {}
    sql = f"SELECT id, {names} FROM m.{table} WHERE id IN (SELECT value FROM json_each(?))"
    return {row[0]: row[1:] for row in fetch(sql, (json.dumps(wanted),))}


def discovered(ids: Sequence[int], fetch_main: Fetch) -> list[Discovered]:
    """Client identities by id, in no particular order."""
    rows = fetch_main(
        "SELECT id, peer_id, client_name, found_at, found_by, last_seen_at, last_seen_by FROM m.client_identity"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    )
    owners = _entries(fetch_main, "userapp", "user", {number for row in rows for number in (row[4], row[6])})
    people = _entries(
        fetch_main,
        "user",
        "id, coalesce(nickname, name), avatar, registered_at, last_seen_at",
        {user for (user,) in owners.values()},
    )

    def person(userapp: int) -> Person | None:
        (user,) = owners.get(userapp, _NOTHING)
        return Person(*people[user]) if user in people else None

    return [
        Discovered(
            id=row[0],
            peer_id=row[1],
            client_name=row[2],
            found_at=row[3],
            found_by=person(row[4]),
            last_seen_at=row[5],
            last_seen_by=person(row[6]),
        )
        for row in rows
    ]
