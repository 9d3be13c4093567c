"""SQL of reviews: the addresses that people asked the administrators to look at."""

from typing import NamedTuple

from sparkle_lite.db.connection import Connection, fetch_all, fetch_one
from sparkle_lite.db.orders import Position, by_id, in_order


class NewReview(NamedTuple):
    """What somebody asks. `is_own`: the request came from that address; `user` is who was signed in, if anybody."""

    address: bytes
    asked_at: int
    is_own: bool
    user: int | None
    listed: bool
    message: str
    contact: str


class Review(NamedTuple):
    """A request as it is stored, with the name of whoever was signed in and of who closed it; times in ms."""

    id: int
    address: bytes
    asked_at: int
    is_own: int
    user: str | None
    listed: int
    message: str
    contact: str
    closed_at: int | None
    closed_by: str | None
    note: str | None


_SELECT = (
    "SELECT r.id, r.address, r.asked_at, r.is_own, u.name, r.listed, r.message, r.contact, r.closed_at, c.name, r.note"
    " FROM review r LEFT JOIN user u ON u.id=r.user LEFT JOIN user c ON c.id=r.closed_by"
)


async def add(connection: Connection, review: NewReview) -> int:
    """Store a request; its id."""
    names = ", ".join(NewReview._fields)
    cursor = await connection.execute(f"INSERT INTO review ({names}) VALUES (?,?,?,?,?,?,?)", review)
    return cursor.lastrowid or 0


async def count_open(connection: Connection, address: bytes | None = None) -> int:
    """How many requests wait, about all addresses or one."""
    condition, values = ("", ()) if address is None else (" AND address=?", (address,))
    row = await fetch_one(connection, f"SELECT count(*) FROM review WHERE closed_at IS NULL{condition}", values)
    return int(row[0]) if row else 0


async def page(connection: Connection, is_open: bool, position: Position[int], limit: int) -> list[Review]:
    """Requests that wait, or that are closed, at a position (of ids), the newest first."""
    standing, key = by_id("r.id", position)
    sql = f"{_SELECT} WHERE r.closed_at IS {'' if is_open else 'NOT '}NULL AND {standing} LIMIT ?"
    rows = await fetch_all(connection, sql, (key, limit))
    return in_order([Review(*row) for row in rows], position)


async def close(connection: Connection, review_id: int, user: int | None, note: str, now_ms: int) -> bytes | None:
    """Close a request that waits; its address, None if there is none."""
    rows = await fetch_all(
        connection,
        "UPDATE review SET closed_at=?, closed_by=?, note=? WHERE id=? AND closed_at IS NULL RETURNING address",
        (now_ms, user, note, review_id),
    )
    return bytes(rows[0][0]) if rows else None


async def delete_old(connection: Connection, closed_before_ms: int, limit: int) -> None:
    """Forget some requests that were closed long ago."""
    await connection.execute(
        "DELETE FROM review WHERE id IN (SELECT id FROM review WHERE closed_at<? LIMIT ?)", (closed_before_ms, limit)
    )
