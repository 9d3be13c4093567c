"""SQL of what is wrong with what applications send: at most one row for each subject of an application."""

from collections.abc import Iterable
from typing import NamedTuple

from sparkle_lite.db.connection import Connection, fetch_all


class TroubleRow(NamedTuple):
    """What is wrong with one thing that an application sends. `details` is JSON; times in ms."""

    userapp: int
    subject: str
    code: str
    details: str
    began_at: int
    last_at: int


async def all_rows(connection: Connection) -> list[TroubleRow]:
    """Every row, by application."""
    sql = f"SELECT {', '.join(TroubleRow._fields)} FROM userapp_trouble ORDER BY userapp, subject"
    return [TroubleRow(*row) for row in await fetch_all(connection, sql)]


async def put(connection: Connection, rows: Iterable[TroubleRow]) -> None:
    """Add rows, each in the place of the one on the same subject."""
    await connection.executemany("INSERT OR REPLACE INTO userapp_trouble VALUES (?,?,?,?,?,?)", rows)


async def remove(connection: Connection, keys: Iterable[tuple[int, str]]) -> None:
    """Delete rows by application and subject."""
    await connection.executemany("DELETE FROM userapp_trouble WHERE userapp=? AND subject=?", keys)


async def forget(connection: Connection, userapps: Iterable[int]) -> None:
    """Delete all rows of some applications."""
    await connection.executemany("DELETE FROM userapp_trouble WHERE userapp=?", [(number,) for number in userapps])
