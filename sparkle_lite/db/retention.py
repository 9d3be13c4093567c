"""Letting go of what is old: whole segments, bans in small steps, and dictionary entries that nothing refers to."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparkle_lite.db import segments
from sparkle_lite.db.connection import Connection, absolute, connect, fetch_all, fetch_one, refused
from sparkle_lite.db.segments import Kind, SegmentRow, segment_path

# (table, its column in a segment or ban)
_REFERENCES = {
    "torrent": ("torrent",),
    "client_identity": ("client",),
    "label": ("flags", "downloader", "module"),
}
# What of an entry stands in its table and in the index, and what each takes besides.
_TEXTS = {
    "torrent": "length(identifier)",
    "client_identity": "length(CAST(peer_id AS BLOB))+length(CAST(client_name AS BLOB))",
    "label": "length(CAST(text AS BLOB))",
}
_ENTRY_BYTES = 50
_SEGMENT_COLUMNS = {kind: set(segments.columns(kind)) for kind in segments.KINDS}


async def expired(main: Connection, kind: Kind, before_ms: int) -> list[SegmentRow]:
    """The segments of a kind whose newest row was received before; never the hot one."""
    return await segments.catalogue(main, "kind=? AND state<>'hot' AND last_received_at<?", (kind, before_ms))


async def stored_bytes(main: Connection) -> int:
    """Bytes of all segments that are not written to any more."""
    row = await fetch_one(main, "SELECT coalesce(sum(bytes), 0) FROM segment WHERE state<>'hot'")
    return int(row[0]) if row else 0


async def unreferenced(path: Path, folder: Path) -> dict[str, list[int]]:
    """Ids of dictionary entries that no segment and no ban refers to, by table.

    Reads everything on a connection of its own, one segment at a time; only the ids in use are held, in SQLite's
    temporary storage.
    """
    connection = await connect(path)
    try:
        with refused("read", path):
            for table in _REFERENCES:
                await connection.execute(f"CREATE TEMP TABLE used_{table} (id INTEGER PRIMARY KEY)")
            await connection.execute("PRAGMA query_only=OFF")
            for statement in _uses("main", "ban", ("torrent", "client", "flags", "module")):
                await connection.execute(statement)
            for segment in await segments.catalogue(connection):
                file = segment_path(folder, segment.kind, segment.id)
                if not await asyncio.to_thread(file.exists):
                    continue  # Retention was quicker.
                await connection.execute("ATTACH ? AS seg", (f"{absolute(file).as_uri()}?mode=ro",))
                for statement in _uses("seg", segment.kind, sorted(_SEGMENT_COLUMNS[segment.kind])):
                    await connection.execute(statement)
                await connection.execute("DETACH seg")
            return {
                table: [
                    row[0]
                    for row in await fetch_all(
                        connection, f"SELECT id FROM {table} WHERE id NOT IN (SELECT id FROM used_{table})"
                    )
                ]
                for table in _REFERENCES
            }
    finally:
        await connection.close()


def _uses(database: str, table: str, present: Sequence[str]) -> Iterator[str]:
    for dictionary, columns in _REFERENCES.items():
        for column in columns:
            if column in present:
                yield (
                    f"INSERT OR IGNORE INTO used_{dictionary}"
                    f" SELECT DISTINCT {column} FROM {database}.{table} WHERE {column} IS NOT NULL"
                )


async def entry_bytes(main: Connection) -> int:
    """About how many bytes the entries of the dictionaries take, with their indexes."""
    total = 0
    for table, text in _TEXTS.items():
        row = await fetch_one(main, f"SELECT count(*)*{_ENTRY_BYTES}+coalesce(sum(2*({text})), 0) FROM {table}")
        total += int(row[0]) if row else 0
    return total


async def delete_entries(main: Connection, table: str, ids: Sequence[int]) -> None:
    """Delete dictionary entries by id."""
    if table not in _REFERENCES:
        raise ValueError(table)
    await main.executemany(f"DELETE FROM {table} WHERE id=?", [(number,) for number in ids])


async def delete_old_addresses(main: Connection, before_ms: int, limit: int) -> int:
    """Forget some addresses that applications came from before; how many went."""
    cursor = await main.execute(
        "DELETE FROM userapp_address WHERE (userapp, address) IN"
        " (SELECT userapp, address FROM userapp_address WHERE last_seen_at<? LIMIT ?)",
        (before_ms, limit),
    )
    return cursor.rowcount
