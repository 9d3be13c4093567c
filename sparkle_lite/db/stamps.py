"""Times that were written down by a clock that was ahead: how far they reach, and bringing them back.

What the segments hold is seen to by segments.py; this is the main database. Times that clients name are theirs, and
stay.
"""

from sparkle_lite.clock import newest_of
from sparkle_lite.db.connection import Connection, fetch_all, fetch_one
from sparkle_lite.units import DAY_MS, HOUR_MS

# Every time at which the program wrote something down, but for those of bans and their bodies.
_STAMPS = {
    "user": ("registered_at", "last_seen_at", "banned_at"),
    "userapp": ("created_at", "last_access_at", "banned_at", "deleted_at"),
    "userapp_address": ("first_seen_at", "last_seen_at"),
    "audit": ("at",),
    "client_identity": ("found_at", "last_seen_at"),
    "ban_last_report": ("received_at",),
    "review": ("asked_at", "closed_at"),
    "userapp_trouble": ("began_at", "last_at"),
    "segment": ("created_at",),
}
# What lives from a moment on lives as long from now on.
_LIVES = {"session": "created_at", "decision": "created_at"}
# These live for minutes: what ends later was made by the clock that was ahead.
_BRIEF = ("login_link", "oauth_state")


async def newest(main: Connection) -> int | None:
    """When the newest row was received that is not in a hot segment, in ms; None where there is none."""
    row = await fetch_one(
        main,
        "SELECT (SELECT max(received_at) FROM submission),"
        " (SELECT max(last_received_at) FROM segment WHERE state<>'hot')",
    )
    return newest_of(row or ())


async def mend(main: Connection, now_ms: int, ahead_ms: int) -> None:
    """Bring what was written down at a time beyond `ahead_ms` to now; in one transaction, few rows or short ones."""
    for table, columns in _STAMPS.items():
        for column in columns:
            await main.execute(f"UPDATE {table} SET {column}=? WHERE {column}>?", (now_ms, ahead_ms))
    for table, began in _LIVES.items():
        await main.execute(
            f"UPDATE {table} SET expires_at=expires_at-{began}+?1, {began}=?1 WHERE {began}>?2", (now_ms, ahead_ms)
        )
    changed = await main.execute("UPDATE decision SET ended_at=? WHERE ended_at>?", (now_ms, ahead_ms))
    if changed.rowcount:
        await main.execute("UPDATE decision_revision SET number=number+1")
    for table in _BRIEF:
        await main.execute(f"DELETE FROM {table} WHERE expires_at>?", (now_ms + DAY_MS,))
    await main.execute("DELETE FROM activity WHERE hour>?", (now_ms // HOUR_MS,))


async def mend_bans(main: Connection, now_ms: int, ahead_ms: int, limit: int) -> int:
    """Bring some bodies with bans and their bans to now; how many bodies there were, at most about `limit`."""
    rows = await fetch_all(
        main, "SELECT received_at FROM submission WHERE received_at>? ORDER BY received_at LIMIT ?", (ahead_ms, limit)
    )
    if not rows:
        return 0
    # A ban has the time of its body, by which the two are found together.
    until = rows[-1][0]
    for table in ("ban", "submission"):
        await main.execute(
            f"UPDATE {table} SET received_at=? WHERE received_at>? AND received_at<=?", (now_ms, ahead_ms, until)
        )
    return len(rows)
