"""Segments that are written anew: without the rows of somebody, or with times that were mended."""

import asyncio
import json
import sqlite3
from pathlib import Path

from sparkle_lite.db.connection import (
    Connection,
    Synchronous,
    absolute,
    connect,
    fetch_all,
    fetch_one,
    migrate,
    refused,
    remove_file,
    sync_folder,
    transaction,
)
from sparkle_lite.db.segments import (
    COLUMNS,
    SegmentRow,
    file_size,
    leave_log,
    make_indexes,
    segment_path,
)
from sparkle_lite.units import INT64_MAX

# Among the settings: what the segment holds that is being replaced.
_REWRITTEN = "segment_rewritten"


async def rewrite(
    folder: Path, segment: SegmentRow, synchronous: Synchronous, *, without: int | None = None, until: int = INT64_MAX
) -> SegmentRow:
    """Write a closed segment anew beside itself, indexed, and say what it holds then; `replace` puts it in its place.

    It leaves out the bodies and rows of one application (`without`), and nothing in it was received after `until`.
    The rows that stay keep their order and stand without a gap, as searches rely on.
    """
    path, fresh = segment_path(folder, segment.kind, segment.id), rewritten_path(folder, segment)
    await asyncio.to_thread(remove_file, fresh)
    connection = await connect(fresh, synchronous=synchronous, cache_kib=32768)
    names = ", ".join(COLUMNS[segment.kind])
    try:
        await migrate(connection, fresh, segment.kind)
        with refused("write", fresh):
            await connection.execute("ATTACH ? AS old", (f"{absolute(path).as_uri()}?mode=ro",))
            # It is of the same database.
            stamp = await fetch_one(connection, "PRAGMA old.application_id")
            await fetch_all(connection, f"PRAGMA application_id={stamp[0] if stamp else 0:d}")
            async with transaction(connection):
                await connection.execute(
                    "INSERT INTO submission SELECT id, min(received_at, ?), userapp, address, populate_time, digest,"
                    " rows, rejected FROM old.submission WHERE userapp IS NOT ?",
                    (until, without),
                )
                await connection.execute(
                    f"INSERT INTO {segment.kind} ({names}) SELECT {names} FROM old.{segment.kind} s"
                    " WHERE submission IN (SELECT id FROM main.submission) ORDER BY s.id"
                )
            await connection.execute("DETACH old")
            rows, submissions, first, last = (
                await fetch_one(
                    connection,
                    f"SELECT (SELECT count(*) FROM {segment.kind}), count(*), min(received_at), max(received_at)"
                    " FROM submission",
                )
            ) or (0, 0, None, None)
        await make_indexes(connection, segment.kind, rows)
        await leave_log(connection)
    except BaseException:
        await connection.close()
        await asyncio.to_thread(remove_file, fresh)
        raise
    await connection.close()
    return segment._replace(
        state="indexed",
        rows=rows,
        submissions=submissions,
        first_received_at=first,
        last_received_at=last,
        bytes=file_size(fresh),
    )


def rewritten_path(folder: Path, segment: SegmentRow) -> Path:
    """The file that is to take a segment's place."""
    path = segment_path(folder, segment.kind, segment.id)
    return path.with_name(f"{path.name}.rewritten")


def discard_rewritten(folder: Path, segment: SegmentRow) -> None:
    """Remove what `rewrite` made."""
    remove_file(rewritten_path(folder, segment))


async def announce(main: Connection, rewritten: SegmentRow) -> None:
    """Note that what `rewrite` made is whole: from here on it takes the segment's place, whatever crashes."""
    await main.execute("INSERT OR REPLACE INTO setting VALUES (?,?)", (_REWRITTEN, json.dumps(rewritten)))


def announced(main: sqlite3.Connection) -> SegmentRow | None:
    """The segment that is being replaced, if one is, on a connection of a thread of its own."""
    row = main.execute("SELECT value FROM setting WHERE name=?", (_REWRITTEN,)).fetchone()
    return None if row is None else SegmentRow(*json.loads(row[0]))


def replace(folder: Path, rewritten: SegmentRow) -> None:
    """Put a segment that was written anew in its place; who has the old file open reads on in that."""
    path, fresh = segment_path(folder, rewritten.kind, rewritten.id), rewritten_path(folder, rewritten)
    # A log of the old file would be taken for one of the new.
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(folder)


async def enter(main: Connection, rewritten: SegmentRow) -> None:
    """Write into the catalogue what a segment holds that was replaced."""
    await main.execute(
        "UPDATE segment SET state=?, rows=?, submissions=?, first_received_at=?, last_received_at=?, bytes=?"
        " WHERE id=?",
        (
            rewritten.state,
            rewritten.rows,
            rewritten.submissions,
            rewritten.first_received_at,
            rewritten.last_received_at,
            rewritten.bytes,
            rewritten.id,
        ),
    )
    await main.execute("DELETE FROM setting WHERE name=?", (_REWRITTEN,))


async def finish_rewriting(main: Connection, folder: Path) -> None:
    """After a crash: have a segment that was written anew take its place, and remove what was begun only."""
    row = await fetch_one(main, "SELECT value FROM setting WHERE name=?", (_REWRITTEN,))
    if row is not None:
        rewritten = SegmentRow(*json.loads(row[0]))
        if await asyncio.to_thread(rewritten_path(folder, rewritten).exists):
            await asyncio.to_thread(replace, folder, rewritten)
        async with transaction(main):
            await enter(main, rewritten)
    for left in await asyncio.to_thread(lambda: list(folder.glob("*-????????.db.rewritten"))):
        await asyncio.to_thread(remove_file, left)
