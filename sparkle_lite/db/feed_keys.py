"""SQL of the read-only keys for the feeds."""

from collections.abc import Mapping
from typing import NamedTuple

from sparkle_lite.db.connection import Connection, fetch_all, fetch_one
from sparkle_lite.units import INT64_MAX


class FeedKeyRow(NamedTuple):
    """A key as it is shown to people: `user` made it (None: the command line). Times in ms, `used_at` roughly."""

    id: int
    name: str
    user: int | None
    created_at: int
    used_at: int | None


class OwnedKey(NamedTuple):
    """A key and the name of who made it, None for the command line."""

    row: FeedKeyRow
    owner: str | None


class FeedKeyOwner(NamedTuple):
    """What it takes to let a key in or to refuse it: `user_banned_reason` is None unless its owner is banned."""

    id: int
    user: int | None
    user_banned_reason: str | None


_KEY = f"SELECT {', '.join(FeedKeyRow._fields)} FROM feed_key"
_OWNED = (
    f"SELECT {', '.join(f'k.{name}' for name in FeedKeyRow._fields)}, u.name"
    " FROM feed_key k LEFT JOIN user u ON u.id = k.user"
)


async def owners(connection: Connection) -> dict[bytes, FeedKeyOwner]:
    """Every key by its hash."""
    rows = await fetch_all(
        connection,
        "SELECT k.hash, k.id, k.user, CASE WHEN u.banned_at IS NOT NULL THEN coalesce(u.banned_reason, '') END"
        " FROM feed_key k LEFT JOIN user u ON u.id = k.user",
    )
    return {row[0]: FeedKeyOwner(*row[1:]) for row in rows}


async def of_owner(connection: Connection, user: int | None) -> list[FeedKeyRow]:
    """The keys of one owner, newest first."""
    rows = await fetch_all(connection, f"{_KEY} WHERE user IS ? ORDER BY created_at DESC, id DESC", (user,))
    return [FeedKeyRow(*row) for row in rows]


async def page(connection: Connection, page: int, size: int) -> list[OwnedKey]:
    """One page of all keys, newest first, with their owners; pages count from 0."""
    rows = await fetch_all(
        connection,
        f"{_OWNED} ORDER BY k.created_at DESC, k.id DESC LIMIT ? OFFSET ?",
        (size, min(page * size, INT64_MAX)),
    )
    return [OwnedKey(FeedKeyRow(*row[:-1]), row[-1]) for row in rows]


async def count(connection: Connection) -> int:
    """How many keys there are."""
    row = await fetch_one(connection, "SELECT count(*) FROM feed_key")
    return int(row[0]) if row else 0


async def by_id(connection: Connection, key_id: int) -> FeedKeyRow | None:
    """A key by row id."""
    row = await fetch_one(connection, f"{_KEY} WHERE id=?", (key_id,))
    return FeedKeyRow(*row) if row else None


async def by_hash(connection: Connection, key_hash: bytes) -> FeedKeyRow | None:
    """A key by its hash."""
    row = await fetch_one(connection, f"{_KEY} WHERE hash=?", (key_hash,))
    return FeedKeyRow(*row) if row else None


async def called(connection: Connection, name: str) -> list[OwnedKey]:
    """The keys of this name, one for an owner at the most, with their owners."""
    rows = await fetch_all(connection, f"{_OWNED} WHERE k.name=? ORDER BY k.id", (name,))
    return [OwnedKey(FeedKeyRow(*row[:-1]), row[-1]) for row in rows]


async def add(connection: Connection, name: str, key_hash: bytes, *, user: int | None, now_ms: int) -> FeedKeyRow:
    """Add a key."""
    cursor = await connection.execute(
        "INSERT INTO feed_key (name, hash, user, created_at) VALUES (?,?,?,?)", (name, key_hash, user, now_ms)
    )
    return FeedKeyRow(id=int(cursor.lastrowid or 0), name=name, user=user, created_at=now_ms, used_at=None)


async def delete(connection: Connection, key_id: int) -> None:
    """Delete a key; it is void at once."""
    await connection.execute("DELETE FROM feed_key WHERE id=?", (key_id,))


async def set_used(connection: Connection, used: Mapping[int, int]) -> None:
    """Note when keys (row ids) were used last (ms)."""
    await connection.executemany(
        "UPDATE feed_key SET used_at=max(coalesce(used_at, 0), ?) WHERE id=?", [(at, key) for key, at in used.items()]
    )
