"""SQL of decisions: who is listed or allowed, since when, until when and why; now and at any moment before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from sparkle_lite.db.accounts import VOUCHED
from sparkle_lite.db.connection import Connection, Row, fetch_all, fetch_one
from sparkle_lite.db.evidence.workspace import SILENT
from sparkle_lite.db.orders import Position, by_id, in_order
from sparkle_lite.net import Network, network_of
from sparkle_lite.units import DAY_MS

Kind = Literal["ip", "port", "peer_id", "client_name", "script"]
Action = Literal["deny", "allow"]
State = Literal["active", "held", "shadow"]
EndReason = Literal["withdrawn", "superseded", "refused", "pardoned"]


class New(NamedTuple):
    """A decision that is about to begin. `network` belongs to kind "ip", `text` to all others; times in ms.

    `decisive` are the users (row ids) without any one of whom it would not be listed; `vouched` says whether somebody
    for whom an administrator vouches saw what it rests on (None: nobody had to). Neither is shown to anybody.
    """

    kind: Kind
    network: Network | None
    text: str | None
    action: Action
    state: State
    origin: str
    category: str
    code: str
    numbers: Mapping[str, int | float] = MappingProxyType({})
    evidence: Mapping[str, Any] = MappingProxyType({})
    held_for: str | None = None
    note: str | None = None
    expires_at: int | None = None
    decisive: Sequence[int] = ()
    vouched: bool | None = None


class Decision(NamedTuple):
    """A decision as it is stored. `state` is what it began as; `ends_at` is None while nothing will end it."""

    id: int
    kind: Kind
    network: Network | None
    text: str | None
    action: Action
    state: State
    origin: str
    category: str
    code: str
    numbers: Mapping[str, int | float]
    evidence: Mapping[str, Any]
    held_for: str | None
    note: str | None
    created_at: int
    expires_at: int | None
    ended_at: int | None
    end_reason: EndReason | None

    @property
    def ends_at(self) -> int | None:
        """When it was ended or else expires."""
        return self.expires_at if self.ended_at is None else self.ended_at

    def state_at(self, at: int) -> str:
        """The state at a moment at which it had begun: active, held, shadow, expired, or why it was ended."""
        if self.ended_at is not None and self.ended_at <= at:
            return str(self.end_reason)
        return "expired" if self.expires_at is not None and self.expires_at <= at else self.state


class Served(NamedTuple):
    """What publishing needs of a decision that is in force; `numbers` is still JSON."""

    id: int
    kind: Kind
    address: bytes | None
    prefix: int | None
    text: str | None
    action: Action
    category: str
    code: str
    numbers: str
    expires_at: int | None


class DecisionFilter(NamedTuple):
    """Which decisions; None asks for nothing. `within` are those that share addresses with a network."""

    action: Action | None = None
    state: State | None = None
    origin: str | None = None
    within: Network | None = None


_COLUMNS = (
    "id, kind, address, prefix, text, action, state, origin, category, code, numbers, evidence, held_for, note,"
    " created_at, expires_at, ended_at, end_reason"
)
_SELECT = f"SELECT {_COLUMNS} FROM decision"
# What isn't over: its ids first and then the rows in their order. Left to itself SQLite walks the whole log, which is
# many times as long, whenever the rows shall come by id.
_STANDING = "id IN (SELECT id FROM decision WHERE ends_at>?)"
# A listing `d` that took the place of the same one.
_IS_RENEWED = (
    "EXISTS (SELECT 1 FROM decision o WHERE o.address IS d.address AND o.prefix IS d.prefix AND o.text IS d.text"
    " AND o.origin=d.origin AND o.state='active' AND o.end_reason='superseded' AND o.ended_at=d.created_at)"
)


# A long list is a hundred thousand of them.
_from_json, _to_json = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


def _as_json(value: object) -> str:
    return _to_json(value).decode()


def _decision(row: Row) -> Decision:
    decision_id, kind, address, prefix, text, *middle, numbers, evidence, held_for, note = row[:14]
    network = None if address is None else Network(address, prefix)
    read = (_from_json(numbers), _from_json(evidence))
    return Decision._make((decision_id, kind, network, text, *middle, *read, held_for, note, *row[14:]))


def decisions(rows: Iterable[Row]) -> list[Decision]:
    """The rows of a query, read. Takes 5 µs each: many are better read off the event loop."""
    return [_decision(row) for row in rows]


async def revision(connection: Connection) -> int:
    """A number that changes with every change of the decisions."""
    row = await fetch_one(connection, "SELECT number FROM decision_revision")
    return int(row[0]) if row else 0


async def begin(connection: Connection, new: Sequence[New], now_ms: int) -> list[int]:
    """Begin decisions; their ids, in order."""
    row = await fetch_one(connection, "SELECT coalesce(max(id), 0) FROM decision")
    first = (int(row[0]) if row else 0) + 1
    await connection.executemany(
        f"INSERT INTO decision ({_COLUMNS}, decisive, vouched) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,NULL,NULL,?,?)",
        (_values(decision_id, decision, now_ms) for decision_id, decision in enumerate(new, first)),
    )
    await _changed(connection)
    return list(range(first, first + len(new)))


def _values(decision_id: int, new: New, now_ms: int) -> tuple[Any, ...]:
    address, prefix = (None, None) if new.network is None else new.network
    numbers, evidence = _as_json(dict(new.numbers)), _as_json(dict(new.evidence))
    head = (decision_id, new.kind, address, prefix, new.text, new.action, new.state, new.origin, new.category, new.code)
    decisive = _as_json(list(new.decisive))
    return (*head, numbers, evidence, new.held_for, new.note, now_ms, new.expires_at, decisive, new.vouched)


async def end(connection: Connection, ends: Iterable[tuple[int, EndReason]], now_ms: int) -> None:
    """End decisions (row ids); one that is over stays as it is."""
    await connection.executemany(
        "UPDATE decision SET ended_at=?1, end_reason=?2 WHERE id=?3 AND ends_at>?1",
        [(now_ms, reason, decision_id) for decision_id, reason in ends],
    )
    await _changed(connection)


async def _changed(connection: Connection) -> None:
    await connection.execute("UPDATE decision_revision SET number=number+1")


async def get(connection: Connection, decision_id: int) -> Decision | None:
    """One decision."""
    row = await fetch_one(connection, f"{_SELECT} WHERE id=?", (decision_id,))
    return _decision(row) if row else None


async def served_ids(connection: Connection, now_ms: int) -> list[int]:
    """Everything in force that isn't the operator's configuration, newest first."""
    rows = await fetch_all(
        connection,
        f"SELECT id FROM decision WHERE {_STANDING} AND state='active' AND origin<>'config' ORDER BY id DESC",
        (now_ms,),
    )
    return [decision_id for (decision_id,) in rows]


async def served(connection: Connection, ids: Sequence[int]) -> list[Row]:
    """Some decisions, each row as a Served."""
    return await fetch_all(
        connection,
        f"SELECT {', '.join(Served._fields)} FROM decision WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )


async def standing(connection: Connection, origin: str, now_ms: int) -> list[Row]:
    """The decisions of one origin that aren't over, as rows for `decisions`."""
    return await fetch_all(connection, f"{_SELECT} WHERE origin=? AND ends_at>? ORDER BY id", (origin, now_ms))


async def denied(connection: Connection, now_ms: int) -> list[Row]:
    """Everything that is listed and in force, of every origin, as rows for `decisions`, oldest first."""
    return await fetch_all(
        connection, f"{_SELECT} WHERE {_STANDING} AND action='deny' AND state='active' ORDER BY id", (now_ms,)
    )


async def allowed(connection: Connection, now_ms: int) -> list[Decision]:
    """The exceptions in force, of every origin."""
    rows = await fetch_all(
        connection, f"{_SELECT} WHERE {_STANDING} AND action='allow' AND state='active' ORDER BY id", (now_ms,)
    )
    return decisions(rows)


async def count_open(connection: Connection, now_ms: int) -> int:
    """How many decisions aren't over."""
    row = await fetch_one(connection, "SELECT count(*) FROM decision WHERE ends_at>?", (now_ms,))
    return int(row[0]) if row else 0


async def count_listed(connection: Connection, now_ms: int) -> int:
    """How many deny decisions are in force."""
    row = await fetch_one(
        connection, f"SELECT count(*) FROM decision WHERE {_STANDING} AND action='deny' AND state='active'", (now_ms,)
    )
    return int(row[0]) if row else 0


async def count_by_state(connection: Connection, now_ms: int) -> dict[tuple[str, str], int]:
    """How many deny decisions there are by origin and state."""
    rows = await fetch_all(
        connection,
        f"SELECT origin, state, count(*) FROM decision WHERE {_STANDING} AND action='deny' GROUP BY 1, 2",
        (now_ms,),
    )
    return {(origin, state): count for origin, state, count in rows}


Key = tuple[Kind, bytes | None, int | None, str | None]


async def listings_before(connection: Connection, origin: str, since_ms: int, now_ms: int) -> dict[Key, int]:
    """On how many days a listing of each target of an origin ended since then, by (kind, address, prefix, text).

    Only ends that its evidence came to by itself; several on one day are one.
    """
    rows = await fetch_all(
        connection,
        f"SELECT kind, address, prefix, text, count(DISTINCT ends_at / {DAY_MS}) FROM decision"
        " WHERE origin=? AND ends_at>=? AND ends_at<=? AND state='active'"
        " AND (end_reason IS NULL OR end_reason='withdrawn') GROUP BY 1, 2, 3, 4",
        (origin, since_ms, now_ms),
    )
    return {(kind, address, prefix, text): days for kind, address, prefix, text, days in rows}


async def refused_since(connection: Connection, origin: str, since_ms: int, now_ms: int) -> set[Key]:
    """The targets of an origin that an administrator refused since then."""
    rows = await fetch_all(
        connection,
        "SELECT DISTINCT kind, address, prefix, text FROM decision"
        " WHERE origin=? AND ends_at>? AND ends_at<=? AND end_reason='refused'",
        (origin, since_ms, now_ms),
    )
    return {(kind, address, prefix, text) for kind, address, prefix, text in rows}


async def rested_on(connection: Connection, since_ms: int, now_ms: int) -> dict[int, int]:
    """How many addresses were listed since then that would not have been without somebody, by user (row id).

    Left out are those whose word counts anyway, and listings that are only renewed.
    """
    rows = await fetch_all(
        connection,
        "SELECT j.value, count(DISTINCT d.address || d.prefix) FROM decision d, json_each(d.decisive) j"
        " WHERE d.created_at BETWEEN ? AND ? AND d.state='active' AND d.kind='ip' AND j.value NOT IN"
        f" (SELECT u.id FROM user u WHERE {VOUCHED}) AND NOT {_IS_RENEWED} GROUP BY j.value",
        (since_ms, now_ms),
    )
    return dict(rows)


class WeekOf(NamedTuple):
    """How many addresses were listed within some time, by what they rest on; a network counts as several.

    `vouched`: somebody saw it too for whom an administrator vouches; `unvouched`: nobody did.
    """

    vouched: int = 0
    unvouched: int = 0


async def listed_since(connection: Connection, since_ms: int, now_ms: int, network_counts: int) -> WeekOf:
    """How many addresses analyses listed since then, each network counting as so many."""
    row = await fetch_one(
        connection,
        "SELECT coalesce(sum(iif(vouched, weight, 0)), 0), coalesce(sum(iif(vouched, 0, weight)), 0) FROM"
        # What a vouched person saw only later rests on them from then on.
        " (SELECT max(d.vouched) AS vouched, iif(d.kind='ip' AND d.prefix=iif(length(d.address)=4, 32, 64), 1, ?)"
        " AS weight FROM decision d WHERE d.created_at BETWEEN ? AND ? AND d.state='active' AND d.vouched IS NOT NULL"
        " GROUP BY d.origin, d.kind, d.address, d.prefix, d.text"
        f" HAVING max(NOT {_IS_RENEWED}))",
        (network_counts, since_ms, now_ms),
    )
    return WeekOf(*row) if row else WeekOf()


async def vouched(connection: Connection) -> set[int]:
    """The users (row ids) whose word counts anyway."""
    return {user for (user,) in await fetch_all(connection, f"SELECT u.id FROM user u WHERE {VOUCHED}")}


async def count_voters(connection: Connection, since_ms: int) -> int:
    """How many people whose words count, and who aren't banned, had an application here since then."""
    row = await fetch_one(
        connection,
        "SELECT count(DISTINCT a.user) FROM userapp a JOIN user u ON u.id = a.user WHERE a.last_access_at>=?"
        " AND a.banned_at IS NULL AND a.deleted_at IS NULL AND u.banned_at IS NULL"
        f" AND ({VOUCHED} OR u.id IN (SELECT user FROM word WHERE value>=?))",
        (since_ms, SILENT),
    )
    return int(row[0]) if row else 0


async def around(connection: Connection, network: Network, since_ms: int, limit: int) -> list[Decision]:
    """Decisions whose network contains this one or lies within it and that aren't over since then, newest first."""
    condition, values = _sharing(network)
    rows = await fetch_all(
        connection, f"{_SELECT} WHERE {condition} AND ends_at>? ORDER BY id DESC LIMIT ?", (*values, since_ms, limit)
    )
    return decisions(rows)


def _sharing(network: Network) -> tuple[str, list[Any]]:
    """The condition for networks that contain this one or lie in it, by the index on addresses."""
    wider = [network_of(network.address, prefix) for prefix in range(network.prefix + 1)]
    pairs = ", ".join(["(?,?)"] * len(wider))
    # A row value with IN (VALUES ...) would walk the whole index.
    around = f"SELECT d.id FROM (VALUES {pairs}) w CROSS JOIN decision d ON d.address=w.column1 AND d.prefix=w.column2"
    within = "SELECT id FROM decision WHERE address>=? AND address<=? AND prefix>? AND length(address)=?"
    last = network.last.to_bytes(len(network.address), "big")
    values: list[Any] = [value for network in wider for value in network]
    values += [network.address, last, network.prefix, len(network.address)]
    return f"id IN ({around} UNION ALL {within})", values


async def named(connection: Connection, since_ms: int) -> list[Decision]:
    """Decisions on what peers say of themselves that aren't over since then, newest first."""
    rows = await fetch_all(
        connection,
        f"{_SELECT} WHERE id IN (SELECT id FROM decision WHERE text IS NOT NULL AND ends_at>?)"
        " AND kind IN ('peer_id', 'client_name') ORDER BY id DESC",
        (since_ms,),
    )
    return decisions(rows)


async def page(
    connection: Connection, wanted: DecisionFilter, at_ms: int, position: Position[int], limit: int | None = None
) -> list[Decision]:
    """Decisions that were not over at a moment, at a position (of ids), newest first; without a limit all of them."""
    conditions = ["ends_at>?", "created_at<=?"]
    values: list[Any] = [at_ms, at_ms]
    for column in ("action", "state", "origin"):
        if (value := getattr(wanted, column)) is not None:
            conditions.append(f"{column}=?")
            values.append(value)
    if wanted.within is not None:
        condition, more = _sharing(wanted.within)
        conditions.append(condition)
        values += more
    standing, key = by_id("id", position)
    sql = f"{_SELECT} WHERE {' AND '.join(conditions)} AND {standing} LIMIT ?"
    rows = await fetch_all(connection, sql, (*values, key, -1 if limit is None else limit))
    return in_order(decisions(rows), position)


class Change(NamedTuple):
    """One line of the log: a decision began or was over at a moment (ms)."""

    at: int
    ended: bool
    decision: Decision


Cursor = tuple[int, int, bool]


async def changes(connection: Connection, now_ms: int, position: Position[Cursor], limit: int) -> list[Change]:
    """The changes up to now at a position, newest first; of those of one moment and decision its end comes first."""
    at, decision_id, ended = position.key or (now_ms + 1, 0, False)
    sign, order = (">", "") if position.is_before else ("<", " DESC")
    # The one that is known has to be passed in one of the two logs only.
    began_from = (at, decision_id + 1) if ended and not position.is_before else (at, decision_id)
    over_from = (at, decision_id - 1) if not ended and position.is_before else (at, decision_id)
    log: list[Change] = []
    for column, key, is_over in (("created_at", began_from, False), ("ends_at", over_from, True)):
        sql = f"{_SELECT} WHERE {column}<=? AND ({column}, id){sign}(?,?) ORDER BY {column}{order}, id{order} LIMIT ?"
        read = decisions(await fetch_all(connection, sql, (now_ms, *key, limit)))
        log += [
            Change((decision.ends_at or 0) if is_over else decision.created_at, is_over, decision) for decision in read
        ]
    log.sort(key=lambda change: (change.at, change.decision.id, change.ended), reverse=not position.is_before)
    return in_order(log[:limit], position)


async def delete_old(connection: Connection, before_ms: int, limit: int) -> int:
    """Forget some decisions that were over long ago; how many."""
    cursor = await connection.execute(
        "DELETE FROM decision WHERE id IN (SELECT id FROM decision WHERE ends_at<? LIMIT ?)", (before_ms, limit)
    )
    return cursor.rowcount
