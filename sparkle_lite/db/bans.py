"""SQL of bans, which live in the main database: few, long-lived, and looked at from every side."""

from collections.abc import Sequence
from typing import Any

from sparkle_lite.db.connection import Connection, fetch_all
from sparkle_lite.db.segments import SubmissionRow

BAN_COLUMNS = (
    "submission",
    "received_at",
    "userapp",
    "ban_at",
    "peer_ip",
    "peer_port",
    "client",
    "torrent",
    "from_peer_traffic",
    "from_peer_traffic_speed",
    "to_peer_traffic",
    "to_peer_traffic_speed",
    "peer_progress",
    "downloader_progress",
    "flags",
    "btn_ban",
    "module",
    "rule",
    "description",
    "ban_unique_id",
    "structured_data",
    "dedupe",
)
# One value more than there are columns: the same ban received after that instant makes this one a duplicate.
_INSERT = (
    f"INSERT INTO ban ({', '.join(BAN_COLUMNS)}) SELECT {', '.join(f'?{n + 1}' for n in range(len(BAN_COLUMNS)))}"
    f" WHERE NOT EXISTS (SELECT 1 FROM ban WHERE dedupe=?{len(BAN_COLUMNS)} AND received_at>=?{len(BAN_COLUMNS) + 1})"
)


async def last_submission(connection: Connection) -> int:
    """The highest id of a body with bans."""
    rows = await fetch_all(connection, "SELECT coalesce(max(id), 0) FROM submission")
    return int(rows[0][0])


async def add_bans(connection: Connection, rows: Sequence[Sequence[Any]], submissions: Sequence[SubmissionRow]) -> int:
    """Insert bans and the bodies they came in; returns how many were new.

    Each row holds the values of BAN_COLUMNS and then the instant (ms) back to which an equal `dedupe` counts.
    """
    await connection.executemany("INSERT INTO submission VALUES (?,?,?,?,?,?,?,?)", submissions)
    cursor = await connection.executemany(_INSERT, rows)
    return cursor.rowcount


async def recent_digests(connection: Connection, since_ms: int, limit: int) -> list[tuple[int, bytes]]:
    """(received_at, digest) of bodies with bans received since, oldest first, at most `limit` of the newest."""
    sql = "SELECT received_at, digest FROM submission WHERE received_at>=? ORDER BY received_at DESC LIMIT ?"
    return [(row[0], row[1]) for row in reversed(await fetch_all(connection, sql, (since_ms, limit)))]


async def delete_old(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete some bans received before, and some of the bodies that they came in; how many of either at the most."""
    gone = 0
    for table in ("ban", "submission"):
        cursor = await connection.execute(
            f"DELETE FROM {table} WHERE id IN"
            f" (SELECT id FROM {table} WHERE received_at<? ORDER BY received_at LIMIT ?)",
            (before_ms, limit),
        )
        gone = max(gone, cursor.rowcount)
    return gone


async def give_back_space(connection: Connection, pages: int) -> bool:
    """Return some free pages of the main database to the file system; whether there are more.

    Outside of a transaction: the pragma frees a page at each step, and the driver only steps a script to its end.
    """
    await connection.executescript(f"PRAGMA incremental_vacuum({pages})")
    rows = await fetch_all(connection, "PRAGMA freelist_count")
    return bool(rows[0][0])
